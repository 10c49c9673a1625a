"""`NodeOptions`: what a DICOM node needs to know, made from the settings of `serve.toml`."""

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kneegrade.imaging.limits import MEBIBYTE
from kneegrade.server.node.node_limits import NodeLimits
from kneegrade.server.tls import server_tls


class TlsSettings(Protocol):
    """The section `[node.tls]`."""

    @property
    def certificate(self) -> Path:
        """File with the certificate of the node."""

    @property
    def key(self) -> Path | None:
        """Its private key."""

    @property
    def clients(self) -> Path | None:
        """Authorities of the clients."""


class NodeSettings(Protocol):
    """The section `[node]`; the meaning of its keys is documented with the settings."""

    @property
    def address(self) -> str: ...  # noqa: D102
    @property
    def port(self) -> int: ...  # noqa: D102
    @property
    def title(self) -> str: ...  # noqa: D102
    @property
    def associations(self) -> int: ...  # noqa: D102
    @property
    def connections(self) -> int: ...  # noqa: D102
    @property
    def connections_per_address(self) -> int: ...  # noqa: D102
    @property
    def object_mib(self) -> int: ...  # noqa: D102
    @property
    def pdu_kib(self) -> int: ...  # noqa: D102
    @property
    def calling(self) -> Mapping[str, Sequence[str]]: ...  # noqa: D102
    @property
    def tls(self) -> TlsSettings | None: ...  # noqa: D102


@dataclass(frozen=True)
class NodeOptions:
    """Options of a `Node`.

    Attributes:
        title: its AE title, which callers must name.
        address: on which it listens.
        port: on which it listens; 0: one that the system chooses.
        calling: AE titles that may call, with the addresses or networks from which each may call; no addresses: from
            all. No titles: every title.
        tls: the context of TLS, or None.
        limits: what peers may use.
    """

    title: str = "KNEEGRADE"
    address: str = "127.0.0.1"
    port: int = 0
    calling: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    limits: NodeLimits = NodeLimits()  # noqa: RUF009

    @classmethod
    def of(cls, settings: NodeSettings) -> "NodeOptions":
        """The options in the section `[node]`.

        Raises:
            UsageError: the files of TLS cannot be used.
        """
        limits = NodeLimits(
            associations=settings.associations,
            connections=max(settings.connections, settings.associations),
            connections_per_address=settings.connections_per_address,
            pdu_bytes=settings.pdu_kib * 1024,
            film_bytes=settings.object_mib * MEBIBYTE,
        )
        tls = settings.tls
        context = None if tls is None else server_tls("node.tls", tls.certificate, tls.key, tls.clients)
        return cls(settings.title, settings.address, settings.port, settings.calling, context, limits)

"""Where results are sent: the `[[destination]]` sections of serve.toml, one model per `kind`.

A secret is never a value of a setting. `token` names a file that holds it, so that serve.toml can be shown and kept in
version control.
"""

import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from kneegrade.clinical import OBJECT_FORMATS

DicomObject = Literal["sr", "gsps", "sc"]
DICOM_OBJECTS: Final[tuple[DicomObject, ...]] = ("sr", "gsps", "sc")
_VARIABLE: Final = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def expanded(path: Any) -> Any:
    """The path with its environment variables, such as $CREDENTIALS_DIRECTORY, replaced.

    Raises:
        ValueError: a variable is not set.
    """
    if not isinstance(path, str):
        return path
    for match in _VARIABLE.finditer(path):
        if (match[1] or match[2]) not in os.environ:
            raise ValueError(f"the environment variable {match[1] or match[2]} is not set")
    return _VARIABLE.sub(lambda match: os.environ[match[1] or match[2]], path)


def is_loopback(host: str | None) -> bool:
    """Whether a host name or address is this computer."""
    try:
        return ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"


def _checked_title(title: str) -> str:
    if not title.strip() or any(not " " <= letter <= "~" or letter == "\\" for letter in title):
        raise ValueError("an AE title has 1 to 16 printable ASCII characters without backslash")
    return title


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected a URL that begins with https:// and names a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL must not contain a user or password; put the secret into a file, and name it as token")
    if parts.query or parts.fragment:
        raise ValueError("a URL of a service has no query and no fragment")
    return url.rstrip("/")


SettingsPath = Annotated[Path, BeforeValidator(expanded)]
AeTitle = Annotated[str, Field(min_length=1, max_length=16), AfterValidator(_checked_title)]
ServiceUrl = Annotated[str, AfterValidator(_checked_url)]
DestinationName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]


class DestinationSection(BaseModel):
    """Base of the sections: immutable, unknown keys forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class TlsSettings(DestinationSection):
    """TLS of a connection that kneegrade opens.

    Attributes:
        ca: certificates that the other side's certificate is checked with; None: those of the system.
        certificate: own certificate, for mutual TLS; None: none is shown.
        key: private key of `certificate`; None: it is in the same file.
    """

    ca: SettingsPath | None = None
    certificate: SettingsPath | None = None
    key: SettingsPath | None = None

    @model_validator(mode="after")
    def _key_has_a_certificate(self) -> "TlsSettings":
        if self.key is not None and self.certificate is None:
            raise ValueError("key is given without certificate")
        return self


class DimseSettings(DestinationSection):
    """A DICOM node that takes results by C-STORE.

    Attributes:
        name: of the destination, in the spool and in metrics.
        title: AE title of the node.
        host: name or address of the node.
        port: of the node.
        calling: AE title with which kneegrade calls.
        objects: what is sent.
        tls: None: the connection is not encrypted.
    """

    name: DestinationName
    kind: Literal["dimse"] = "dimse"
    title: AeTitle
    host: str = Field(min_length=1, max_length=253)
    port: int = Field(ge=1, le=65535)
    calling: AeTitle = "KNEEGRADE"
    objects: tuple[DicomObject, ...] = Field(DICOM_OBJECTS, min_length=1)
    tls: TlsSettings | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the result files that are sent."""
        return _files_of(self.objects)


class WebDestination(DestinationSection):
    """What destinations behind a URL have in common.

    Attributes:
        name: of the destination, in the spool and in metrics.
        url: of the service.
        token: file with a bearer token, or with the whole value of the Authorization header ("Basic …"). It is read
            again for each connection.
        tls: certificates; None: those of the system.
        allow_http: whether an unencrypted connection to another computer is allowed.
    """

    name: DestinationName
    url: ServiceUrl
    token: SettingsPath | None = None
    tls: TlsSettings | None = None
    allow_http: bool = False

    @model_validator(mode="after")
    def _is_encrypted(self) -> "WebDestination":
        parts = urlsplit(self.url)
        if parts.scheme == "http" and not is_loopback(parts.hostname) and not self.allow_http:
            raise ValueError(
                "the connection to url is not encrypted; use https://, or set allow_http = true in a network that you "
                "trust with patient data"
            )
        return self


class StowSettings(WebDestination):
    """A DICOMweb service that takes results by STOW-RS.

    Attributes:
        objects: what is sent.
    """

    kind: Literal["stow"] = "stow"
    objects: tuple[DicomObject, ...] = Field(DICOM_OBJECTS, min_length=1)

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the result files that are sent."""
        return _files_of(self.objects)


class FhirSettings(WebDestination):
    """A FHIR R4 server that takes results as transactions.

    Attributes:
        patient_system: system of patient identifiers, as a URI, for films that do not state who issued the patient's
            ID; None: results of such films are not sent.
    """

    kind: Literal["fhir"] = "fhir"
    patient_system: str | None = Field(None, min_length=1)

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the result files that are sent."""
        return _files_of(("fhir",))


DestinationSettings = Annotated[DimseSettings | StowSettings | FhirSettings, Field(discriminator="kind")]


def _files_of(objects: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(OBJECT_FORMATS[name].ending for name in dict.fromkeys(objects))

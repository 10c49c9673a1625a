"""`load_settings`: serve.toml → `ServeSettings`. A wrong or unknown setting is refused with its line.

Paths may contain environment variables (`$CREDENTIALS_DIRECTORY`); relative ones start at the folder of the file. What
is not stated is safe: only this computer can connect, and nobody without a token.
"""

from collections.abc import Sequence
from importlib import resources
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from kneegrade.errors import UsageError
from kneegrade.server.destinations.destination_settings import (
    AeTitle,
    DestinationSettings,
    DimseSettings,
    FhirSettings,
    SettingsPath,
    StowSettings,
    is_loopback,
)
from kneegrade.server.toml_lines import line_of, read_toml

EXAMPLE_FILE: Final = "serve.toml"
_KINDS: Final[dict[Any, type[BaseModel]]] = {"dimse": DimseSettings, "stow": StowSettings, "fhir": FhirSettings}
ObjectName = Literal["sr", "gsps", "sc", "fhir"]
Port = Annotated[int, Field(ge=0, le=65535)]


def _checked_address(address: str) -> str:
    try:
        ip_address(address)
    except ValueError:
        raise ValueError("expected an IP address of this computer, for example 127.0.0.1") from None
    return address


def _checked_network(text: str) -> str:
    try:
        ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"expected an IP address or a network such as 10.0.0.0/24, not {text!r}") from None
    return text


OwnAddress = Annotated[str, AfterValidator(_checked_address)]
CallerAddress = Annotated[str, AfterValidator(_checked_network)]


class Section(BaseModel):
    """Base of the sections: immutable, unknown keys forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SpoolSettings(Section):
    """Where films and results are kept, and how long.

    Attributes:
        directory: folder of the spool; created if it does not exist. It holds films with the identity of patients.
        least_free_gib: free space of its disk, in GiB, below which no film is accepted.
        keep_days: days after which graded and dead films and their results are removed; films in work or with due
            deliveries stay. Signed reviews and labels are kept.
    """

    directory: SettingsPath
    least_free_gib: float = Field(2.0, ge=0, le=1e6)
    keep_days: float = Field(30.0, gt=0, le=36500)

    @property
    def least_free_bytes(self) -> int:
        """`least_free_gib` in bytes."""
        return int(self.least_free_gib * 2**30)


class GradingSettings(Section):
    """How films are graded.

    Attributes:
        workers: number of processes that grade; each needs about 1 GB of memory.
        threads: CPU threads of the networks in each. With torch they do not change the results.
        device: "auto" (CUDA if available), "cpu" or "cuda".
        runtime: "torch" or "openvino".
        precision: "float32" or "bf16".
        weights: weights of the grader; absent: the shipped ones.
        detector: weights of the landmark detector; absent: the shipped ones.
        film_seconds: time for one film, after which its worker is ended and the film is tried again.
    """

    workers: int = Field(1, ge=1, le=256)
    threads: int = Field(1, ge=1, le=256)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    runtime: Literal["torch", "openvino"] = "torch"
    precision: Literal["float32", "bf16"] = "float32"
    weights: SettingsPath | None = None
    detector: SettingsPath | None = None
    film_seconds: float = Field(300.0, ge=5, le=86400)


class ServerTlsSettings(Section):
    """TLS of a service of kneegrade.

    Attributes:
        certificate: file with the certificate of this computer, and the chain to its authority.
        key: private key of `certificate`; absent: it is in the same file.
        clients: certificates of the authorities of clients; with it, only clients with such a certificate can connect.
    """

    certificate: SettingsPath
    key: SettingsPath | None = None
    clients: SettingsPath | None = None


class NodeSettings(Section):
    """The DICOM node: C-ECHO and C-STORE.

    Attributes:
        address: of this computer that it listens on. Any other than a loopback address needs `calling` or `tls` with
            `clients`.
        port: that it listens on; 0: one that the system chooses.
        title: its AE title; callers must name it.
        associations: at the same time.
        connections: at the same time, those without an association included.
        connections_per_address: the same, from one IP address (IPv6: from one network of 64 bits).
        object_mib: size of the largest film, in MiB.
        pdu_kib: size of the largest protocol data unit, in KiB.
        calling: AE titles that may call, each with the addresses or networks that it may call from; an empty list: from
            everywhere. An empty table: every title on a loopback address.
        tls: TLS; absent: none.
    """

    address: OwnAddress = "127.0.0.1"
    port: Port = 11112
    title: AeTitle = "KNEEGRADE"
    associations: int = Field(20, ge=1, le=1000)
    connections: int = Field(32, ge=1, le=2000)
    connections_per_address: int = Field(24, ge=1, le=2000)
    object_mib: int = Field(256, ge=1, le=4096)
    pdu_kib: int = Field(128, ge=16, le=1024)
    calling: dict[AeTitle, tuple[CallerAddress, ...]] = Field(default_factory=dict)
    tls: ServerTlsSettings | None = None

    @model_validator(mode="after")
    def _strangers_are_kept_out(self) -> "NodeSettings":
        has_certificates = self.tls is not None and self.tls.clients is not None
        if not is_loopback(self.address) and not self.calling and not has_certificates:
            raise ValueError(
                f"on the address {self.address} other computers can send films; list the callers in [node.calling], or "
                "their certificates as [node.tls] clients"
            )
        return self


class RestSettings(Section):
    """The REST service and the reader's page.

    Attributes:
        tokens: file with the tokens that `kneegrade serve token` makes.
        address: of this computer that it listens on. Any other than a loopback address needs `tls` or `plain_http`.
        port: that it listens on; 0: one that the system chooses.
        tls: TLS; absent: none.
        plain_http: whether other computers may connect without TLS: set it only behind a proxy that adds TLS, or in a
            network of containers.
        viewer: whether the reader's page is served at /viewer/.
        film_mib: size of the largest film, in MiB.
        waiting_films: number of films that wait for a worker, above which new ones are refused (503).
        connections: at the same time.
        connections_per_address: the same, from one IP address (IPv6: from one network of 64 bits), those that have not
            finished their TLS handshake included. A proxy has one address for all its clients.
        body_seconds: time for the body of a request; a body that is slower is refused (408).
    """

    tokens: SettingsPath
    address: OwnAddress = "127.0.0.1"
    port: Port = 8080
    tls: ServerTlsSettings | None = None
    plain_http: bool = False
    viewer: bool = True
    film_mib: int = Field(256, ge=1, le=4096)
    waiting_films: int = Field(1000, ge=1, le=1_000_000)
    connections: int = Field(128, ge=1, le=10_000)
    connections_per_address: int = Field(96, ge=1, le=10_000)
    body_seconds: float = Field(300.0, ge=1, le=86400)

    @model_validator(mode="after")
    def _tokens_are_not_sent_in_the_clear(self) -> "RestSettings":
        if not is_loopback(self.address) and self.tls is None and not self.plain_http:
            raise ValueError(
                f"on the address {self.address} tokens and films would not be encrypted; add [rest.tls], or "
                "set plain_http = true behind a proxy that adds TLS"
            )
        return self


class ResultsSettings(Section):
    """What is made of each film beside report.json, report.html and grades.csv.

    Attributes:
        objects: DICOM and FHIR objects of DICOM films; those of the destinations are made as well.
        institution: Institution Name of the objects; empty: none.
    """

    objects: tuple[ObjectName, ...] = ("sr", "gsps", "sc", "fhir")
    institution: str = Field("", max_length=64)


class ServeSettings(Section):
    """All settings of `kneegrade serve`.

    Attributes:
        spool: see there.
        grading: see there.
        node: the DICOM node; absent: it is not started.
        rest: the REST service; absent: it is not started.
        results: see there.
        destination: where results are sent.
        log_level: "debug", "info", "warning" or "error". No level logs patient data.
    """

    spool: SpoolSettings
    grading: GradingSettings = GradingSettings()
    node: NodeSettings | None = None
    rest: RestSettings | None = None
    results: ResultsSettings = ResultsSettings()
    destination: tuple[DestinationSettings, ...] = ()
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _can_work(self) -> "ServeSettings":
        if self.node is None and self.rest is None:
            raise ValueError("films need a way in; add [node] or [rest]")
        names = [one.name for one in self.destination]
        if len({*names}) < len(names):
            raise ValueError("two destinations have the same name; names in [[destination]] must differ")
        return self

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of all objects that are made: those of `results` and of the destinations."""
        from kneegrade.clinical import OBJECT_FORMATS

        files = {file for one in self.destination for file in one.files}
        sent = (name for name, kind in OBJECT_FORMATS.items() if kind.ending in files)
        return tuple(dict.fromkeys([*self.results.objects, *sent]))

    def deliveries(self, files: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
        """Name of a destination → which of the result files it gets."""
        return {one.name: tuple(name for name in one.files if name in files) for one in self.destination}


def load_settings(path: Path) -> ServeSettings:
    """The settings in a file.

    Raises:
        UsageError: the file cannot be read, is not TOML, or a setting is unknown or wrong; the message has its line.
    """
    text, tree = read_toml(path)
    try:
        settings = ServeSettings.model_validate(tree)
    except ValidationError as error:
        lines = [_sentence(path.name, text, one) for one in error.errors(include_url=False)]
        raise UsageError("\n".join(dict.fromkeys(lines)), code="settings") from None
    anchored: ServeSettings = _anchored(settings, path.absolute().parent)
    return anchored


def example_settings() -> str:
    """The text of a serve.toml with every setting, commented."""
    return resources.files("kneegrade.server").joinpath(EXAMPLE_FILE).read_text(encoding="utf-8")


def _sentence(name: str, text: str, error: Any) -> str:
    """What is wrong with one setting, where, and what is allowed."""
    keys = [part for part in error["loc"] if part not in _KINDS]
    shown = ".".join(str(part + 1) if isinstance(part, int) else part for part in keys)
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = f"this setting does not exist; {_known_keys(error['loc'][:-1])}"
    elif error["type"] == "missing":
        message = "this setting is missing"
    if not shown:
        return f"{name}: {message}."
    return f"{name}, line {line_of(text, keys)}: {shown}: {message}."


def _known_keys(section: Sequence[str | int]) -> str:
    """The keys of a section, as part of a sentence."""
    model: type[BaseModel] = ServeSettings
    for part in section:
        if part in _KINDS:
            model = _KINDS[part]
        elif part in model.model_fields:
            model = model_in(model.model_fields[str(part)].annotation) or model
    return f"allowed are {', '.join(model.model_fields)}"


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The model in a type such as `NodeSettings | None`, or None."""
    parts = (annotation, *getattr(annotation, "__args__", ()))
    return next((part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)), None)


def _anchored(section: Any, folder: Path) -> Any:
    """The section with relative paths made absolute."""
    if isinstance(section, Path):
        return folder / section
    if isinstance(section, tuple):
        return tuple(_anchored(one, folder) for one in section)
    if not isinstance(section, BaseModel):
        return section
    changed = {name: _anchored(getattr(section, name), folder) for name in type(section).model_fields}
    return section.model_copy(update=changed)

"""`Job`: the software, weights, options and the moment that a set of derived objects states."""

import datetime
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kneegrade.clinical.film_header import FilmHeader
from kneegrade.clinical.uids import uid_of
from kneegrade.errors import UsageError
from kneegrade.results import SiteReader, WeightsIdentity
from kneegrade.version import __version__

if TYPE_CHECKING:
    from kneegrade.anatomy import UserHints
    from kneegrade.grader import Grader

MANUFACTURER: Final = "kneegrade project"
MODEL: Final = "kneegrade"
RESEARCH_USE: Final = "Research use only. Not for diagnosis or treatment decisions."


@dataclass(frozen=True)
class Job:
    """What made a set of objects, and when. With equal jobs and films, all objects have the same bytes.

    Attributes:
        version: of kneegrade.
        weights: that graded.
        detector_sha256: SHA-256 of the weights of the landmark detector.
        when: moment of grading, with its time zone.
        set_level: see `Report`.
        site: see `Report`.
        options: inputs other than the film that the results depend on, as one text (`options_of`).
        revision: 0; a reader's revisions count from 1.
        reader: who signed the revision.
        institution: Institution Name of the objects, or None.

    Raises:
        UsageError: `when` has no time zone.
    """

    version: str
    weights: WeightsIdentity
    detector_sha256: str
    when: datetime.datetime
    set_level: float | None = None
    site: SiteReader | None = None
    options: str = ""
    revision: int = 0
    reader: str = ""
    institution: str | None = None

    def __post_init__(self) -> None:
        if self.when.tzinfo is None:
            raise UsageError("The moment of the job has no time zone; use datetime.now().astimezone().", code="job")

    @classmethod
    def of(
        cls, grader: "Grader", when: datetime.datetime, hints: "UserHints | None" = None, *,
        institution: str | None = None,
    ) -> "Job":  # fmt: skip
        """The job of a grader.

        Args:
            grader: its weights, and the site that it is calibrated to.
            when: moment of grading.
            hints: information about the films that the user provides.
            institution: Institution Name of the objects, or None.
        """
        decisions = grader.postprocessor
        site = None if decisions.site is None else decisions.site.reader
        return cls(
            __version__, grader.identity, grader.detector.sha256, when, decisions.set_level, site, options_of(hints),
            institution=institution,
        )  # fmt: skip

    @cached_property
    def made_by(self) -> tuple[str, str, str, str]:
        """Version, weights, detector and options: the inputs of every UID beside the film."""
        return self.version, self.weights.sha256, self.detector_sha256, self.options

    @property
    def device_uid(self) -> str:
        """UID of the software with its weights; changes with every training, as IHE AIR asks."""
        return uid_of("device", *self.made_by[:3])

    @property
    def serial_number(self) -> str:
        """Device Serial Number: the first 16 digits of the SHA-256 of the weights."""
        return self.weights.sha256[:16]

    def series_uid(self, kind: str, header: FilmHeader) -> str:
        """Series Instance UID of the objects of a kind ("SR", "GSPS", "SC") in the study of a film."""
        return uid_of("series", kind, header.study_instance_uid, *self.made_by)

    def instance_uid(self, kind: str, header: FilmHeader) -> str:
        """SOP Instance UID of the object of a kind derived from a film; another one for each signature."""
        film = (header.sop_instance_uid, header.pixel_sha256)
        signed = (self.reader, self.when.isoformat()) if self.revision else ()
        return uid_of("instance", kind, *film, *self.made_by, str(self.revision), *signed)

    def local_time(self, header: FilmHeader) -> datetime.datetime:
        """`when` in the film's time zone where it states one, else in its own; whole seconds, without time zone."""
        moment, offset = self.when, header.timezone_offset
        if offset is not None:
            minutes = int(offset[1:3]) * 60 + int(offset[3:5])
            delta = datetime.timedelta(minutes=-minutes if offset[0] == "-" else minutes)
            moment = moment.astimezone(datetime.timezone(delta))
        return moment.replace(tzinfo=None, microsecond=0)


def options_of(hints: "UserHints | None") -> str:
    """The user's information about the films as one text: side, pixel spacing and the content of landmark files."""
    if hints is None:
        return ""
    parts = []
    if hints.side is not None:
        parts.append(f"side={hints.side}")
    if hints.pixel_spacing_mm is not None:
        parts.append("spacing_mm={:.9g},{:.9g}".format(*hints.pixel_spacing_mm))
    if hints.landmarks is not None:
        given = hints.landmarks
        parts.append(f"landmarks={given.unit},{given.mirrored},{_content_sha256(given.path)}")
    return ";".join(parts)


def _content_sha256(path: Path) -> str:
    """The SHA-256 over a file, or over the names and contents of all files below a folder."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.relative_to(path).as_posix().encode("utf-8", "surrogateescape") + b"\0")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()

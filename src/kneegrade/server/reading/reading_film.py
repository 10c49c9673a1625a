"""What the reader's page knows about a film: the results of kneegrade, as in report.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.landmark_scheme import TIBIA_PLATEAU_LATERAL, TIBIA_PLATEAU_MEDIAL
from kneegrade.coherence import rule_findings
from kneegrade.results import UNCERTAIN_SET_SIZE, Finding, GradedRadiograph

FLAGS: Final = ("not_graded", "unusual", "incoherent", "uncertain")  # what needs the eyes of a reader, as a bit mask
SQUARE_TOLERANCE: Final = 0.01  # of the stretch of pixels that counts as none; landmarks are rounded in reports


@dataclass(frozen=True)
class ListedKnee:
    """A knee in the worklist.

    Attributes:
        side: of the patient's body.
        grades: grade name → reported grade; empty if the knee was not graded.
        flags: bits of `FLAGS`.
        doubt: the larger, the sooner a reader should look; see `doubt_of`.
    """

    side: str
    grades: Mapping[str, int]
    flags: int
    doubt: float


@dataclass(frozen=True)
class ListedFilm:
    """A film in the worklist.

    Attributes:
        key: 40 hexadecimal digits.
        name: of the file.
        knees: from left to right.
        status: "graded", "not_gradable" or "failed".
        person: identifier of the person, if the data have one; else "".
        visit: text that orders the films of a person, or "".
    """

    key: str
    name: str
    knees: tuple[ListedKnee, ...]
    status: str
    person: str = ""
    visit: str = ""

    @property
    def flags(self) -> int:
        """Bits of all knees; a film without knees needs eyes, too."""
        bits = 0 if self.knees else 1
        for knee in self.knees:
            bits |= knee.flags
        return bits

    @property
    def doubt(self) -> float:
        """That of its most doubtful knee."""
        return max((knee.doubt for knee in self.knees), default=1.0)


@dataclass(frozen=True)
class FilmResults:
    """All results of a film.

    Attributes:
        key: see `ListedFilm`.
        name: of the file.
        sha256: of the file that was graded, or None.
        status: "graded", "not_gradable" or "failed".
        reason: code and message, or None.
        warnings: codes and messages.
        knees: as in report.json.
        weights_sha256: of the weights that graded.
        mm_per_px: pixel spacing that the measurements used, or None.
    """

    key: str
    name: str
    sha256: str | None
    status: str
    reason: Mapping[str, str] | None
    warnings: Sequence[Mapping[str, str]]
    knees: Sequence[Mapping[str, Any]]
    weights_sha256: str
    mm_per_px: float | None = None

    @property
    def graded(self) -> GradedRadiograph:
        """The film without its knees, which is what decides about its polarity."""
        warnings = tuple(Finding(one["code"], one["message"]) for one in self.warnings)
        return GradedRadiograph(self.name, warnings=warnings, sha256=self.sha256)


@dataclass(frozen=True)
class FilmContent:
    """Where the bytes of a film are.

    Attributes:
        content: path or bytes.
        path: on disk; None for a member of an archive.
    """

    content: Path | bytes = field(repr=False)
    path: Path | None = None


def listed_knee(
    side: str, grades: Mapping[str, int], kl_probability: float, codes: Sequence[str], widest_set: int
) -> ListedKnee:
    """The knee for the worklist.

    Args:
        side: of the patient's body.
        grades: grade name → grade.
        kl_probability: of the reported KL grade.
        codes: findings of quality control.
        widest_set: number of grades in the largest prediction set.
    """
    incoherent = bool(grades) and bool(rule_findings(grades))
    bits = (not grades, bool(codes), incoherent, widest_set >= UNCERTAIN_SET_SIZE)
    flags = sum(1 << i for i, bit in enumerate(bits) if bit)
    return ListedKnee(side, grades, flags, doubt_of(flags, kl_probability if grades else 0.0))


def doubt_of(flags: int, kl_probability: float) -> float:
    """Number of reasons to look, plus the probability that the reported KL grade is wrong."""
    return flags.bit_count() + 1 - kl_probability


def spacing_of(knees: Sequence[Mapping[str, Any]]) -> float | None:
    """Pixel spacing in mm that follows from the knees of report.json, or None without a trusted one."""
    for knee in knees:
        space = knee.get("joint_space")
        if space and space.get("tibial_width_mm"):
            return float(space["tibial_width_mm"]["value"] / space["tibial_width_px"]["value"])
    return None


def pixel_aspect_of(landmarks_px: NDArray[np.float64], tibial_width_px: float | None) -> float:
    """Factor by which the film is stretched horizontally, from a plateau's width without the stretch; 1 if unknown."""
    across, down = landmarks_px[TIBIA_PLATEAU_LATERAL] - landmarks_px[TIBIA_PLATEAU_MEDIAL]
    if tibial_width_px is None or not np.isfinite([across, down]).all() or tibial_width_px <= abs(down):
        return 1.0
    aspect = float(abs(across) / np.sqrt(tibial_width_px**2 - down**2))
    return 1.0 if abs(aspect - 1) < SQUARE_TOLERANCE else aspect

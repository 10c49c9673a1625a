"""`Radiograph`: a picture in one convention, whatever file it came from.

`Picture`: what the decoding process finds in a file, before photometry.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kneegrade.results import Finding

Laterality = Literal["R", "L", "both", "unknown"]


@dataclass(frozen=True)
class Identity:
    """DICOM identifiers of the source, empty strings for plain images. Never logged, never printed."""

    study_instance_uid: str = ""
    series_instance_uid: str = ""
    sop_instance_uid: str = ""
    sop_class_uid: str = ""


@dataclass(frozen=True, eq=False)
class Radiograph:
    """A radiograph as the later stages see it.

    Attributes:
        pixels: (H, W) float32 in [0, 1], bone bright, first row on top as stored.
        pixel_spacing_mm: (row, column) distance of pixel centres in mm, or None where it cannot be trusted.
        spacing_source: DICOM keyword the spacing came from, "user", or None.
        laterality: side stated by the file or the user.
        laterality_source: DICOM keyword, "user", or None.
        view: the stated view position (for example "PA"), or None.
        identity: UIDs, kept out of logs.
        warnings: what a reader should know about this file.
    """

    pixels: NDArray[np.float32]
    pixel_spacing_mm: tuple[float, float] | None = None
    spacing_source: str | None = None
    laterality: Laterality = "unknown"
    laterality_source: str | None = None
    view: str | None = None
    identity: Identity = field(default_factory=Identity, repr=False)
    warnings: tuple[Finding, ...] = ()


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded file: grey values in one direction, and what its header says.

    Attributes:
        pixels: (H, W) float32, any range, bright where the file's own tags say bright; NaN where it is padding.
        pixel_spacing_mm: (row, column) or None.
        spacing_source: DICOM keyword of the spacing, or None.
        laterality: side stated by the file.
        laterality_source: DICOM keyword of the side, or None.
        view: stated view position, or None.
        identity: UIDs.
        warnings: what a reader should know.
    """

    pixels: NDArray[np.float32]
    pixel_spacing_mm: tuple[float, float] | None = None
    spacing_source: str | None = None
    laterality: Laterality = "unknown"
    laterality_source: str | None = None
    view: str | None = None
    identity: Identity = field(default_factory=Identity, repr=False)
    warnings: tuple[Finding, ...] = ()

    def head(self) -> dict[str, Any]:
        """Everything but the pixels, as JSON can hold it."""
        return {
            "shape": list(self.pixels.shape),
            "pixel_spacing_mm": self.pixel_spacing_mm,
            "spacing_source": self.spacing_source,
            "laterality": self.laterality,
            "laterality_source": self.laterality_source,
            "view": self.view,
            "identity": asdict(self.identity),
            "warnings": [[finding.code, finding.message] for finding in self.warnings],
        }

    @classmethod
    def from_head(cls, head: dict[str, Any], body: bytearray) -> "Picture":
        """The picture that `head` and its raw float32 pixels describe."""
        spacing = head["pixel_spacing_mm"]
        return cls(
            pixels=np.frombuffer(body, dtype=np.float32).reshape(head["shape"]),
            pixel_spacing_mm=None if spacing is None else (float(spacing[0]), float(spacing[1])),
            spacing_source=head["spacing_source"],
            laterality=head["laterality"],
            laterality_source=head["laterality_source"],
            view=head["view"],
            identity=Identity(**head["identity"]),
            warnings=tuple(Finding(code, message) for code, message in head["warnings"]),
        )

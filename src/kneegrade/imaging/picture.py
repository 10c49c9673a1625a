"""`Picture`: what the decoding process finds in a file, before photometry."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kneegrade.imaging.radiograph import Identity, Laterality
from kneegrade.results import Finding


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

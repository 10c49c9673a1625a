"""`Radiograph`: an image in one convention, whatever file it came from; `DecodedImage`: its state before photometry."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kneegrade.results import Finding

Laterality = Literal["R", "L", "both", "unknown"]


@dataclass(frozen=True)
class Identity:
    """DICOM UIDs of the source; empty strings for other formats. They are never logged and never printed."""

    study_instance_uid: str = ""
    series_instance_uid: str = ""
    sop_instance_uid: str = ""
    sop_class_uid: str = ""


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """A decoded file: grey levels with the polarity given by its tags, and the attributes from its header.

    Attributes:
        pixels: (H, W) float32 of any range, bright where the tags of the file require it; NaN marks padding.
        pixel_spacing_mm: (row, column) spacing in mm, or None.
        spacing_source: DICOM keyword from which the spacing was read, or None.
        pixel_aspect: height over width of a pixel, if the file declares pixels that are not square; else None.
        laterality: side stated in the file.
        laterality_source: DICOM keyword from which the side was read, or None.
        view: ViewPosition, for example "PA", or None.
        identity: UIDs.
        warnings: findings about this file for the reader.
        declared_polarity: DICOM value that declares the polarity, for example "MONOCHROME1"; None for other formats.
    """

    pixels: NDArray[np.float32]
    pixel_spacing_mm: tuple[float, float] | None = None
    spacing_source: str | None = None
    laterality: Laterality = "unknown"
    laterality_source: str | None = None
    view: str | None = None
    identity: Identity = field(default_factory=Identity, repr=False)
    warnings: tuple[Finding, ...] = ()
    declared_polarity: str | None = None
    pixel_aspect: float | None = None

    def metadata(self) -> dict[str, Any]:
        """The shape and all attributes but the pixels, as JSON types."""
        return {
            "shape": list(self.pixels.shape),
            "pixel_spacing_mm": self.pixel_spacing_mm,
            "spacing_source": self.spacing_source,
            "laterality": self.laterality,
            "laterality_source": self.laterality_source,
            "view": self.view,
            "pixel_aspect": self.pixel_aspect,
            "identity": asdict(self.identity),
            "warnings": [[finding.code, finding.message] for finding in self.warnings],
            "declared_polarity": self.declared_polarity,
        }

    @classmethod
    def from_metadata(cls, metadata: dict[str, Any], pixel_bytes: bytearray) -> "DecodedImage":
        """The image with these metadata and these raw float32 pixels."""
        spacing = metadata["pixel_spacing_mm"]
        return cls(
            pixels=np.frombuffer(pixel_bytes, dtype=np.float32).reshape(metadata["shape"]),
            pixel_spacing_mm=None if spacing is None else (float(spacing[0]), float(spacing[1])),
            spacing_source=metadata["spacing_source"],
            laterality=metadata["laterality"],
            laterality_source=metadata["laterality_source"],
            view=metadata["view"],
            identity=Identity(**metadata["identity"]),
            warnings=tuple(Finding(code, message) for code, message in metadata["warnings"]),
            declared_polarity=metadata["declared_polarity"],
            pixel_aspect=None if metadata["pixel_aspect"] is None else float(metadata["pixel_aspect"]),
        )


@dataclass(frozen=True)
class Polarity:
    """How the polarity of a radiograph was decided.

    Attributes:
        score: evidence of the pixels for the polarity of the file (`photometry.polarity_score`). Negative for a
            negative, but also for a film in a bright surround.
        inverted: True when the radiograph shows the pixels inverted, compared with what the file declares.
        declared_by: DICOM value that declares the polarity, for example "MONOCHROME1"; None for other formats.
    """

    score: float
    inverted: bool
    declared_by: str | None = None


@dataclass(frozen=True, eq=False)
class Radiograph:
    """A radiograph in the convention of all later stages.

    Attributes:
        pixels: (H, W) float32 in [0, 1], bone bright, rows and columns in the stored order.
        pixel_spacing_mm: (row, column) distance between pixel centres in mm, or None when it is missing or unreliable.
        spacing_source: DICOM keyword from which the spacing was read, "user", or None.
        pixel_aspect: factor by which the image is stretched horizontally (height over width of a pixel), if the file
            declares it; else None.
        laterality: side stated in the file or by the user.
        laterality_source: DICOM keyword from which the side was read, "user", or None.
        view: ViewPosition, for example "PA", or None.
        identity: UIDs, kept out of logs.
        warnings: findings about this file for the reader.
        polarity: how the polarity was decided; None when it is known.
        padding: (H, W) bool, True for padding, whose pixels are 0 in both polarities; None when there is none.
    """

    pixels: NDArray[np.float32]
    pixel_spacing_mm: tuple[float, float] | None = None
    spacing_source: str | None = None
    laterality: Laterality = "unknown"
    laterality_source: str | None = None
    view: str | None = None
    identity: Identity = field(default_factory=Identity, repr=False)
    warnings: tuple[Finding, ...] = ()
    polarity: Polarity | None = None
    padding: NDArray[np.bool_] | None = field(default=None, repr=False)
    pixel_aspect: float | None = None

    def in_other_polarity(self) -> "Radiograph":
        """The radiograph with its grey values inverted."""
        pixels = 1 - self.pixels
        if self.padding is not None:
            pixels[self.padding] = 0
        polarity = None if self.polarity is None else replace(self.polarity, inverted=not self.polarity.inverted)
        return replace(self, pixels=pixels, polarity=polarity)

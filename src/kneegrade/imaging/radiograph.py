"""`Radiograph`: a picture in one convention, whatever file it came from."""

from dataclasses import dataclass, field
from typing import Literal

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

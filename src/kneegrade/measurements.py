"""Joint-space measurements of a knee, with their standard errors."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class JointSpaceWidth:
    """Joint-space widths in millimetres, in the plane of the pixel spacing.

    Attributes:
        medial: minimum width of the medial compartment.
        lateral: width at x = 0.825 of the tibial width, measured from the medial edge.
    """

    medial: float
    lateral: float


@dataclass(frozen=True)
class Measurement:
    """A value and its standard error, in the same unit."""

    value: float
    error: float


@dataclass(frozen=True)
class JointSpace:
    """Joint-space measurements with the standard errors that follow from the landmark errors.

    Widths are fractions of the tibial width; x is measured from the medial edge, as a fraction of the tibial width.

    Attributes:
        medial: minimum width over 0.15 ≤ x ≤ 0.30.
        lateral: width at x = 0.825.
        fixed: x → width at x.
        convergence_deg: joint-line convergence angle in degrees, positive if the joint opens laterally.
        tibial_width_px: distance between the ends of the tibial plateau in pixels of the film, without its stretch
            where its pixels are not square.
        mm_per_px: pixel spacing, or None if there is none that can be trusted.
    """

    medial: Measurement
    lateral: Measurement
    fixed: Mapping[float, Measurement]
    convergence_deg: Measurement
    tibial_width_px: Measurement
    mm_per_px: float | None = None

    def mm(self, width: Measurement) -> Measurement | None:
        """Return a width in millimetres, in the plane of the pixel spacing, or None without a trusted spacing."""
        if self.mm_per_px is None:
            return None
        tibia_mm = self.tibial_width_px.value * self.mm_per_px
        return Measurement(width.value * tibia_mm, width.error * tibia_mm)

    @property
    def width_mm(self) -> JointSpaceWidth | None:
        """Medial and lateral width in millimetres, or None without a trusted spacing."""
        medial, lateral = self.mm(self.medial), self.mm(self.lateral)
        return JointSpaceWidth(medial.value, lateral.value) if medial and lateral else None

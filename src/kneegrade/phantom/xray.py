"""From thickness to grey levels, for batches of images: attenuation, scatter, blur, noise, a vendor's processing.

The mass attenuation coefficients of cortical bone, soft tissue and adipose tissue (ICRU-44 compositions), titanium and
iron come from Hubbell and Seltzer, NISTIR 5632 (NIST, https://physics.nist.gov/xaamdi), at single energies from 30 to
80 keV, with log-log interpolation between them. A 50–75 kVp beam behind a leg has an effective energy of 34–52 keV.

Order of use: `attenuation` (line integrals), `expose` (measured by a detector), `develop` (shown as grey levels).
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np
import torch
from torch import Tensor

from kneegrade.phantom.texture import blurred, normal_pair, wide_blur
from kneegrade.phantom.thickness import LegMaps

ENERGY_KEV = (30.0, 40.0, 50.0, 60.0, 80.0)
MASS_ATTENUATION_CM2_G = {  # at ENERGY_KEV
    "bone": (1.331, 0.6655, 0.4242, 0.3148, 0.2229),
    "muscle": (0.3790, 0.2688, 0.2264, 0.2048, 0.1823),
    "fat": (0.3063, 0.2396, 0.2123, 0.1974, 0.1800),
    "titanium": (4.972, 2.214, 1.213, 0.7661, 0.4052),
    "steel": (8.176, 3.629, 1.958, 1.205, 0.5952),
}
DENSITY_G_CM3 = {"bone": 1.92, "muscle": 1.06, "fat": 0.95, "titanium": 4.54, "steel": 7.87}
OPAQUE = 9.0  # attenuation above which no detector measures a difference
METAL = 1.5  # only metal exceeds the leg's mean attenuation by more; the excess is not part of the slow trend
SCATTER_MM, TREND_MM, SHARPENING_MM = 18.0, 22.0, 0.9


@dataclass(frozen=True)
class Exposure:
    """Exposure and image processing of one film.

    Attributes:
        energy_kev: effective energy.
        scatter: scatter fraction at the detector behind the leg, 0 … 0.5.
        blur_mm: standard deviation of the system's blur (focal spot and detector).
        photons_per_mm2: quanta per mm² in the unattenuated beam.
        electronic: read-out noise relative to the unattenuated beam.
        heel: relative change of the beam from edge to edge that remains after flat-field correction (heel effect).
        heel_deg: direction of that change.
        flattening: share of the slow brightness trend that is removed (dynamic-range compression).
        sharpening: strength of edge enhancement.
        level, contrast: mean and standard deviation of the grey levels of the leg before the look-up table.
        sigmoid: curvature of the look-up table at its ends (0 = none).
        gamma: exponent of the look-up table.
        speckle: standard deviation of pixel noise in grey levels, 0 … 0.02.
    """

    energy_kev: float
    scatter: float
    blur_mm: float
    photons_per_mm2: float
    electronic: float
    heel: float
    heel_deg: float
    flattening: float
    sharpening: float
    level: float
    contrast: float
    sigmoid: float
    gamma: float
    speckle: float


def sample_exposure(rng: np.random.Generator, whole_film: bool = False) -> Exposure:
    """Draw the exposure, detector and image processing of one film; whole films have a lower mean grey level."""
    return Exposure(
        energy_kev=float(rng.uniform(34.0, 52.0)),
        scatter=float(rng.uniform(0.05, 0.45)),
        blur_mm=float(rng.uniform(0.10, 0.45)),
        photons_per_mm2=float(10 ** rng.uniform(5.2, 6.6)),
        electronic=float(rng.uniform(0.0, 2e-4)),
        heel=float(np.clip(rng.normal(0.0, 0.06), -0.2, 0.2)),
        heel_deg=float(rng.uniform(0.0, 360.0)),
        flattening=float(rng.uniform(0.3, 0.95) * (rng.random() < 0.9)),
        sharpening=float(rng.uniform(0.1, 1.2) * (rng.random() < 0.6)),
        level=float(rng.normal(0.56 if whole_film else 0.57, 0.07)),
        contrast=float(np.exp(rng.normal(np.log(0.28), 0.18))),
        sigmoid=float(rng.uniform(0.0, 1.0)),
        gamma=float(np.exp(rng.normal(0.0, 0.15))),
        speckle=float(rng.uniform(0.0, 0.015)),
    )


class ExposureBatch:
    """The exposures of a batch: each attribute of `Exposure` as a tensor (B, 1, 1), and the pixel sizes.

    Args:
        exposures: one per image.
        pixel_mm: size of a pixel at the knee, one per image.
        device: device of the tensors.
    """

    def __init__(
        self, exposures: Sequence[Exposure], pixel_mm: Sequence[float], device: torch.device | str = "cpu"
    ) -> None:
        table = torch.tensor([astuple(exposure) for exposure in exposures], dtype=torch.float32, device=device)
        self._columns = {field.name: table[:, number, None, None] for number, field in enumerate(fields(Exposure))}
        self.pixel_mm = torch.tensor(list(pixel_mm), dtype=torch.float32, device=device)
        self.energies = [exposure.energy_kev for exposure in exposures]
        self.blur_px = [float(np.hypot(e.blur_mm / p, 0.35)) for e, p in zip(exposures, pixel_mm, strict=True)]
        self.sizes_mm = list(pixel_mm)

    def __getitem__(self, name: str) -> Tensor:
        """One attribute (B, 1, 1)."""
        return self._columns[name]

    def attenuation_per_mm(self, material: str) -> Tensor:
        """(B, 1, 1) in 1/mm."""
        values = [attenuation_per_mm(material, energy) for energy in self.energies]
        return torch.tensor(values, dtype=torch.float32, device=self.pixel_mm.device).view(-1, 1, 1)


def attenuation_per_mm(material: str, energy_kev: float) -> float:
    """Linear attenuation coefficient in 1/mm of "bone", "muscle", "fat", "titanium" or "steel".

    Example:
        >>> round(attenuation_per_mm("bone", 60.0), 4)
        0.0604
    """
    mass = np.exp(np.interp(np.log(energy_kev), np.log(ENERGY_KEV), np.log(MASS_ATTENUATION_CM2_G[material])))
    return float(mass * DENSITY_G_CM3[material] / 10.0)


def attenuation(leg: LegMaps, batch: ExposureBatch) -> tuple[Tensor, Tensor]:
    """Line integrals of attenuation (B, H, W), dimensionless: soft tissue, and the excess of bone and metal over it."""
    bone, muscle, fat = (batch.attenuation_per_mm(name) for name in ("bone", "muscle", "fat"))
    soft = muscle * leg.muscle + fat * leg.fat
    hard = (bone - muscle) * leg.mineral
    if leg.titanium is not None and leg.steel is not None:
        hard = hard + batch.attenuation_per_mm("titanium") * leg.titanium
        hard = hard + batch.attenuation_per_mm("steel") * leg.steel
    return soft, hard


def expose(path: Tensor, batch: ExposureBatch, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Measured attenuation (B, H, W), and standard normal noise (B, H, W) for `develop`.

    The intensity follows the Beer–Lambert law, with scatter, blur, heel effect, quantum and read-out noise; the result
    is its negative logarithm.

    Args:
        path: (B, H, W) line integrals of attenuation.
        batch: exposures of the images.
        keys: (B,) int64, seeds of the noise.
    """
    light = torch.exp(-path.clamp(max=OPAQUE))
    scatter = batch["scatter"]
    light = light + scatter / (1 - scatter) * wide_blur(light, SCATTER_MM, batch.sizes_mm)
    light = blurred(light, batch.blur_px) * (1 + _heel(path.shape, batch))
    quanta = batch["photons_per_mm2"] * batch.pixel_mm.view(-1, 1, 1) ** 2
    noise_sd = (light / quanta + batch["electronic"] ** 2).sqrt()
    detector_noise, pixel_noise = normal_pair(keys, 1, (path.shape[1], path.shape[2]))
    return -(light + noise_sd * detector_noise).clamp(min=2e-4).log(), pixel_noise


def develop(measured: Tensor, leg: Tensor, batch: ExposureBatch, noise: Tensor) -> Tensor:
    """Grey levels (B, H, W) float32 in [0, 1], bone bright: measured attenuation after a vendor's image processing.

    Args:
        measured: (B, H, W) from `expose`.
        leg: (B, H, W) bool mask of the leg.
        batch: exposures of the images.
        noise: (B, H, W) standard normal noise.
    """
    shown = measured - batch["flattening"] * _body_trend(measured, leg, batch)
    sigma = [SHARPENING_MM / size if size < 0.8 else 0.0 for size in batch.sizes_mm]
    shown = shown + batch["sharpening"] * (shown - blurred(shown, sigma))
    mean = _mean(shown, leg)
    deviation = _mean((shown - mean) ** 2, leg).sqrt().clamp(min=0.05)
    grey = batch["level"] + batch["contrast"] * (shown - mean) / deviation
    grey = torch.lerp(grey, 0.5 + 0.5 * torch.tanh(2.2 * (grey - 0.5)) / np.tanh(1.1), batch["sigmoid"])
    grey = grey.clamp(0, 1) ** batch["gamma"]
    return (grey + batch["speckle"] * noise * (grey > 0)).clamp(0, 1)


def _mean(values: Tensor, leg: Tensor) -> Tensor:
    """Mean (B, 1, 1) over the leg, summed in float64 so that the order of summation has no effect."""
    total = (values * leg).sum((1, 2), keepdim=True, dtype=torch.float64)
    return (total / leg.sum((1, 2), keepdim=True).clamp(min=1)).float()


def _heel(shape: torch.Size, batch: ExposureBatch) -> Tensor:
    """Relative change of the beam across the image (B, H, W), 0 in the centre."""
    device = batch.pixel_mm.device
    y = torch.linspace(-0.5, 0.5, shape[1], device=device).view(1, -1, 1)
    x = torch.linspace(-0.5, 0.5, shape[2], device=device).view(1, 1, -1)
    angle = torch.deg2rad(batch["heel_deg"])
    return batch["heel"] * (x * angle.cos() + y * angle.sin())


def _body_trend(shown: Tensor, leg: Tensor, batch: ExposureBatch) -> Tensor:
    """Slow brightness trend (B, H, W) in the leg, relative to its mean; 0 far from the leg, so that air stays dark."""
    weight, mean = leg.float(), _mean(shown, leg)
    share = wide_blur(weight, TREND_MM, batch.sizes_mm)
    return wide_blur((shown - mean).clamp(max=METAL) * weight, TREND_MM, batch.sizes_mm) / (share + 0.02)

"""From thickness to grey levels: attenuation, scatter, blur, noise and the look-up of a vendor.

Mass attenuation coefficients of cortical bone, soft tissue and adipose tissue (ICRU-44 compositions) are those of
Hubbell and Seltzer, NISTIR 5632 (NIST, https://physics.nist.gov/xaamdi), at single energies from 30 to 80 keV;
between them the logarithms are interpolated. A 60–75 kVp beam behind a leg has an effective energy of 38–52 keV.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter, zoom

from kneegrade.phantom.rasterise import FloatImage
from kneegrade.phantom.thickness import LegMaps

ENERGY_KEV = (30.0, 40.0, 50.0, 60.0, 80.0)
MASS_ATTENUATION_CM2_G = {  # at ENERGY_KEV
    "bone": (1.331, 0.6655, 0.4242, 0.3148, 0.2229),
    "muscle": (0.3790, 0.2688, 0.2264, 0.2048, 0.1823),
    "fat": (0.3063, 0.2396, 0.2123, 0.1974, 0.1800),
}
DENSITY_G_CM3 = {"bone": 1.92, "muscle": 1.06, "fat": 0.95}


@dataclass(frozen=True)
class Exposure:
    """How a film is exposed and shown.

    Attributes:
        energy_kev: effective energy.
        scatter: scattered share of the light reaching the detector behind the leg, 0 … 0.5.
        blur_mm: standard deviation of the system's blur.
        photons_per_mm2: quanta per mm² where nothing lies in the beam.
        electronic: read-out noise relative to the open beam.
        flattening: share of the slow brightness changes taken out, as vendors' dynamic-range compression does.
        sharpening: strength of edge enhancement.
        window: width of the displayed range, relative to the contrast of bone and soft tissue.
        level: upper end of that range above the bones, as a share of it.
        gamma, sigmoid: shape of the look-up curve (sigmoid 0 = none).
        speckle: detector-scale grain in grey levels, 0 … 0.01.
    """

    energy_kev: float
    scatter: float
    blur_mm: float
    photons_per_mm2: float
    electronic: float
    flattening: float
    sharpening: float
    window: float
    level: float
    gamma: float
    sigmoid: float
    speckle: float


def sample_exposure(rng: np.random.Generator, whole_film: bool = False) -> Exposure:
    """Draw technique, detector and vendor of one film; a whole film is shown with the air around the leg dark."""
    narrow, wide = (0.9, 2.1) if whole_film else (1.4, 4.5)
    return Exposure(
        energy_kev=float(rng.uniform(38.0, 52.0)),
        scatter=float(rng.uniform(0.05, 0.45)),
        blur_mm=float(rng.uniform(0.06, 0.28)),
        photons_per_mm2=float(10 ** rng.uniform(5.0, 6.4)),
        electronic=float(rng.uniform(0.0, 2e-4)),
        flattening=float(rng.uniform(0.1, 0.85) * (rng.random() < 0.85)),
        sharpening=float(rng.uniform(0.0, 0.8) * (rng.random() < 0.6)),
        window=float(np.exp(rng.uniform(np.log(narrow), np.log(wide)))),
        level=float(rng.normal(0.12, 0.08 if whole_film else 0.13)),
        gamma=float(np.exp(rng.normal(0.0, 0.25))),
        sigmoid=float(rng.uniform(2.0, 6.0) * (rng.random() < 0.5)),
        speckle=float(rng.uniform(0.0, 0.01)),
    )


def attenuation_per_mm(material: str, energy_kev: float) -> float:
    """Linear attenuation coefficient in 1/mm of "bone", "muscle" or "fat".

    Example:
        >>> round(attenuation_per_mm("bone", 60.0), 4)
        0.0604
    """
    mass = np.exp(np.interp(np.log(energy_kev), np.log(ENERGY_KEV), np.log(MASS_ATTENUATION_CM2_G[material])))
    return float(mass * DENSITY_G_CM3[material] / 10.0)


def attenuation(legs: Sequence[LegMaps], exposure: Exposure) -> FloatImage:
    """Line integral of attenuation (H, W), without unit; soft tissue of legs that overlap is not counted twice."""
    bone, muscle, fat = (attenuation_per_mm(name, exposure.energy_kev) for name in ("bone", "muscle", "fat"))
    soft = np.max([muscle * leg.muscle + fat * leg.fat for leg in legs], axis=0)
    mineral = np.sum([leg.mineral for leg in legs], axis=0)
    return np.asarray(soft + (bone - muscle) * mineral, dtype=np.float32)


def expose(path: FloatImage, pixel_mm: float, exposure: Exposure, rng: np.random.Generator) -> FloatImage:
    """Measured attenuation (H, W): Beer–Lambert light with scatter, blur and noise, and its negative logarithm."""
    light = np.exp(-path)
    light = light + exposure.scatter / (1 - exposure.scatter) * _slow(light, 18.0, pixel_mm)
    light = gaussian_filter(light, np.hypot(exposure.blur_mm / pixel_mm, 0.35), truncate=3.0)
    quanta = exposure.photons_per_mm2 * pixel_mm**2
    spread = np.sqrt(light / quanta + exposure.electronic**2)
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    return np.asarray(-np.log(np.maximum(light + spread * noise, 2e-4)), dtype=np.float32)


def develop(
    measured: FloatImage, leg: NDArray[np.bool_], pixel_mm: float, exposure: Exposure, rng: np.random.Generator
) -> FloatImage:
    """Grey levels (H, W) float32 in [0, 1], bone bright, as a vendor's software would show the measured attenuation."""
    shown = measured
    if exposure.flattening > 0:
        shown = shown - np.float32(exposure.flattening) * _body_trend(shown, leg, pixel_mm)
    if exposure.sharpening > 0 and pixel_mm < 0.8:
        shown = shown + exposure.sharpening * (shown - gaussian_filter(shown, 0.9 / pixel_mm, truncate=2.5))
    sample = shown[leg][::7] if leg.any() else shown.ravel()[::7]
    low, top = (float(mark) for mark in np.percentile(sample, [15.0, 98.5]))
    window = exposure.window * max(top - low, 0.3)
    grey = np.clip(1 - (top + exposure.level * window - shown) / window, 0, 1)
    grey = grey**exposure.gamma
    if exposure.sigmoid > 0:
        end = np.tanh(exposure.sigmoid / 4)
        grey = 0.5 + 0.5 * np.tanh(exposure.sigmoid / 2 * (grey - 0.5)) / end
    grain = exposure.speckle * rng.standard_normal(grey.shape, dtype=np.float32)
    return np.asarray(np.clip(grey + grain * (grey > 0), 0, 1), dtype=np.float32)


def _body_trend(shown: FloatImage, leg: NDArray[np.bool_], pixel_mm: float) -> FloatImage:
    """Slow brightness changes (H, W) within the leg about their mean; 0 far from it, so that air stays dark."""
    mean = shown[leg].mean() if leg.any() else np.float32(0)
    share = _slow(leg.astype(np.float32), 22.0, pixel_mm)
    deviation = _slow(np.where(leg, shown - mean, np.float32(0)), 22.0, pixel_mm)
    return np.asarray(deviation / (share + np.float32(0.02)), dtype=np.float32)


def trabeculae(shape: tuple[int, int], pixel_mm: float, rng: np.random.Generator) -> FloatImage:
    """Band-passed noise (H, W) of unit-order strength, mostly upright strands, the same at any pixel size."""
    rows, columns = fft.next_fast_len(shape[0], real=True), fft.next_fast_len(shape[1], real=True)
    white = rng.standard_normal((rows, columns), dtype=np.float32) / np.float32(pixel_mm)
    response = _band(
        np.asarray(fft.fftfreq(rows, pixel_mm), np.float32)[:, None],
        np.asarray(fft.rfftfreq(columns, pixel_mm), np.float32),
    )
    shaped = fft.irfft2(fft.rfft2(white) * response, s=(rows, columns))
    return np.asarray(shaped[: shape[0], : shape[1]] / _band_strength(), dtype=np.float32)


def _band(fy: FloatImage, fx: FloatImage) -> FloatImage:
    """Amplitude response of trabecular texture to frequencies in cycles per mm."""
    square = fx * fx + fy * fy
    ring = np.exp(-square / 2.0**2) * (1 - np.exp(-square / 0.04**2)) / np.sqrt(0.05 + square)
    return np.asarray(ring * (0.3 + np.exp(-((fy / 0.14) ** 2))), dtype=np.float32)


@cache
def _band_strength() -> float:
    """Standard deviation of the texture before scaling, by integration over all frequencies."""
    axis = np.arange(-5.0, 5.0, 0.02, dtype=np.float32)
    return float(np.sqrt((_band(axis[:, None], axis) ** 2).sum() * 0.02**2))


def _slow(image: FloatImage, sigma_mm: float, pixel_mm: float) -> FloatImage:
    """The image blurred widely, computed on a coarse copy."""
    step = max(1, int(sigma_mm / pixel_mm / 4))
    rows, columns = image.shape
    padded = np.pad(image, ((0, -rows % step), (0, -columns % step)), mode="edge")
    coarse = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step).mean(axis=(1, 3))
    blurred = gaussian_filter(coarse, sigma_mm / pixel_mm / step, mode="nearest")
    fine = zoom(blurred, step, order=1, mode="nearest", grid_mode=True)
    return np.asarray(fine[:rows, :columns], dtype=np.float32)

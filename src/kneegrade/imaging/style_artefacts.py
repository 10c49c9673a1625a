"""Traces that acquisition, films and files leave in a picture: noise, grid lines, lead markers, dust, JPEG, borders.

The functions have the conventions of `kneegrade.imaging.style_filters`. Where a pattern is random, each crop has its
own `seed`, so that the result does not depend on the batch.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from kneegrade.imaging.style_filters import CROP_MM, Values, blur_mm, logistic_curve, look_up, per_knee

LETTERS = {  # 5 × 7 pixels, rows from the top
    "L": (16, 16, 16, 16, 16, 16, 31),
    "R": (30, 17, 17, 30, 20, 18, 17),
    "E": (31, 16, 16, 30, 16, 16, 31),
    "T": (31, 4, 4, 4, 4, 4, 4),
    "5": (31, 16, 30, 1, 1, 17, 14),
    "7": (31, 1, 2, 4, 8, 8, 8),
}
LUMINANCE_TABLE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip


def _noise(crops: Tensor, seed: Tensor) -> Tensor:
    """(N, 1, S, S) standard normal noise, from the seed (N,) of each crop."""
    device = crops.device
    return torch.stack(
        [torch.randn(crops.shape[1:], generator=torch.Generator(device).manual_seed(s), device=device)
         for s in seed.tolist()]
    )  # fmt: skip


def quantum_noise(crops: Tensor, values: Values, seed: Tensor) -> Tensor:
    """Crops with the noise of a finite number of X-ray quanta.

    The number of quanta behind a grey value x is Poisson with mean n·exp(−μx), and x is read from its logarithm. So the
    standard deviation of x is proportional to exp(μx/2): dense bone transmits fewer quanta and is noisier. Light
    that spreads in the scintillator correlates neighbouring pixels.

    Args:
        crops: (N, 1, S, S).
        values: amplitude (N,), standard deviation where x = 0.5; attenuation (N,) μ; correlation_mm (N,), standard
            deviation of the blur of the noise.
        seed: (N,).
    """
    noise = blur_mm(_noise(crops, seed), values["correlation_mm"])
    noise = noise / noise.std(dim=(1, 2, 3), keepdim=True)
    growth = (per_knee(values["attenuation"]) * (crops - 0.5) / 2).exp()
    return crops + per_knee(values["amplitude"]) * growth * noise


def grid_lines(crops: Tensor, values: Values) -> Tensor:
    """Crops with the lines of an anti-scatter grid, or with the moiré of grid and pixels, and one harmonic.

    Lin et al., Grid line artefacts, Med Phys 33 (2006), describe lines as a sinusoid with few harmonics.

    Args:
        crops: (N, 1, S, S).
        values: amplitude (N,) in grey values; period_mm (N,); angle_deg (N,), of the direction across the lines, 0
            along x; phase_rad (N,); harmonic (N,), amplitude of the second harmonic relative to the first.
    """
    axis = torch.arange(crops.shape[-1], device=crops.device, dtype=crops.dtype) * CROP_MM / crops.shape[-1]
    angle = torch.deg2rad(values["angle_deg"])
    across = per_knee(angle.cos()) * axis + per_knee(angle.sin()) * axis.view(-1, 1)
    phase = 2 * math.pi * across / per_knee(values["period_mm"].clamp(min=0.1)) + per_knee(values["phase_rad"])
    wave = phase.sin() + per_knee(values["harmonic"]) * (2 * phase).sin()
    return crops + per_knee(values["amplitude"]) * wave


def resolution(crops: Tensor, values: Values) -> Tensor:
    """Crops blurred by the focal spot, reduced to larger pixels and enlarged again.

    Args:
        crops: (N, 1, S, S).
        values: pixel_mm (N,), side of the larger pixels; blur_mm (N,), standard deviation of the focal spot's blur.
    """
    size = crops.shape[-1]
    blurred = blur_mm(crops, values["blur_mm"])
    result = []
    for crop, pixel_mm in zip(blurred.unsqueeze(1), values["pixel_mm"].tolist(), strict=True):
        coarse = round(CROP_MM / pixel_mm) if pixel_mm else size
        if coarse < size:
            small = functional.interpolate(crop, (coarse, coarse), mode="bilinear", antialias=True)
            crop = functional.interpolate(small, (size, size), mode="bilinear", align_corners=False)
        result.append(crop)
    return torch.cat(result)


def jpeg(crops: Tensor, values: Values) -> Tensor:
    """Crops after the lossy part of baseline JPEG (ITU-T T.81): rounded cosine transforms of 8 × 8 pixels.

    Args:
        crops: (N, 1, S, S).
        values: quality (N,), 1 to 100, with the tables and the scale of the Independent JPEG Group.
    """
    size = crops.shape[-1]
    padded = functional.pad(crops, (0, -size % 8, 0, -size % 8), mode="replicate") * 255 - 128
    side = padded.shape[-1] // 8
    k = torch.arange(8, device=crops.device, dtype=crops.dtype)
    cosine = torch.cos((2 * k + 1) * k[:, None] * math.pi / 16) / 2
    cosine[0] /= math.sqrt(2)
    blocks = padded.view(-1, side, 8, side, 8).transpose(2, 3).reshape(len(crops), -1, 8, 8)
    quality = values["quality"].clamp(1, 100)
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50)
    table = torch.tensor(LUMINANCE_TABLE, device=crops.device, dtype=crops.dtype).view(8, 8)
    table = (table * per_knee(scale)).round().clamp(min=1)
    rounded = ((cosine @ blocks @ cosine.T) / table).round() * table
    decoded = (cosine.T @ rounded @ cosine).view(-1, side, side, 8, 8).transpose(2, 3).reshape_as(padded)
    return (decoded[..., :size, :size] + 128) / 255


def digitised_film(crops: Tensor, values: Values, seed: Tensor) -> Tensor:
    """Crops as from a film on a light box or in a scanner: film curve, uneven light, line banding and grain.

    Grain is strongest at middle densities and coarser than quantum noise. Banding is a factor per line of the scan.

    Args:
        crops: (N, 1, S, S).
        values: slope and centre (N,) of the film's characteristic curve; falloff (N,) of the light from the middle to
            the corners; banding (N,) and grain (N,), standard deviations in grey values; grain_mm (N,), standard
            deviation of the grain's blur; along_x (N,), banding along x if positive.
        seed: (N,).
    """
    knots = torch.linspace(0, 1, 33, device=crops.device, dtype=crops.dtype)
    film = look_up(crops, logistic_curve(knots, values["slope"], values["centre"]))
    noise = _noise(crops, seed)
    grain = blur_mm(noise, values["grain_mm"])
    grain = grain / grain.std(dim=(1, 2, 3), keepdim=True)
    lines = noise[:, :, :1]  # (N, 1, 1, S), one value per column
    lines = functional.avg_pool2d(functional.pad(lines, (1, 1, 0, 0), mode="replicate"), (1, 3), stride=1) * 1.7
    lines = torch.where(per_knee(values["along_x"]) > 0, lines.transpose(2, 3), lines)
    axis = torch.linspace(-1, 1, crops.shape[-1], device=crops.device, dtype=crops.dtype)
    light = 1 - per_knee(values["falloff"]) * (axis.view(-1, 1) ** 2 + axis**2) / 2
    strength = per_knee(values["grain"]) * 2 * (film * (1 - film)).clamp(min=0).sqrt()
    return (film + strength * grain) * light + per_knee(values["banding"]) * lines


def markers(crops: Tensor, values: Values, seed: Tensor) -> Tensor:
    """Crops with lead letters, plates or balls beside the knee, never within the middle of the crop.

    Args:
        crops: (N, 1, S, S).
        values: opacity (N,) of the lead; number (N,) of objects, rounded up; size_mm (N,), height of a letter.
        seed: (N,), of kind, place and proportions.
    """
    result = crops.clone()
    for crop, opacity, number, size_mm, crop_seed in zip(
        result[:, 0], *(values[k].tolist() for k in ("opacity", "number", "size_mm")), seed.tolist(), strict=True
    ):
        generator = torch.Generator().manual_seed(crop_seed)
        for _ in range(math.ceil(number)):
            _paste_marker(crop, opacity, size_mm / CROP_MM, generator)
    return result


def _paste_marker(crop: Tensor, opacity: float, size: float, generator: torch.Generator) -> None:
    """Draws one object of lead into `crop` (S, S), in place; `size` is its height as a fraction of the side."""
    kind, u, v, mirrored, aspect = torch.rand(5, generator=generator).tolist()
    side = crop.shape[-1]
    height = max(4, round(size * side))
    if kind < 0.5:
        rows = list(LETTERS.values())[int(kind * 2 * len(LETTERS))]
        shape = torch.tensor([[(row >> bit) & 1 for bit in range(4, -1, -1)] for row in rows], dtype=crop.dtype)
        shape = functional.pad(shape.flip(1) if mirrored < 0.5 else shape, (1, 1, 1, 1))
        width = round(height * (0.6 + 0.4 * aspect))
        mask = functional.interpolate(shape[None, None], (height, width), mode="bilinear", antialias=True)[0, 0]
    elif kind < 0.8:
        mask = torch.ones(round(height * (0.25 + aspect)) + 1, height)
    else:
        axis = torch.linspace(-1, 1, height)
        mask = ((1 - (axis[:, None] ** 2 + axis**2).sqrt()) * height / 2).clamp(0, 1)
    if u < 0.5:  # beside the knee
        x, y = (0.0 if u < 0.25 else 1.0), (v - 0.5) * 2
        x, y = x + (0.5 - x) * 0.06, 0.5 + math.copysign(0.16 + 0.34 * abs(y), y)
    else:  # above or below
        x, y = v, (0.03 if u < 0.75 else 0.97)
    top, left = round(y * side - mask.shape[0] / 2), round(x * side - mask.shape[1] / 2)
    first_row, first_column = max(0, -top), max(0, -left)
    mask = mask[first_row : side - top, first_column : side - left].to(crop.device) * opacity
    target = crop[top + first_row :, left + first_column :][: mask.shape[0], : mask.shape[1]]
    target.lerp_(torch.ones_like(target), mask)


def dust(crops: Tensor, values: Values, seed: Tensor) -> Tensor:
    """Crops with scratches, hairs and specks of a film or an imaging plate, bright or dark.

    Args:
        crops: (N, 1, S, S).
        values: amplitude (N,) in grey values; scratches (N,) and specks (N,), numbers, rounded.
        seed: (N,), of places, lengths and signs.
    """
    size = crops.shape[-1]
    axis = torch.arange(size, device=crops.device, dtype=crops.dtype) / size
    y, x = axis[:, None], axis
    result = []
    for crop, amplitude, scratches, specks, crop_seed in zip(
        crops, *(values[k].tolist() for k in ("amplitude", "scratches", "specks")), seed.tolist(), strict=True
    ):
        generator = torch.Generator().manual_seed(crop_seed)
        change = torch.zeros(size, size, device=crops.device)
        for _ in range(round(scratches)):
            x0, y0, turn, length, bend, width, sign = torch.rand(7, generator=generator).tolist()
            cos, sin = math.cos(math.pi * turn), math.sin(math.pi * turn)
            along, across = (x - x0) * cos + (y - y0) * sin, (y - y0) * cos - (x - x0) * sin
            across = (across + (bend - 0.5) * along**2) / (0.002 + 0.002 * width)
            inside = along.abs() < 0.05 + 0.35 * length**2
            change += (-(across**2)).exp() * inside * (1.0 if sign < 0.6 else -1.0)
        number = round(specks)
        places = (torch.rand(number, 2, generator=generator) * (size - 2)).long().to(crops.device)
        signs = torch.where(torch.rand(number, generator=generator) < 0.6, 1.0, -1.0).to(crops.device)
        for row, column in ((0, 0), (0, 1), (1, 0)):
            change.index_put_((places[:, 0] + row, places[:, 1] + column), signs * (1 - 0.4 * (row + column)))
        result.append(crop + amplitude * change)
    return torch.stack(result)


def collimated(covered: Tensor, values: Values) -> Tensor:
    """Coverage (N, 1, S, S) bool that is left inside a rectangle, slightly rotated about the middle of the crop.

    Args:
        covered: (N, 1, S, S) bool.
        values: sides (N, 2), lost shares at the left and the right; ends (N, 2), at the top and the bottom;
            angle_deg (N,).
    """
    size = covered.shape[-1]
    axis = (torch.arange(size, device=covered.device, dtype=torch.float32) - (size - 1) / 2) / size
    angle = torch.deg2rad(values["angle_deg"])
    cos, sin = per_knee(angle.cos()), per_knee(angle.sin())
    x, y = axis * cos + axis.view(-1, 1) * sin, axis.view(-1, 1) * cos - axis * sin
    left, right = values["sides"].unbind(1)
    top, bottom = values["ends"].unbind(1)
    # A side that loses nothing must not cut the corners when the rectangle is rotated.
    limits = [torch.where(v > 0, 0.5 - v, 1.0) for v in (left, right, top, bottom)]
    left, right, top, bottom = (per_knee(v) for v in limits)
    return covered & (x >= -left) & (x <= right) & (y >= -top) & (y <= bottom)

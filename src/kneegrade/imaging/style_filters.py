"""Filters that change the contrast and the sharpness of a picture, as the software of X-ray systems does.

Every function takes crops (N, 1, S, S) float32 with bone bright and dictionaries of parameters (N,) or (N, k), and
returns crops of the same shape, not clipped. The result for a crop does not depend on the others in the batch. Lengths
are in mm of a crop whose side is `CROP_MM`. `kneegrade.imaging.styles` lists the ranges of the parameters.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

CROP_MM = 90.0  # side of a crop: 1.2 widths of a tibial plateau of 75 mm
FINEST_BAND_MM = 0.4  # pixel of a 224 px crop; the first band gain of `multiscale_contrast` belongs to it
BAND_SCALE, BAND_FLOOR = 0.15, 0.02  # grey values between which weak details are amplified
CURVE_KNOTS = 33
CLAHE_TILES, CLAHE_BINS = 6, 64

Values = Mapping[str, Tensor]


def per_knee(values: Tensor) -> Tensor:
    """(N, 1, 1, 1) view of (N,) values."""
    return values.view(-1, 1, 1, 1)


def filled(crops: Tensor, covered: Tensor) -> Tensor:
    """Crops whose pixels outside `covered` (N, 1, S, S) bool are interpolated from means over 2, 4, 8, … pixels."""
    if covered.all():
        return crops
    weight = covered.to(crops.dtype)
    if crops.shape[-1] <= 2:
        mean = (crops * weight).sum((2, 3), keepdim=True) / weight.sum((2, 3), keepdim=True).clamp(min=1)
        return torch.where(covered, crops, mean)
    share = functional.avg_pool2d(weight, 2, ceil_mode=True)
    smaller = functional.avg_pool2d(crops * weight, 2, ceil_mode=True) / share.clamp(min=1e-6)
    smaller = filled(smaller, share > 0)
    return torch.where(covered, crops, functional.interpolate(smaller, crops.shape[-2:], mode="bilinear"))


def gaussian_blur(crops: Tensor, sigma_px: Tensor) -> Tensor:
    """Crops, each convolved with a Gaussian of its own standard deviation (N,) in pixels, normalised at the borders.

    Written as two products with a banded matrix, which costs the same for every width; 0 means no blur.
    """
    place = torch.arange(crops.shape[-1], device=crops.device, dtype=crops.dtype)
    square = (place[:, None] - place) ** 2
    matrix = functional.softmax(-square / (2 * sigma_px.clamp(min=0.05)[:, None, None] ** 2), dim=2)
    return (matrix @ crops[:, 0] @ matrix.transpose(1, 2)).unsqueeze(1)


def blur_mm(crops: Tensor, sigma_mm: Tensor) -> Tensor:
    """`gaussian_blur` with standard deviations in mm."""
    return gaussian_blur(crops, sigma_mm * crops.shape[-1] / CROP_MM)


def _with_moments_of(crops: Tensor, model: Tensor) -> Tensor:
    """Crops with the mean and the standard deviation of `model`, as software fits its output to the display."""
    std, mean = torch.std_mean(crops, dim=(1, 2, 3), keepdim=True)
    model_std, model_mean = torch.std_mean(model, dim=(1, 2, 3), keepdim=True)
    return (crops - mean) * (model_std / std.clamp(min=1e-4)) + model_mean


def multiscale_contrast(crops: Tensor, values: Values) -> Tensor:
    """Crops whose details are amplified band by band, weak details more than strong ones.

    The picture is decomposed into a Laplacian pyramid. A detail b becomes g·b·((b² + f²)/M²)^((p − 1)/2): for p < 1 low
    contrast is amplified and high contrast is compressed. g is a gain per octave, and the coarsest picture is
    multiplied by `latitude`. MUSICA (Vuylsteke and Schoeters, Multiscale image contrast amplification, SPIE 2167, 1994)
    and UNIQUE (Stahl et al., SPIE 3979, 2000) work like this.

    Args:
        crops: (N, 1, S, S).
        values: exponent (N,); log_gains (N, 6), natural logarithm, octaves from 0.4 mm; latitude (N,).
    """
    finest = math.log2(CROP_MM / crops.shape[-1] / FINEST_BAND_MM)
    gains = values["log_gains"].exp()
    details, coarse = [], crops
    while coarse.shape[-1] >= 8:
        smaller = functional.avg_pool2d(coarse, 2, ceil_mode=True, count_include_pad=False)
        size = coarse.shape[-2:]
        details.append(coarse - functional.interpolate(smaller, size, mode="bilinear", align_corners=False))
        coarse = smaller
    middle = coarse.mean((1, 2, 3), keepdim=True)
    result = middle + (coarse - middle) * per_knee(values["latitude"])
    power = per_knee((values["exponent"] - 1) / 2)
    for level, detail in reversed(list(enumerate(details))):
        octave = min(max(level + finest, 0.0), gains.shape[1] - 1.0)
        low = min(int(octave), gains.shape[1] - 2)
        gain = torch.lerp(gains[:, low], gains[:, low + 1], octave - low)
        amplified = detail * ((detail**2 + BAND_FLOOR**2) / BAND_SCALE**2) ** power * per_knee(gain)
        result = functional.interpolate(result, detail.shape[-2:], mode="bilinear", align_corners=False) + amplified
    return _with_moments_of(result, crops)


def unsharp_mask(crops: Tensor, values: Values) -> Tensor:
    """Crops plus `gain` times their difference from a blurred copy; edges overshoot, as on computed radiographs.

    Prokop and Schaefer-Prokop, Digital image processing, Eur Radiol 7 (suppl 3), 1997.

    Args:
        crops: (N, 1, S, S).
        values: radius_mm (N,), standard deviation of the blur; gain (N,).
    """
    sharpened = crops + per_knee(values["gain"]) * (crops - blur_mm(crops, values["radius_mm"]))
    return _with_moments_of(sharpened, crops)


def dynamic_range_compression(crops: Tensor, values: Values) -> Tensor:
    """Crops whose slow variation is reduced, so that soft tissue and dense bone are both visible.

    Kobayashi et al., Dynamic range compression processing, J Digit Imaging 4 (1991): a multiple of a blurred copy is
    subtracted.

    Args:
        crops: (N, 1, S, S).
        values: radius_mm (N,), standard deviation of the blur; share (N,) of the slow variation that is removed.
    """
    slow = blur_mm(crops, values["radius_mm"])
    compressed = crops - per_knee(values["share"]) * (slow - slow.mean((1, 2, 3), keepdim=True))
    return _with_moments_of(compressed, crops)


def shading(crops: Tensor, values: Values) -> Tensor:
    """Crops with a smooth background: a slope and a bowl, as from the heel effect, scatter and exposure off centre.

    Grey values are logarithms of exposure, so the background is added. The result is fitted into [0, 1], not clipped.

    Args:
        crops: (N, 1, S, S).
        values: slope (N, 2) along x and y, and bowl (N,), in grey values from the middle to the border.
    """
    axis = torch.linspace(-1, 1, crops.shape[-1], device=crops.device, dtype=crops.dtype)
    slope_x, slope_y = values["slope"].unbind(1)
    radius = axis.view(-1, 1) ** 2 + axis**2 - 0.667
    slope = per_knee(slope_x) * axis + per_knee(slope_y) * axis.view(-1, 1)
    shaded = crops + slope + per_knee(values["bowl"]) / 2 * radius
    low = shaded.amin((1, 2, 3), keepdim=True).clamp(max=0)
    high = shaded.amax((1, 2, 3), keepdim=True).clamp(min=1)
    return (shaded - low) / (high - low)


def look_up(crops: Tensor, curves: Tensor) -> Tensor:
    """Crops, clipped to [0, 1], after look-up in curves (N, K) at K equidistant knots, interpolated linearly."""
    last = curves.shape[1] - 1
    place = crops.flatten(1).clamp(0, 1) * last
    low = place.long().clamp(max=last - 1)
    below, above = curves.gather(1, low), curves.gather(1, low + 1)
    return torch.lerp(below, above, place - low).view_as(crops)


def logistic_curve(knots: Tensor, slope: Tensor, centre: Tensor) -> Tensor:
    """(N, K) S curve from 0 to 1 with a slope (N,) at a centre (N,); a slope of 0 gives a straight line."""
    steep = slope.clamp(min=1e-2)[:, None]
    curve = torch.sigmoid(steep * (knots - centre[:, None]))
    return (curve - curve[:, :1]) / (curve[:, -1:] - curve[:, :1])


def tone_curve(crops: Tensor, values: Values) -> Tensor:
    """Crops after a monotone look-up table: a power, an S curve and a piecewise linear curve, one after the other.

    The S curve is the characteristic (Hurter and Driffield) curve of a film, which systems imitate in their tables.

    Args:
        crops: (N, 1, S, S).
        values: log_gamma (N,), natural logarithm of the power; slope and centre (N,) of the S curve; log_steps (N, 8),
            natural logarithm of the relative slopes of the pieces.
    """
    knots = torch.linspace(0, 1, CURVE_KNOTS, device=crops.device, dtype=crops.dtype)
    power = knots ** values["log_gamma"].exp()[:, None]
    steps = values["log_steps"].exp()
    pieces = functional.pad((steps / steps.sum(1, keepdim=True)).cumsum(1), (1, 0))
    s_curve = logistic_curve(knots, values["slope"], values["centre"])
    return look_up(crops, look_up(look_up(power, s_curve), pieces))


def window(crops: Tensor, values: Values) -> Tensor:
    """Crops clipped to a window of grey values, which becomes [0, 1], and quantised, as in an export at 8 bits or less.

    Args:
        crops: (N, 1, S, S).
        values: clipped (N, 2), shares of the pixels that are clipped at the dark and at the bright end; log_levels
            (N,), natural logarithm of the number of grey levels.
    """
    ranked = functional.pad(crops[..., ::4, ::4].flatten(1).clamp(0, 1).sort(dim=1).values, (1, 1))
    ranked[:, 0], ranked[:, -1] = 0, 1  # no share clips nothing
    last = ranked.shape[1] - 1
    places = (torch.stack([values["clipped"][:, 0], 1 - values["clipped"][:, 1]], dim=1) * last).round().long()
    low, high = ranked.gather(1, places).unbind(1)
    clipped = ((crops - per_knee(low)) / per_knee((high - low).clamp(min=0.05))).clamp(0, 1)
    steps = per_knee(values["log_levels"].exp() - 1)
    return (clipped * steps).round() / steps


def local_equalisation(crops: Tensor, values: Values) -> Tensor:
    """Crops after contrast limited adaptive histogram equalisation (CLAHE) with 6 × 6 tiles and 64 bins.

    Pizer et al., Adaptive histogram equalization and its variations, CVGIP 39 (1987). The maps of the four nearest
    tiles are interpolated bilinearly.

    Args:
        crops: (N, 1, S, S).
        values: clip (N,), largest height of a bin as a multiple of the mean; share (N,) of the equalised picture.
    """
    number, size = len(crops), crops.shape[-1]
    tiles, bins = CLAHE_TILES, CLAHE_BINS
    grey = (crops[:, 0].clamp(0, 1) * (bins - 1)).round().long()
    place = (torch.arange(size, device=crops.device) + 0.5) * tiles / size
    own = place.long()
    key = ((own[:, None] * tiles + own) * bins + grey).flatten(1)
    counts = torch.zeros(number, tiles * tiles * bins, device=crops.device)
    counts.scatter_add_(1, key, torch.ones_like(key, dtype=counts.dtype))
    share = counts.view(number, -1, bins) * (tiles / size) ** 2
    limited = share.minimum(values["clip"].view(-1, 1, 1) / bins)
    limited = limited + (share.sum(2, keepdim=True) - limited.sum(2, keepdim=True)) / bins
    maps = limited.cumsum(2) - limited / 2
    low = (place - 0.5).floor()
    weight = (place - 0.5 - low).to(crops.dtype)
    first, second = low.long().clamp(0, tiles - 1), (low.long() + 1).clamp(0, tiles - 1)
    equalised = torch.zeros_like(crops[:, 0])
    for row, row_weight in ((first, 1 - weight), (second, weight)):
        for column, column_weight in ((first, 1 - weight), (second, weight)):
            key = ((row[:, None] * tiles + column) * bins + grey).flatten(1)
            mapped = maps.flatten(1).gather(1, key).view_as(equalised)
            equalised += mapped * (row_weight[:, None] * column_weight)
    return torch.lerp(crops, equalised.unsqueeze(1), per_knee(values["share"]))

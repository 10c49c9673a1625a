"""Metal in a knee: arthroplasties, plates, screws and staples, as training data for the detection of implants."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Material = Literal["titanium", "steel"]
Kind = Literal["total_knee", "partial_knee", "plate", "screws", "staple"]

KINDS: tuple[Kind, ...] = ("total_knee", "partial_knee", "plate", "screws", "staple")
KIND_SHARES = (0.4, 0.15, 0.15, 0.2, 0.1)


@dataclass(frozen=True)
class Bar:
    """A straight metal part with round ends.

    Attributes:
        start, end: end points (x, y) of its axis in mm of the knee.
        half_width: half-width in mm in the image plane.
        depth: thickness in mm along the ray; None for a round rod, which is as thick as it is wide.
        material: cobalt–chromium is modelled as steel, whose attenuation is similar.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    half_width: float
    depth: float | None
    material: Material


@dataclass(frozen=True)
class Implant:
    """An implant: its kind and its metal parts."""

    kind: Kind
    bars: tuple[Bar, ...]

    @property
    def is_arthroplasty(self) -> bool:
        """Whether joint surfaces are replaced, so that the knee cannot be graded."""
        return self.kind in ("total_knee", "partial_knee")


def sample_implant(seed: int, index: int, outline: Array) -> Implant:
    """The implant of knee `index` of population `seed`, fitted to its outline (74, 2) mm."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, index, 9]))
    kind = KINDS[rng.choice(len(KINDS), p=KIND_SHARES)]
    size = float(outline[63, 0] - outline[47, 0]) / 80.0
    if kind == "total_knee":
        bars = [*_condyles(outline, range(10, 27), rng), *_tray(outline, 46, 64, rng)]
        if rng.random() < 0.9:
            bars.append(_stem(outline, float(rng.uniform(30, 60)) * size, float(rng.uniform(4.5, 7.5)) * size))
        if rng.random() < 0.5:  # the box of a posterior-stabilised design
            x, y = outline[18]
            bars.append(_bar((x - 8, y - 6), (x + 8, y - 6), 4.0, 14.0, "steel"))
    elif kind == "partial_knee":
        bars = [*_condyles(outline, range(20, 27), rng), *_tray(outline, 58, 64, rng)]
        x, y = outline[61]
        bars.append(_bar((x, y + 2), (x, y + 14), 1.5, 12.0, "steel"))
    elif kind == "plate":
        bars = _plate(outline, rng, size)
    elif kind == "screws":
        bars = _screws(outline, rng)
    else:
        bars = _staple(outline, rng)
    return Implant(kind, tuple(bars))


def _bar(
    start: tuple[float, float], end: tuple[float, float], half: float, depth: float | None, material: Material
) -> Bar:
    """A `Bar` with all numbers converted to Python floats."""
    (a, b), (c, d) = start, end
    return Bar((float(a), float(b)), (float(c), float(d)), float(half), depth, material)


def _condyles(outline: Array, numbers: range, rng: np.random.Generator) -> list[Bar]:
    """A metal shell along the joint surface of the femur, over the given landmark numbers."""
    half, depth = float(rng.uniform(1.8, 3.0)), float(rng.uniform(18, 40))
    points = outline[list(numbers)] - [0.0, half]
    pairs = zip(points[:-1].tolist(), points[1:].tolist(), strict=True)
    return [_bar((a, b), (c, d), half, depth, "steel") for (a, b), (c, d) in pairs]


def _tray(outline: Array, first: int, last: int, rng: np.random.Generator) -> list[Bar]:
    """A flat tray that replaces the plateau between two landmarks."""
    half = float(rng.uniform(1.5, 2.5))
    (x0, y0), (x1, y1) = outline[first], outline[last]
    level = float(max(y0, y1)) + 2.0
    return [_bar((x0 + half, level), (x1 - half, level), half, float(rng.uniform(25, 42)), "titanium")]


def _stem(outline: Array, length: float, half: float) -> Bar:
    """The stem of a tibial tray."""
    x, y = (outline[47] + outline[63]) / 2
    return _bar((x, y + 3.0), (x, y + length), half, None, "titanium")


def _plate(outline: Array, rng: np.random.Generator, size: float) -> list[Bar]:
    """A plate with its screws on the lateral or medial side of the tibia."""
    lateral = bool(rng.random() < 0.6)
    side, inward = (outline[43], 1.0) if lateral else (outline[67], -1.0)
    top, length = float(side[1] - rng.uniform(4, 10)), float(rng.uniform(50, 110)) * size
    x0, x1 = float(side[0] - inward * 1.5), float(side[0] + inward * rng.uniform(10, 16))
    bars = [_bar((x0, top), (x1, top + length), 1.8, 11.0, "titanium")]
    for share in np.linspace(0.03, 0.95, int(rng.integers(4, 8))):
        x, y = x0 + share * (x1 - x0), top + share * length
        reach = float(rng.uniform(38, 62) if share < 0.3 else rng.uniform(20, 30)) * size
        bars.append(_bar((x, y), (x + inward * reach, y + float(rng.normal(0, 2))), 1.7, None, "titanium"))
    return bars


def _screws(outline: Array, rng: np.random.Generator) -> list[Bar]:
    """One to three screws in the femur or tibia, as after ligament reconstruction."""
    bars = []
    for _ in range(int(rng.integers(1, 4))):
        below = bool(rng.random() < 0.6)
        x, y = (
            outline[55] + [rng.normal(0, 10), rng.uniform(15, 40)] if below else outline[18] - [0, rng.uniform(8, 30)]
        )
        angle, length = float(rng.uniform(-1.2, 1.2)), float(rng.uniform(15, 40))
        end = (float(x) + length * np.sin(angle), float(y) + length * np.cos(angle))
        material: Material = "titanium" if rng.random() < 0.6 else "steel"
        bars.append(_bar((float(x), float(y)), end, float(rng.uniform(1.6, 4.0)), None, material))
    return bars


def _staple(outline: Array, rng: np.random.Generator) -> list[Bar]:
    """A U-shaped staple on the lateral or medial margin of the tibia."""
    lateral = bool(rng.random() < 0.5)
    (x, y), inward = (outline[44], 1.0) if lateral else (outline[66], -1.0)
    width, depth = float(rng.uniform(8, 16)), float(rng.uniform(10, 20)) * inward
    bars = [_bar((x, y), (x, y + width), 1.2, 4.0, "steel")]
    return bars + [_bar((x, y + part), (x + depth, y + part), 1.2, None, "steel") for part in (0.0, width)]

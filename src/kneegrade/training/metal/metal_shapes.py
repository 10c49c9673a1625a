"""What metal lies in a knee, and where: parts of implants at the landmarks of a knee, drawn at random.

Lengths are in millimetres of a knee whose tibial plateau is 80 mm wide, lateral on the left. `drawn_metal` renders the
parts.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MetalPart:
    """A part of uniform optical depth.

    Attributes:
        points_mm: (n, 2) corners of a polygon, or points of a line.
        depth: optical depth along the ray, natural logarithm; negative for removed bone.
        half_width_mm: of a line with round ends, which is thinner at its edges; None for a filled polygon.
    """

    points_mm: Array
    depth: float
    half_width_mm: float | None = None


def sample_metal(landmarks_mm: Array, rng: np.random.Generator, kind: str | None = None) -> list[MetalPart]:
    """The parts of an implant of a level knee with lateral on the left.

    Args:
        landmarks_mm: (74, 2) from `knee_mm`; ends of the shafts may be NaN.
        rng: random generator.
        kind: one of `KINDS`; drawn with the probabilities `KIND_SHARES` by default.
    """
    names = list(KINDS)
    chosen = kind or names[rng.choice(len(names), p=KIND_SHARES)]
    return KINDS[chosen](landmarks_mm, rng)


def _polygon(points: object, depth: float) -> MetalPart:
    return MetalPart(np.asarray(points, dtype=np.float64).reshape(-1, 2), depth)


def _line(points: object, half_width_mm: float, depth: float) -> MetalPart:
    return MetalPart(np.asarray(points, dtype=np.float64).reshape(-1, 2), depth, half_width_mm)


def _screw(
    start: Array, angle: float, length: float, rng: np.random.Generator, half: float | None = None
) -> list[MetalPart]:
    """A screw from its head at `start` in direction `angle` (0 = down), perhaps with a visible thread."""
    half, depth = half or float(rng.uniform(1.5, 3.6)), float(rng.uniform(0.7, 2.5))
    along = np.array([np.sin(angle), np.cos(angle)])
    across = np.array([along[1], -along[0]])
    parts = [_line([start, start + along * length], half, depth)]
    if rng.random() < 0.5:
        parts.append(_line([start - across * half * 0.6, start + across * half * 0.6], half, depth))
    if rng.random() < 0.5:
        first = length * float(rng.choice([0.1, 0.55]))
        for position in np.arange(first, length, rng.uniform(1.5, 2.8)):
            centre = start + along * position
            parts.append(_line([centre - across * half, centre + across * half + along * 0.6], 0.5, depth * 0.6))
    return parts


def _total_knee(points: Array, rng: np.random.Generator) -> list[MetalPart]:
    """Condylar shell with anterior flange, tibial tray with stem and keel, perhaps box and patella."""
    centre = (points[47, 0] + points[63, 0]) / 2
    joint = float(min(points[12:25, 1].max(), points[47:64, 1].max()))
    shell, depth = float(rng.uniform(3.0, 5.5)), float(rng.uniform(2.0, 5.0))
    surface = points[11:26] - [0, shell * 0.7]
    parts = [_line(surface, shell, depth)]
    for inner, outer in ((17, 11), (19, 25)):  # posterior condyles
        x0, x1, top = points[inner, 0], points[outer, 0], joint - rng.uniform(16, 30)
        sides = [(x0, joint - 6), (x0 + (x1 - x0) * 0.12, top + 4), (x0 + (x1 - x0) * 0.3, top),
                 (x0 + (x1 - x0) * 0.8, top), (x1, top + 5), (x1, joint - 6)]  # fmt: skip
        parts.append(_polygon(sides, depth * float(rng.uniform(0.5, 1.0))))
    low, high = rng.uniform(26, 36), rng.uniform(14, 24)
    flange, rise = joint - rng.uniform(32, 55), joint - rng.uniform(8, 16)
    parts.append(
        _polygon([(centre - low, rise), (centre - high, flange), (centre + high, flange), (centre + low, rise)],
                 float(rng.uniform(0.4, 2.5)))
    )  # fmt: skip
    if rng.random() < 0.5:
        half, top = rng.uniform(8, 12), joint - rng.uniform(14, 24)
        parts.append(
            _polygon(
                [(centre - half, joint - 3), (centre - half, top), (centre + half, top), (centre + half, joint - 3)],
                depth,
            )
        )
    if rng.random() < 0.12:
        parts.append(
            _line(
                [(centre, joint - 20), (centre + rng.normal(0, 4), joint - 120)], rng.uniform(5, 8), rng.uniform(1.5, 3)
            )
        )
    if rng.random() < 0.6:
        x0, x1, below = points[46, 0], points[64, 0], joint + rng.uniform(5, 11)
        parts.append(_polygon([(x0, joint), (x1, joint), (x1, below), (x0, below)], -float(rng.uniform(0.1, 0.5))))
    parts += _tibial_component(points, centre, joint, rng)
    if rng.random() < 0.3:
        around = np.linspace(0, 2 * np.pi, 25)
        button = np.array([centre + rng.normal(0, 5), joint - rng.uniform(20, 38)])
        ring = button + rng.uniform(11, 15) * np.column_stack([np.cos(around), np.sin(around)])
        parts.append(
            _line(ring, 0.8, rng.uniform(0.5, 1.5)) if rng.random() < 0.5 else _polygon(ring, rng.uniform(0.4, 2))
        )
    return parts


def _tibial_component(points: Array, centre: float, joint: float, rng: np.random.Generator) -> list[MetalPart]:
    """Tray, keel and stem of a total knee."""
    left, right = points[46, 0] + rng.uniform(-2, 3), points[64, 0] + rng.uniform(-3, 2)
    level, thick, tilt = joint + rng.uniform(5, 12), rng.uniform(2.5, 5), rng.normal(0, 1.5)
    depth = float(rng.uniform(1.8, 5))
    tray = [(left, level - tilt), (right, level + tilt), (right, level + tilt + thick), (left, level - tilt + thick)]
    parts = [_polygon(tray, depth)]
    half, length = rng.uniform(5, 8.5), rng.uniform(22, 65)
    if rng.random() < 0.8:  # keel
        wing, down = rng.uniform(14, 28), rng.uniform(12, 22)
        keel = [
            (centre - wing, level + 2),
            (centre + wing, level + 2),
            (centre + half, level + down),
            (centre - half, level + down),
        ]
        parts.append(_polygon(keel, depth * float(rng.uniform(0.3, 0.9))))
    if rng.random() < 0.9:
        parts.append(
            _line(
                [(centre, level + 3), (centre + rng.normal(0, 1.5), level + length)],
                half,
                depth * float(rng.uniform(0.6, 1)),
            )
        )
    if rng.random() < 0.4:
        for x in (centre - rng.uniform(18, 26), centre + rng.uniform(18, 26)):
            parts.append(_line([(x, level + 2), (x, level + rng.uniform(8, 14))], rng.uniform(2, 3.5), depth))
    return parts


def _partial_knee(points: Array, rng: np.random.Generator) -> list[MetalPart]:
    """A unicompartmental replacement, medial three times as often as lateral."""
    medial = bool(rng.random() < 0.75)
    surface = points[20:25] if medial else points[12:17]
    half, depth = float(rng.uniform(2.0, 4.5)), float(rng.uniform(1.5, 4.5))
    parts = [_line(surface - [0, half * 0.7], half, depth)]
    x, y = surface.mean(0)
    if rng.random() < 0.7:  # posterior condyle, on edge
        wide, top = rng.uniform(7, 11), y - rng.uniform(12, 24)
        parts.append(
            _polygon(
                [(x - wide, y - 3), (x - wide * 0.8, top), (x + wide * 0.8, top), (x + wide, y - 3)],
                depth * float(rng.uniform(0.4, 1)),
            )
        )
    parts.append(_line([(x, y - 3), (x + rng.normal(0, 1.5), y - rng.uniform(12, 24))], rng.uniform(2, 3.2), depth))
    plateau = points[58:64] if medial else points[47:53]
    (x0, x1), level = (plateau[:, 0].min(), plateau[:, 0].max()), float(plateau[:, 1].max()) + rng.uniform(2, 7)
    thick = rng.uniform(1.5, 4)
    parts.append(_polygon([(x0, level), (x1, level), (x1, level + thick), (x0, level + thick)], depth))
    keel = rng.uniform(x0 + 5, x1 - 5)
    parts.append(_line([(keel, level + 1), (keel, level + rng.uniform(7, 15))], rng.uniform(1, 3), depth))
    return parts


def _plate(points: Array, rng: np.random.Generator) -> list[MetalPart]:
    """A plate with screws along one side of the tibia or the femur."""
    lateral, tibial = bool(rng.random() < 0.6), bool(rng.random() < 0.65)
    inward, down = (1.0 if lateral else -1.0), (1.0 if tibial else -1.0)
    corner = {(True, True): 45, (False, True): 65, (True, False): 10, (False, False): 26}[lateral, tibial]
    start = points[corner] + [rng.uniform(-2, 3) * inward, -down * rng.uniform(-4, 8)]
    length, lean, half = rng.uniform(40, 120), rng.uniform(4, 18), rng.uniform(1.4, 6)
    end = start + np.array([inward * lean, down * length])
    curve = np.array([start, start + np.array([inward * lean * 0.6, down * length * 0.35]), end])
    parts = [_line(curve, half, float(rng.uniform(0.8, 3)))]
    for share in np.sort(rng.uniform(0.02, 0.98, int(rng.integers(3, 9)))):
        at = start + (end - start) * share
        reach = rng.uniform(35, 68) if share < 0.35 else rng.uniform(16, 34)
        parts += _screw(at, inward * np.pi / 2 + rng.normal(0, 0.12), float(reach), rng, float(rng.uniform(1.3, 2.6)))
    return parts


def _nail(points: Array, rng: np.random.Generator) -> list[MetalPart]:
    """An intramedullary nail of tibia or femur with up to three locking screws."""
    tibial = bool(rng.random() < 0.6)
    down = 1.0 if tibial else -1.0
    start = points[55 if tibial else 18] + [rng.normal(0, 4), down * rng.uniform(4, 22)]
    half, depth = float(rng.uniform(4, 6.5)), float(rng.uniform(1, 3))
    end = start + np.array([rng.normal(0, 6), down * 130])
    parts = [_line([start, end], half, depth)]
    if rng.random() < 0.5:  # hollow: the walls are denser
        parts += [
            _line([start + np.array([side, 0]), end + np.array([side, 0])], 1.0, depth * 0.4)
            for side in (-half * 0.8, half * 0.8)
        ]
    for _ in range(int(rng.integers(0, 4))):
        at = start + (end - start) * rng.uniform(0.02, 0.35) - [rng.uniform(20, 34), 0]
        parts += _screw(
            at, np.pi / 2 + rng.normal(0, 0.15), float(rng.uniform(42, 66)), rng, float(rng.uniform(1.8, 2.6))
        )
    return parts


def _over_bone(points: Array, rng: np.random.Generator) -> Array:
    """A random point (2,) over the femur or the tibia."""
    if rng.random() < 0.6:
        x = rng.uniform(points[46, 0] + 4, points[64, 0] - 4)
        return np.array([x, points[55, 1] + rng.uniform(4, 38)])
    x = rng.uniform(points[11, 0] + 4, points[25, 0] - 4)
    return np.array([x, points[18, 1] - rng.uniform(0, 34)])


def _screws(points: Array, rng: np.random.Generator) -> list[MetalPart]:
    """One to four screws, some of them as after ligament reconstruction, perhaps with a button on the cortex."""
    parts: list[MetalPart] = []
    for _ in range(int(rng.integers(1, 5))):
        at, angle = _over_bone(points, rng), float(rng.uniform(-np.pi, np.pi))
        parts += _screw(at, angle, float(rng.uniform(12, 45)), rng, float(rng.uniform(1.5, 4.5)))
    if rng.random() < 0.3:
        at, angle = points[7] + [rng.uniform(0, 8), rng.uniform(-15, 5)], rng.normal(1.2, 0.4)
        parts.append(
            _line([at, at + 9 * np.array([np.cos(angle), np.sin(angle)])], rng.uniform(1, 2), rng.uniform(1, 3))
        )
    return parts


def _staples(points: Array, rng: np.random.Generator) -> list[MetalPart]:
    """One or two U-shaped staples."""
    parts: list[MetalPart] = []
    for _ in range(int(rng.integers(1, 3))):
        at, angle = _over_bone(points, rng), rng.uniform(-np.pi, np.pi)
        along, across = np.array([np.sin(angle), np.cos(angle)]), np.array([np.cos(angle), -np.sin(angle)])
        width, legs = rng.uniform(6, 17), rng.uniform(6, 22)
        path = [at + along * legs, at, at + across * width, at + across * width + along * legs]
        parts.append(_line(path, rng.uniform(0.7, 1.8), rng.uniform(1, 4)))
    return parts


def _wires(points: Array, rng: np.random.Generator) -> list[MetalPart]:
    """Kirschner wires, a tension band of the patella, or a cerclage."""
    parts: list[MetalPart] = []
    around = np.linspace(0, 2 * np.pi, 33)
    centre = points[18] - [rng.normal(0, 5), rng.uniform(14, 32)]
    half, depth = float(rng.uniform(0.5, 1.1)), float(rng.uniform(0.8, 3))
    style = int(rng.integers(3))
    if style != 1:
        for _ in range(int(rng.integers(1, 4))):
            start = (
                _over_bone(points, rng) if style == 0 else centre + np.array([rng.uniform(-9, 9), rng.uniform(16, 26)])
            )
            angle = rng.uniform(-np.pi, np.pi) if style == 0 else np.pi + rng.normal(0, 0.08)
            length = rng.uniform(25, 80) if style == 0 else rng.uniform(36, 52)
            parts.append(_line([start, start + length * np.array([np.sin(angle), np.cos(angle)])], half, depth))
    if style != 0:
        wide, high = rng.uniform(7, 20), rng.uniform(14, 24)
        eight = np.sin(2 * around) if rng.random() < 0.5 else np.sin(around)
        loop = centre + np.column_stack([wide * eight, high * np.cos(around)])
        parts.append(_line(loop + rng.normal(0, 0.6, loop.shape), half * 0.8, depth))
    return parts


def _small(points: Array, rng: np.random.Generator) -> list[MetalPart]:
    """Suture anchors, clips or fragments."""
    parts: list[MetalPart] = []
    for _ in range(int(rng.integers(1, 6))):
        at, angle = _over_bone(points, rng), rng.uniform(-np.pi, np.pi)
        end = at + rng.uniform(3, 10) * np.array([np.sin(angle), np.cos(angle)])
        if rng.random() < 0.6:
            parts.append(_line([at, end], rng.uniform(0.8, 2.2), rng.uniform(1.5, 4)))
        else:
            corners = at + rng.uniform(1.2, 4, (6, 1)) * np.column_stack(
                [np.cos(np.arange(6) * np.pi / 3), np.sin(np.arange(6) * np.pi / 3)]
            )
            parts.append(_polygon(corners, rng.uniform(1.5, 4)))
    return parts


KINDS: dict[str, Callable[[Array, np.random.Generator], list[MetalPart]]] = {
    "total_knee": _total_knee, "partial_knee": _partial_knee, "plate": _plate, "nail": _nail, "screws": _screws,
    "staples": _staples, "wires": _wires, "small": _small,
}  # fmt: skip
KIND_SHARES = (0.3, 0.12, 0.11, 0.06, 0.18, 0.08, 0.1, 0.05)

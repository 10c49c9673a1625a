"""BoneFinder's `.pts` text: landmarks of one knee (74 points) or of both knees of a film (148).

version: 1
n_points: 74
{
12.5 34.0
…
}
"""

import os
import re
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.landmarks import NUM_LANDMARKS, TIBIA_PLATEAU_LATERAL, TIBIA_PLATEAU_MEDIAL
from kneegrade.errors import UnreadableFileError

Unit = Literal["auto", "px", "mm"]

MAX_BYTES = 1 << 20
PLATEAU_MM = (50.0, 125.0)  # widths of a tibial plateau, magnified or not
_HEADER = re.compile(r"\s*version:\s*1\s+n_points:\s*(\d+)\s*\{(.*)\}\s*", re.DOTALL)

Points = NDArray[np.float64]


def read_pts(path: Path, *, unit: Unit = "px", pixel_spacing_mm: tuple[float, float] | None = None) -> Points:
    """Landmarks (1, 74, 2) or (2, 74, 2) float64, (x, y) in pixels, in the order of the file, none mirrored.

    Args:
        path: the file; the final newline may be missing.
        unit: of the numbers in the file; "auto" decides from the width of the tibial plateau.
        pixel_spacing_mm: (row, column), needed for millimetres.

    Raises:
        UnreadableFileError: not a `.pts` file of version 1, a count other than 74 or 148 or other than announced, a
            number that is not finite, millimetres without a spacing, or a unit that cannot be told.
    """
    if path.stat().st_size > MAX_BYTES:
        raise UnreadableFileError(f"{path.name} is too large for a landmark file.")
    match = _HEADER.fullmatch(path.read_text(encoding="ascii", errors="replace"))
    if match is None:
        raise UnreadableFileError(f"{path.name} is not a .pts file of version 1.")
    points = _numbers(match[2], path.name)
    announced = int(match[1])
    if len(points) != announced or announced not in (NUM_LANDMARKS, 2 * NUM_LANDMARKS):
        raise UnreadableFileError(
            f"{path.name} announces {announced} points and holds {len(points)}; expected 74 or 148."
        )
    knees = points.reshape(-1, NUM_LANDMARKS, 2)
    if unit == "auto":
        unit = _unit_of(knees, pixel_spacing_mm, path.name)
    if unit == "mm":
        if pixel_spacing_mm is None:
            raise UnreadableFileError(
                f"{path.name} is in millimetres, but the film has no pixel spacing: say it, or that the unit is px."
            )
        knees = knees / np.array([pixel_spacing_mm[1], pixel_spacing_mm[0]])
    return knees


def _unit_of(knees: Points, pixel_spacing_mm: tuple[float, float] | None, name: str) -> Literal["px", "mm"]:
    """The unit in which the tibial plateaus have the width of a person's."""
    width = float(np.linalg.norm(knees[:, TIBIA_PLATEAU_MEDIAL] - knees[:, TIBIA_PLATEAU_LATERAL], axis=-1).mean())
    low, high = PLATEAU_MM
    if not low <= width <= high:
        return "px"
    if pixel_spacing_mm is not None and low <= width * pixel_spacing_mm[1] <= high:
        raise UnreadableFileError(f"{name} could be in millimetres or in pixels; say which.")
    return "mm"


def _numbers(text: str, name: str) -> Points:
    try:
        points = np.array([[float(word) for word in line.split()] for line in text.strip().splitlines()])
    except ValueError as error:
        raise UnreadableFileError(f"{name} holds a line that is not two numbers.") from error
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise UnreadableFileError(f"{name} holds a line that is not two finite numbers.")
    return points


def write_pts(path: Path, landmarks_px: Points) -> None:
    """Write landmarks (74, 2) or (K, 74, 2) in pixels; to a temporary file, then renamed."""
    flat = np.asarray(landmarks_px, dtype=np.float64).reshape(-1, 2)
    lines = "\n".join(f"{x:.4f} {y:.4f}" for x, y in flat)
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(f"version: 1\nn_points: {len(flat)}\n{{\n{lines}\n}}\n", encoding="ascii")
    os.replace(partial, path)

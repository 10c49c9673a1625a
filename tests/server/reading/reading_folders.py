"""Folders of results for the reader's page, made without a network: small pictures, outlines of the shape model."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from kneegrade.anatomy import Landmarks, measure
from kneegrade.anatomy.shape_model import ShapeModel
from kneegrade.reporting import write_inputs, write_json
from kneegrade.results import Finding, GradedKnee, GradedRadiograph, GradeResult, Quality, Report, WeightsIdentity
from kneegrade.schema import TARGETS

WEIGHTS = WeightsIdentity("phantom-test", "0123456789abcdef" * 4)
SIZE = (260, 420)  # rows, columns
MM_PER_PX = 0.5


def outline(centre_x: float, *, mirrored: bool) -> NDArray[np.float64]:
    """(74, 2) landmarks of a knee on the film; lateral on the right of the film if mirrored."""
    shape = ShapeModel.load().mean() / MM_PER_PX
    return shape * [-1.0 if mirrored else 1.0, 1.0] + [centre_x, 140.0]


def graded_knee(side: str, points: NDArray[np.float64], grades: list[int], probability: float = 0.8) -> GradedKnee:
    """A knee with these seven grades, of which `probability` is that of each grade."""
    results = {}
    for target, grade in zip(TARGETS, grades, strict=True):
        rest = (1 - probability) / (target.classes - 1)
        shares = tuple(probability if c == grade else rest for c in range(target.classes))
        results[target.name] = GradeResult(grade, shares, (grade,))
    covariance = np.tile(np.eye(2), (74, 1, 1))
    space = measure(Landmarks(points, covariance, np.ones(74, bool)), MM_PER_PX)
    return GradedKnee(
        side, grades=results, joint_space=space, landmarks_px=points, landmark_confidence=0.9,
        point_confidence=np.full(74, 0.9), side_confidence=0.99, quality=Quality(0.5),
    )  # fmt: skip


def write_film(path: Path, seed: int) -> None:
    """A picture with two bones' outlines and noise."""
    rng = np.random.default_rng(seed)
    picture = Image.fromarray(rng.integers(20, 60, SIZE, dtype=np.uint8))
    draw = ImageDraw.Draw(picture)
    for x, mirrored in ((110.0, False), (310.0, True)):
        points = outline(x, mirrored=mirrored)
        for bone in (points[:37], points[37:]):
            draw.polygon([tuple(point) for point in bone], fill=int(rng.integers(150, 220)))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def reading_report(films: Path, number: int, seed: int = 0) -> Report:
    """The report on `number` bilateral films, written as film-01.png … to the folder `films`.

    The first film has a knee with KL 0 and an osteophyte of grade 2; the second one has an unusual knee.
    """
    rng = np.random.default_rng(seed)
    radiographs = []
    for i in range(1, number + 1):
        path = films / f"film-{i:02d}.png"
        write_film(path, seed + i)
        kl = [int(rng.integers(0, 5)) for _ in range(2)]
        tables = [[k, 0, min(3, max(0, k - 1)), 0, min(3, k // 2), 0, min(3, (k + 1) // 2)] for k in kl]
        if i == 1:
            tables[0] = [0, 0, 0, 0, 0, 0, 2]
        knees = [
            graded_knee(side, outline(x, mirrored=mirrored), grades, 0.5 + 0.4 * rng.random())
            for side, x, mirrored, grades in (("R", 110.0, False, tables[0]), ("L", 310.0, True, tables[1]))
        ]
        if i == 2:
            knees[1] = replace(knees[1], quality=Quality(0.01, (Finding("unusual", "The knee looks unusual."),)))
        radiographs.append(
            GradedRadiograph(path.name, tuple(knees), sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        )
    return Report(tuple(radiographs), WEIGHTS, "0.1.0", 0.9)


def write_reading_folder(folder: Path, number: int = 4, seed: int = 0) -> Path:
    """The folder of results `folder`/out of `number` films in `folder`/films, as `kneegrade grade` writes it."""
    out = folder / "out"
    out.mkdir(parents=True)
    write_json(reading_report(folder / "films", number, seed), out / "report.json")
    write_inputs([folder / "films"], out)
    return out

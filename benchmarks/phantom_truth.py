"""Checks of the phantoms' ground truth: prevalence of grades, joint space width, osteophytes and outlines.

    python benchmarks/phantom_truth.py [--number 2000]

Samples knees with the paper's prevalence without rendering them and prints JSON:

- the largest deviation of a grade's share from Table 1 of the paper;
- relations between KL and joint space narrowing, found and expected from the joint table;
- the largest error of the joint space width measured on the outline, in mm;
- osteophytes at margins of grade 0;
- distance of the joint surfaces from the landmarks, and of margins without osteophytes from smooth ones, in mm (the
  first 150 knees);
- correlation of KL between the two knees of a person.
"""

import argparse
import json
from dataclasses import replace

import numpy as np

from kneegrade.anatomy.joint_space import joint_space_width
from kneegrade.anatomy.landmark_scheme import FEMUR_ARTICULAR, TIBIA_ARTICULAR
from kneegrade.phantom import sample_knee
from kneegrade.phantom.bones import bones_of
from kneegrade.phantom.build import sample_person
from kneegrade.phantom.phantom_knee import sample_grades
from kneegrade.phantom.prevalence import PAPER_COUNTS, tuple_probabilities
from kneegrade.schema import TARGET_NAMES

GRADED, MODES = 60000, 30  # knees whose grades are sampled; modes of the shape model


def relations(tuples: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Conditional probabilities that relate KL and joint space narrowing."""
    kl, jsn = tuples[:, 0], tuples[:, 1:3].max(axis=1)

    def share(event: np.ndarray, given: np.ndarray) -> float:
        return float(weights[event & given].sum() / weights[given].sum())

    return {
        "max JSN is 2, given KL 3": share(jsn == 2, kl == 3),
        "max JSN is 3, given KL 4": share(jsn == 3, kl == 4),
        "max JSN is 0 or 1, given KL 2": share(jsn <= 1, kl == 2),
        "all six are 0, given KL 0": share(tuples[:, 1:].max(axis=1) == 0, kl == 0),
        "both compartments narrowed": share(tuples[:, 1:3].min(axis=1) > 0, kl >= 0),
    }


def distance_to(points: np.ndarray, point: np.ndarray) -> float:
    """Distance from a point to the edges of a closed polygon."""
    edge = np.roll(points, -1, axis=0) - points
    share = ((point - points) * edge).sum(1) / np.maximum((edge**2).sum(1), 1e-12)
    return float(np.hypot(*(points + share.clip(0, 1)[:, None] * edge - point).T).min())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=2000, help="knees whose outlines are checked")
    number = parser.parse_args().number
    people = [sample_person(77, person, MODES) for person in range(GRADED // 2)]
    grades = np.array(
        [
            list(sample_grades(people[index // 2], "paper", np.random.default_rng([77, index])).values())
            for index in range(GRADED)
        ]
    )
    width_error, osteophytes_at_grade_0, margin_difference = 0.0, 0, 0.0
    surface: list[float] = []
    for index in range(number):
        knee = sample_knee(77, index, "paper")
        assert list(knee.grades.values()) == list(grades[index])
        measured = joint_space_width(knee.outline_mm)
        for side in ("medial", "lateral"):
            error = abs(getattr(measured, side) - getattr(knee.drawn_joint_space_mm, side))
            width_error = max(width_error, error)
        osteophytes_at_grade_0 += sum(knee.grades[spur.target] == 0 for spur in knee.spurs)
        if index < 150:
            femur, tibia, _ = bones_of(replace(knee, spurs=()))
            for part, bone in ((FEMUR_ARTICULAR, femur), (TIBIA_ARTICULAR, tibia)):
                for point in knee.outline_mm[list(part)][1:-1]:
                    surface.append(distance_to(bone.points, point))
            smooth = replace(knee.build, roughness_mm=0.0)
            for drawn, plain in zip(bones_of(knee), bones_of(replace(knee, spurs=(), build=smooth)), strict=True):
                stations = np.flatnonzero(np.abs(drawn.points[:, 1]) < 75)[::3]
                difference = max(distance_to(plain.points, drawn.points[row]) for row in stations)
                if not any(spur for spur in knee.spurs):
                    margin_difference = max(margin_difference, difference)
    tuples, probabilities = tuple_probabilities("paper")
    expected, found = relations(tuples, probabilities), relations(grades, np.full(GRADED, 1 / GRADED))
    deviation = {}
    for column, name in enumerate(TARGET_NAMES):
        found_share = np.bincount(grades[:, column], minlength=len(PAPER_COUNTS[name])) / GRADED
        deviation[name] = float(np.abs(found_share - np.array(PAPER_COUNTS[name]) / sum(PAPER_COUNTS[name])).max())
    result = {
        "knees_graded": GRADED,
        "knees_drawn": number,
        "largest_deviation_from_table_1": round(max(deviation.values()), 4),
        "relations": {name: [round(found[name], 4), round(expected[name], 4)] for name in found},
        "largest_joint_space_error_mm": round(width_error, 4),
        "spurs_at_grade_0_margins": osteophytes_at_grade_0,
        "drawn_joint_surface_from_outline_mm": {
            "median": round(float(np.median(surface)), 3),
            "99 %": round(float(np.quantile(surface, 0.99)), 3),
        },
        "drawn_margin_without_osteophytes_from_smooth_one_mm": round(margin_difference, 3),
        "kl_correlation_of_two_knees": round(float(np.corrcoef(grades[::2, 0], grades[1::2, 0])[0, 1]), 3),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

"""The seven grades of a knee: names, scales, compartments and positions in the one-hot vector.

The order is that of the paper (Zheng et al., MICCAI 2021): Kellgren-Lawrence, then the two joint-space narrowings, then
the four osteophyte grades, with lateral before medial and femur before tibia.
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

GradeTuple = tuple[int, int, int, int, int, int, int]


@dataclass(frozen=True)
class Target:
    """One of the seven grades.

    Attributes:
        name: key in tables, JSON files and weights.
        label: text in reports.
        classes: number of grades; the scale is 0 … classes − 1.
        compartment: key of `landmark_scheme.COMPARTMENTS`, the landmarks that the head of this grade reads: "all",
            "FL", "FM", "TL" or "TM".
        offset: first position in the one-hot vector of length `ONE_HOT_LENGTH`.
    """

    name: str
    label: str
    classes: int
    compartment: str
    offset: int

    @property
    def one_hot(self) -> slice:
        """Positions of this grade in the one-hot vector."""
        return slice(self.offset, self.offset + self.classes)


TARGETS: tuple[Target, ...] = (
    Target("kl", "Kellgren–Lawrence", 5, "all", 0),
    Target("jsn_lateral", "Joint space narrowing, lateral", 4, "all", 5),
    Target("jsn_medial", "Joint space narrowing, medial", 4, "all", 9),
    Target("osteophyte_femur_lateral", "Osteophyte, femur lateral", 4, "FL", 13),
    Target("osteophyte_femur_medial", "Osteophyte, femur medial", 4, "FM", 17),
    Target("osteophyte_tibia_lateral", "Osteophyte, tibia lateral", 4, "TL", 21),
    Target("osteophyte_tibia_medial", "Osteophyte, tibia medial", 4, "TM", 25),
)
TARGET_NAMES: tuple[str, ...] = tuple(target.name for target in TARGETS)
OARSI_NAMES: tuple[str, ...] = TARGET_NAMES[1:]
CLASSES: tuple[int, ...] = tuple(target.classes for target in TARGETS)
ONE_HOT_LENGTH = sum(CLASSES)  # D = 5 + 6·4 = 29

KL_MEANING: tuple[str, ...] = ("none", "doubtful", "minimal", "moderate", "severe")
OARSI_MEANING: tuple[str, ...] = ("normal", "mild", "moderate", "severe")


@cache
def grade_tuple_counts() -> dict[GradeTuple, int]:
    """Return the number of knees for each combination of the seven grades, in the order of `TARGETS`.

    The counts are an aggregate over 5,507 baseline knees of the Osteoarthritis Initiative for which all seven grades
    were read centrally (`data/PROVENANCE.md`); 786 of the 20,480 possible combinations occur.

    Example:
        >>> counts = grade_tuple_counts()
        >>> sum(counts.values()), len(counts), counts[(0, 0, 0, 0, 0, 0, 0)]
        (5507, 786, 745)
    """
    text = files("kneegrade").joinpath("data/grade_tuple_counts.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return {_grades_of(row): int(row["count"]) for row in rows}


def _grades_of(row: dict[str, str]) -> GradeTuple:
    kl, jsl, jsm, fl, fm, tl, tm = (int(row[name]) for name in TARGET_NAMES)
    return kl, jsl, jsm, fl, fm, tl, tm

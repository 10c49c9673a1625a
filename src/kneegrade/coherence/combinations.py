"""How often combinations of grades occur among the knees of the packaged joint counts, as sentences for a reader."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from kneegrade.coherence.rules import NARROWINGS, OSTEOPHYTES, broken_rules
from kneegrade.schema import TARGET_NAMES, GradeTuple, grade_tuple_counts

_PLACE: Final = {name: index for index, name in enumerate(TARGET_NAMES)}


@dataclass(frozen=True)
class CombinationCount:
    """How often a combination of grades occurs.

    Attributes:
        code: of the rule that the combination violates; "all_grades" for all seven grades together.
        text: the combination in words.
        knees: number of knees with it.
        total: number of knees in the table.
        hard: whether it contradicts the way KL is read in the OAI.
    """

    code: str
    text: str
    knees: int
    total: int
    hard: bool = False

    @property
    def sentence(self) -> str:
        """For example "KL 0 with an osteophyte of grade 2: 1 of 5,507 knees"."""
        return f"{self.text}: {self.knees:,} of {self.total:,} knees"


def combination_counts(grades: Mapping[str, int]) -> tuple[CombinationCount, ...]:
    """The counts of the combinations in `grades` that violate a rule, hard rules first, then of all seven together.

    The last one is left out unless all seven grades are given. Counts are those of `grade_tuple_counts`.

    Args:
        grades: grade name → grade; missing grades are absent.

    Example:
        >>> none = dict.fromkeys(OSTEOPHYTES, 0)
        >>> combination_counts({"kl": 0, **none, "osteophyte_tibia_medial": 2})[0].sentence
        'KL 0 with an osteophyte of grade 2: 1 of 5,507 knees'
    """
    counts = grade_tuple_counts()
    total = sum(counts.values())
    found = []
    for rule in broken_rules(grades):
        text, matches = _COMBINATIONS[rule.code](grades)
        knees = sum(number for cell, number in counts.items() if matches(cell))
        found.append(CombinationCount(rule.code, text, knees, total, rule.hard))
    if all(name in grades for name in TARGET_NAMES):
        kl, jsl, jsm, fl, fm, tl, tm = (grades[name] for name in TARGET_NAMES)
        knees = counts.get((kl, jsl, jsm, fl, fm, tl, tm), 0)
        found.append(CombinationCount("all_grades", "These seven grades together", knees, total))
    return tuple(found)


Matches = Callable[[GradeTuple], bool]


def _highest(cell: GradeTuple, names: tuple[str, ...]) -> int:
    return max(cell[_PLACE[name]] for name in names)


def _kl_with_narrowing(grades: Mapping[str, int]) -> tuple[str, Matches]:
    kl, worst = grades["kl"], max(grades[name] for name in NARROWINGS)
    words = f"joint space narrowing of grade {worst}" if worst else "no joint space narrowing"
    return f"KL {kl} with {words}", lambda cell: cell[0] == kl and _highest(cell, NARROWINGS) == worst


def _kl_with_osteophyte(grades: Mapping[str, int]) -> tuple[str, Matches]:
    kl, worst = grades["kl"], max(grades[name] for name in OSTEOPHYTES)
    text = f"KL {kl} with an osteophyte of grade {worst}"
    return text, lambda cell: cell[0] == kl and _highest(cell, OSTEOPHYTES) == worst


def _kl_alone(grades: Mapping[str, int]) -> tuple[str, Matches]:
    kl = grades["kl"]
    return f"KL {kl} with all OARSI grades 0", lambda cell: cell[0] == kl and max(cell[1:]) == 0


def _both_narrowings(grades: Mapping[str, int]) -> tuple[str, Matches]:
    lateral, medial = (grades[name] for name in NARROWINGS)
    text = f"Narrowing of grade {medial} medially and {lateral} laterally"
    return text, lambda cell: (cell[1], cell[2]) == (lateral, medial)


_COMBINATIONS: Final[Mapping[str, Callable[[Mapping[str, int]], tuple[str, Matches]]]] = {
    "kl4_needs_jsn3": _kl_with_narrowing,
    "jsn3_needs_kl4": _kl_with_narrowing,
    "kl3_needs_jsn": _kl_with_narrowing,
    "low_kl_with_narrowing": _kl_with_narrowing,
    "kl0_with_osteophyte": _kl_with_osteophyte,
    "kl1_with_osteophyte": _kl_with_osteophyte,
    "kl2_with_oarsi_zero": _kl_alone,
    "kl1_with_oarsi_zero": _kl_alone,
    "both_compartments": _both_narrowings,
}

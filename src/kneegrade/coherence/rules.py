"""Rules that the grades of one knee obey, as data: each with its hardness and where it comes from.

Rates are shares of 5,507 OAI knees whose seven grades were read centrally (`data/grade_tuple_counts.csv`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kneegrade.results import Finding
from kneegrade.schema import OARSI_NAMES

Grades = Mapping[str, int]


@dataclass(frozen=True)
class Rule:
    """One relation between grades.

    Attributes:
        code: stable name.
        message: what is odd when it is broken.
        hard: True where the definition of the scales forbids the combination.
        broken: True for grades that break it.
    """

    code: str
    message: str
    hard: bool
    broken: Callable[[Grades], bool]


def _narrowing(grades: Grades) -> int:
    return max(grades["jsn_lateral"], grades["jsn_medial"])


def _osteophyte(grades: Grades) -> int:
    return max(grades[name] for name in OARSI_NAMES[2:])


RULES: tuple[Rule, ...] = (
    Rule("kl4_needs_jsn3", "KL 4 without joint space narrowing grade 3", True,
         lambda g: g["kl"] == 4 and _narrowing(g) < 3),
    Rule("jsn3_needs_kl4", "Joint space narrowing grade 3 with KL below 4", True,
         lambda g: g["kl"] < 4 and _narrowing(g) == 3),
    Rule("kl3_needs_jsn", "KL 3 without joint space narrowing grade 2", True,
         lambda g: g["kl"] == 3 and _narrowing(g) < 2),
    Rule("low_kl_with_narrowing", "Definite joint space narrowing with KL below 3", True,
         lambda g: g["kl"] < 3 and _narrowing(g) == 2),
    Rule("kl0_with_osteophyte", "KL 0 with a definite osteophyte", False,
         lambda g: g["kl"] == 0 and _osteophyte(g) >= 2),
    Rule("kl_without_cause", "KL 2 or more with all OARSI grades zero", False,
         lambda g: g["kl"] >= 2 and all(g[name] == 0 for name in OARSI_NAMES)),
    Rule("both_compartments", "Definite narrowing of both compartments", False,
         lambda g: min(g["jsn_lateral"], g["jsn_medial"]) >= 2),
)  # fmt: skip


def rule_findings(grades: Grades) -> tuple[Finding, ...]:
    """Findings for the rules that `grades` (grade name → grade) break, hard ones first.

    Example:
        >>> none = dict.fromkeys(OARSI_NAMES, 0)
        >>> [f.code for f in rule_findings({"kl": 3, **none})]
        ['kl3_needs_jsn', 'kl_without_cause']
    """
    return tuple(Finding(rule.code, rule.message) for rule in RULES if rule.broken(grades))

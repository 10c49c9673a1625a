"""Rules that the grades of one knee obey, as data: each with its hardness and where it comes from.

Reports and audits use the same list. A rule is silent where a grade that it needs was never read. Rates in the sources
are shares of 5,507 OAI knees whose seven grades were read centrally (`data/grade_tuple_counts.csv`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kneegrade.results import Finding
from kneegrade.schema import OARSI_NAMES, TARGET_NAMES

Grades = Mapping[str, int]
OSTEOPHYTES = OARSI_NAMES[2:]
NARROWINGS = OARSI_NAMES[:2]


@dataclass(frozen=True)
class Rule:
    """One relation between grades.

    Attributes:
        code: stable name.
        message: what is odd when it is broken.
        source: where the rule comes from, and how often knees break it.
        hard: True where the OAI's way of reading KL, from narrowing, forbids the combination; other readers may differ.
        needs: grades without which it is silent.
        broken: True for grades that break it.
    """

    code: str
    message: str
    source: str
    hard: bool
    needs: tuple[str, ...]
    broken: Callable[[Grades], bool]


def _narrowing(grades: Grades) -> int:
    return max(grades[name] for name in NARROWINGS)


def _osteophyte(grades: Grades) -> int:
    return max(grades[name] for name in OSTEOPHYTES)


_JOINT = ("kl", *NARROWINGS)

RULES: tuple[Rule, ...] = (
    Rule("kl4_needs_jsn3", "KL 4 without joint space narrowing grade 3",
         "OAI's reading of KL: 4 is narrowing of grade 3; none of 5,507 knees breaks it", True, _JOINT,
         lambda g: g["kl"] == 4 and _narrowing(g) < 3),
    Rule("jsn3_needs_kl4", "Joint space narrowing grade 3 with KL below 4",
         "OAI's reading of KL: narrowing of grade 3 is 4; none of 5,507 knees breaks it", True, _JOINT,
         lambda g: g["kl"] < 4 and _narrowing(g) == 3),
    Rule("kl3_needs_jsn", "KL 3 without joint space narrowing grade 2",
         "OAI's reading of KL: 3 is narrowing of grade 2; 3 of 1,237 knees of KL 3 break it", True, _JOINT,
         lambda g: g["kl"] == 3 and _narrowing(g) < 2),
    Rule("low_kl_with_narrowing", "Definite joint space narrowing with KL below 3",
         "OAI's reading of KL: narrowing of grade 2 is 3", True, _JOINT,
         lambda g: g["kl"] < 3 and _narrowing(g) == 2),
    Rule("kl0_with_osteophyte", "KL 0 with a definite osteophyte",
         "Kellgren and Lawrence 1957: 0 has none; 2.7 % of knees of KL 0 have any other grade above zero", False,
         ("kl", *OSTEOPHYTES), lambda g: g["kl"] == 0 and _osteophyte(g) >= 2),
    Rule("kl1_with_osteophyte", "KL 1 with an osteophyte of grade 2 or more",
         "Kellgren and Lawrence 1957: 1 is a doubtful osteophyte", False,
         ("kl", *OSTEOPHYTES), lambda g: g["kl"] == 1 and _osteophyte(g) >= 2),
    Rule("kl_without_cause", "KL 2 or more with all OARSI grades zero",
         "Kellgren and Lawrence 1957: 2 is a definite osteophyte", False,
         TARGET_NAMES, lambda g: g["kl"] >= 2 and all(g[name] == 0 for name in OARSI_NAMES)),
    Rule("kl1_without_sign", "KL 1 with all OARSI grades zero",
         "Kellgren and Lawrence 1957: 1 is doubtful narrowing or lipping; 5.4 % of knees of KL 1 have all zero", False,
         TARGET_NAMES, lambda g: g["kl"] == 1 and all(g[name] == 0 for name in OARSI_NAMES)),
    Rule("both_compartments", "Definite narrowing of both compartments",
         "rare, 0.5 % of 5,507 knees; often a pose or an inflammatory joint", False,
         NARROWINGS, lambda g: min(g[name] for name in NARROWINGS) >= 2),
)  # fmt: skip


def broken_rules(grades: Grades) -> tuple[Rule, ...]:
    """The rules that `grades` (grade name → grade; those never read absent) break, hard ones first."""
    return tuple(rule for rule in RULES if all(name in grades for name in rule.needs) and rule.broken(grades))


def breaks_hard_rule(tuples: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(N,) which of (N, 7) seven-tuples break a hard rule."""
    hard = [rule for rule in RULES if rule.hard]
    named = (dict(zip(TARGET_NAMES, row, strict=True)) for row in tuples.tolist())
    return np.array([any(rule.broken(grades) for rule in hard) for grades in named], dtype=np.bool_)


def rule_findings(grades: Grades) -> tuple[Finding, ...]:
    """Findings for the rules that `grades` break, hard ones first.

    Example:
        >>> none = dict.fromkeys(OARSI_NAMES, 0)
        >>> [f.code for f in rule_findings({"kl": 3, **none})]
        ['kl3_needs_jsn', 'kl_without_cause']
        >>> rule_findings({"kl": 3})
        ()
    """
    return tuple(Finding(rule.code, rule.message) for rule in broken_rules(grades))

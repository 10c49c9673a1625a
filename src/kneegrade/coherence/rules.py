"""Rules that relate the grades of one knee, with their severity and source.

Reports and label audits use the same rules. A rule is not evaluated if a grade that it needs is missing. Rates in the
sources are shares of 5,507 OAI knees for which all seven grades were read centrally (`data/grade_tuple_counts.csv`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kneegrade.results import Finding
from kneegrade.schema import OARSI_NAMES, TARGET_NAMES

Grades = Mapping[str, int]
NARROWINGS = OARSI_NAMES[:2]
OSTEOPHYTES = OARSI_NAMES[2:]


@dataclass(frozen=True)
class Rule:
    """A relation between grades.

    Attributes:
        code: stable name.
        message: the violation, why it matters and what to check.
        source: origin of the rule, and how often knees violate it.
        hard: True if the combination contradicts the way KL is read in the OAI, from the narrowing; other readers may
            grade differently.
        needs: names of the grades that the rule needs.
        broken: returns True if the grades violate the rule.
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


def _all_oarsi_zero(grades: Grades) -> bool:
    return all(grades[name] == 0 for name in OARSI_NAMES)


_KL_AND_NARROWINGS = ("kl", *NARROWINGS)
_KL_AND_OSTEOPHYTES = ("kl", *OSTEOPHYTES)

RULES: tuple[Rule, ...] = (
    Rule(
        code="kl4_needs_jsn3",
        message="KL 4 without joint space narrowing grade 3: in OAI readings, KL 4 implies narrowing grade 3. "
        "Check the KL grade and both narrowing grades.",
        source="OAI reading of KL: 4 implies narrowing grade 3; none of 5,507 knees violates it",
        hard=True,
        needs=_KL_AND_NARROWINGS,
        broken=lambda g: g["kl"] == 4 and _narrowing(g) < 3,
    ),
    Rule(
        code="jsn3_needs_kl4",
        message="Joint space narrowing grade 3 with KL below 4: in OAI readings, narrowing grade 3 implies KL 4. "
        "Check the KL grade and both narrowing grades.",
        source="OAI reading of KL: narrowing grade 3 implies 4; none of 5,507 knees violates it",
        hard=True,
        needs=_KL_AND_NARROWINGS,
        broken=lambda g: g["kl"] < 4 and _narrowing(g) == 3,
    ),
    Rule(
        code="kl3_needs_jsn",
        message="KL 3 without joint space narrowing grade 2: in OAI readings, KL 3 implies narrowing grade 2. "
        "Check the KL grade and both narrowing grades.",
        source="OAI reading of KL: 3 implies narrowing grade 2; 3 of 1,237 knees with KL 3 violate it",
        hard=True,
        needs=_KL_AND_NARROWINGS,
        broken=lambda g: g["kl"] == 3 and _narrowing(g) < 2,
    ),
    Rule(
        code="low_kl_with_narrowing",
        message="Definite joint space narrowing (grade 2) with KL below 3: in OAI readings, narrowing grade 2 implies "
        "KL 3. Check the KL grade and both narrowing grades.",
        source="OAI reading of KL: narrowing grade 2 implies 3",
        hard=True,
        needs=_KL_AND_NARROWINGS,
        broken=lambda g: g["kl"] < 3 and _narrowing(g) == 2,
    ),
    Rule(
        code="kl0_with_osteophyte",
        message="KL 0 with a definite osteophyte (grade 2 or more): by definition, KL 0 has no osteophyte. "
        "Check the KL grade and the osteophyte grades.",
        source="Kellgren and Lawrence 1957: 0 has no osteophyte; 2.7 % of knees with KL 0 have any other grade above 0",
        hard=False,
        needs=_KL_AND_OSTEOPHYTES,
        broken=lambda g: g["kl"] == 0 and _osteophyte(g) >= 2,
    ),
    Rule(
        code="kl1_with_osteophyte",
        message="KL 1 with an osteophyte of grade 2 or more: by definition, the osteophyte of KL 1 is doubtful. "
        "Check the KL grade and the osteophyte grades.",
        source="Kellgren and Lawrence 1957: 1 has a doubtful osteophyte",
        hard=False,
        needs=_KL_AND_OSTEOPHYTES,
        broken=lambda g: g["kl"] == 1 and _osteophyte(g) >= 2,
    ),
    Rule(
        code="kl2_with_oarsi_zero",
        message="KL 2 or more with all OARSI grades zero: by definition, KL 2 has a definite osteophyte. "
        "Check the KL grade, and look for osteophytes and narrowing.",
        source="Kellgren and Lawrence 1957: 2 has a definite osteophyte",
        hard=False,
        needs=TARGET_NAMES,
        broken=lambda g: g["kl"] >= 2 and _all_oarsi_zero(g),
    ),
    Rule(
        code="kl1_with_oarsi_zero",
        message="KL 1 with all OARSI grades zero: by definition, KL 1 has doubtful narrowing or a doubtful osteophyte. "
        "Check the KL grade, and look for osteophytes and narrowing.",
        source="Kellgren and Lawrence 1957: 1 has doubtful narrowing or lipping; in 5.4 % of knees with KL 1 all are 0",
        hard=False,
        needs=TARGET_NAMES,
        broken=lambda g: g["kl"] == 1 and _all_oarsi_zero(g),
    ),
    Rule(
        code="both_compartments",
        message="Definite narrowing of both compartments: rare (0.5 % of OAI knees), and often due to positioning or "
        "inflammatory arthritis. Check the positioning and both narrowing grades.",
        source="rare, 0.5 % of 5,507 knees; often due to positioning or an inflammatory joint disease",
        hard=False,
        needs=NARROWINGS,
        broken=lambda g: min(g[name] for name in NARROWINGS) >= 2,
    ),
)


def broken_rules(grades: Grades) -> tuple[Rule, ...]:
    """Return the rules that grades violate, hard rules first.

    Args:
        grades: grade name → grade; missing grades are absent.
    """
    return tuple(rule for rule in RULES if all(name in grades for name in rule.needs) and rule.broken(grades))


def breaks_hard_rule(tuples: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return (N,) bool: True if the seven grades (N, 7) violate a hard rule."""
    hard = [rule for rule in RULES if rule.hard]
    named = (dict(zip(TARGET_NAMES, row, strict=True)) for row in tuples.tolist())
    return np.array([any(rule.broken(grades) for rule in hard) for grades in named], dtype=np.bool_)


def rule_findings(grades: Grades) -> tuple[Finding, ...]:
    """Return a finding for each rule that grades violate, hard rules first.

    Example:
        >>> none = dict.fromkeys(OARSI_NAMES, 0)
        >>> [f.code for f in rule_findings({"kl": 3, **none})]
        ['kl3_needs_jsn', 'kl2_with_oarsi_zero']
        >>> rule_findings({"kl": 3})
        ()
    """
    return tuple(Finding(rule.code, rule.message) for rule in broken_rules(grades))

import numpy as np
import pytest

from kneegrade.coherence import RULES, rule_findings
from kneegrade.schema import TARGET_NAMES, grade_tuple_counts


def broken_codes(row):
    return {finding.code for finding in rule_findings(dict(zip(TARGET_NAMES, row, strict=True)))}


def test_hard_rules_hold_in_the_joint_table():
    counts = grade_tuple_counts()
    total = sum(counts.values())
    hard = {rule.code for rule in RULES if rule.hard}
    broken = sum(number for row, number in counts.items() if broken_codes(row) & hard)
    assert broken / total < 0.001


@pytest.mark.parametrize(
    ("row", "codes"),
    [
        ((0, 0, 0, 0, 0, 0, 0), set()),
        ((2, 0, 1, 0, 1, 0, 1), set()),
        ((4, 0, 3, 2, 3, 1, 3), set()),
        ((4, 0, 2, 2, 3, 1, 3), {"kl4_needs_jsn3"}),
        ((3, 0, 1, 1, 1, 1, 1), {"kl3_needs_jsn"}),
        ((1, 0, 2, 0, 0, 0, 0), {"low_kl_with_narrowing"}),
        ((3, 3, 0, 1, 1, 1, 1), {"jsn3_needs_kl4"}),
        ((0, 0, 0, 2, 0, 0, 0), {"kl0_with_osteophyte"}),
        ((3, 2, 2, 1, 1, 1, 1), {"both_compartments"}),
        ((2, 0, 0, 0, 0, 0, 0), {"kl2_with_oarsi_zero"}),
        ((1, 0, 0, 0, 0, 0, 0), {"kl1_with_oarsi_zero"}),
        ((1, 0, 0, 2, 0, 0, 0), {"kl1_with_osteophyte"}),
    ],
)
def test_each_rule(row, codes):
    assert broken_codes(row) == codes


def test_a_rule_is_not_evaluated_if_a_grade_that_it_needs_is_missing():
    assert rule_findings({"kl": 4, "jsn_medial": 0}) == ()
    assert [f.code for f in rule_findings({"kl": 4, "jsn_medial": 0, "jsn_lateral": 1})] == ["kl4_needs_jsn3"]


def test_every_rule_has_a_source_and_says_what_to_check():
    assert all(len(rule.source) > 20 and rule.needs for rule in RULES)
    assert all(" Check the " in rule.message and ";" not in rule.message for rule in RULES)


def test_every_rule_can_be_broken_and_has_its_own_code():
    assert len({rule.code for rule in RULES}) == len(RULES)
    generator = np.random.default_rng(0)
    rows = np.stack([generator.integers(0, 5 if name == "kl" else 4, 5000) for name in TARGET_NAMES], axis=1)
    seen = set().union(*(broken_codes(row) for row in rows.tolist()))
    assert seen | {"kl2_with_oarsi_zero", "kl1_with_oarsi_zero"} == {rule.code for rule in RULES}

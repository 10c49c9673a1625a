import numpy as np
import pytest

from kneegrade.anatomy import joint_space_width
from kneegrade.errors import UsageError
from kneegrade.measurements import JointSpaceWidth
from kneegrade.phantom.phantom_knee import fit_joint_space, sample_knee, sample_outline, signed_gap_at
from kneegrade.phantom.prevalence import NATURAL_KL, PAPER_COUNTS
from kneegrade.schema import TARGET_NAMES, grade_tuple_counts

KNEES = [sample_knee(11, index, "paper") for index in range(150)]


def test_a_knee_depends_only_on_seed_and_index():
    again = sample_knee(11, 77, "paper")
    np.testing.assert_array_equal(again.outline_mm, KNEES[77].outline_mm)
    assert (again.grades, again.build, again.spurs) == (KNEES[77].grades, KNEES[77].build, KNEES[77].spurs)
    metal = sample_knee(11, 77, "paper", implants=1.0)
    assert (metal.grades, metal.build, metal.spurs) == (again.grades, again.build, again.spurs)
    assert not np.array_equal(sample_knee(12, 77, "paper").outline_mm, again.outline_mm)


def test_unknown_prevalence_and_seeds_out_of_range_raise_errors():
    with pytest.raises(UsageError, match="paper"):
        sample_knee(0, 0, "rare")
    for seed, index in ((-1, 0), (2**32, 0), (0, -1)):
        with pytest.raises(UsageError, match="expected"):
            sample_knee(seed, index)


def test_drawn_grades_are_combinations_of_the_joint_table():
    observed = grade_tuple_counts()
    assert all(tuple(knee.grades.values()) in observed for knee in KNEES)
    share = np.bincount([knee.grades["kl"] for knee in KNEES], minlength=5) / len(KNEES)
    np.testing.assert_allclose(share, np.array(PAPER_COUNTS["kl"]) / sum(PAPER_COUNTS["kl"]), atol=0.12)


def test_narrowing_depends_on_kellgren_lawrence_as_in_the_joint_table():
    knees = [sample_knee(21, index, "paper").grades for index in range(1500)]
    for kl, jsn in ((3, 2), (4, 3)):
        worst = [max(g["jsn_medial"], g["jsn_lateral"]) for g in knees if g["kl"] == kl]
        assert np.mean(np.array(worst) == jsn) > 0.97
    assert np.mean([g["jsn_medial"] > 0 and g["jsn_lateral"] > 0 for g in knees]) < 0.05


def test_two_knees_of_a_person_are_correlated_and_have_the_population_distribution():
    pairs = [(sample_knee(3, 2 * person), sample_knee(3, 2 * person + 1)) for person in range(300)]
    kl = np.array([[knee.grades["kl"] for knee in pair] for pair in pairs])
    assert 0.35 < np.corrcoef(kl.T)[0, 1] < 0.75
    between_persons = np.corrcoef(kl[:-1, 0], kl[1:, 1])[0, 1]
    assert abs(between_persons) < 0.2
    for side in (0, 1):
        share = np.bincount(kl[:, side], minlength=5) / len(kl)
        np.testing.assert_allclose(share, NATURAL_KL, atol=0.09)
    for right, left in pairs[:20]:
        assert (right.side, left.side) == ("R", "L")
        assert right.build.fat == left.build.fat
        assert right.build.bone_volume_fraction == left.build.bone_volume_fraction
    widths = np.array([[np.ptp(knee.outline_mm[37:, 0]) for knee in pair] for pair in pairs])
    assert np.corrcoef(widths.T)[0, 1] > 0.5


def test_a_spur_exists_exactly_for_each_osteophyte_grade_above_zero():
    for knee in KNEES:
        graded = {name: grade for name, grade in knee.grades.items() if name.startswith("osteophyte") and grade > 0}
        assert {spur.target: spur.grade for spur in knee.spurs} == graded
        for spur in knee.spurs:
            shortest_mm = 2.0 ** (spur.grade - 1)
            assert shortest_mm <= spur.length_mm <= 2 * shortest_mm


def test_joint_space_has_the_drawn_widths():
    for knee in KNEES:
        assert knee.joint_space_mm.medial == pytest.approx(knee.drawn_joint_space_mm.medial, abs=0.1)
        assert knee.joint_space_mm.lateral == pytest.approx(knee.drawn_joint_space_mm.lateral, abs=0.1)
        assert joint_space_width(knee.outline_mm) == knee.joint_space_mm


def test_drawn_widths_have_the_distribution_of_the_table():
    rng = np.random.default_rng(0)
    grades = dict(zip(TARGET_NAMES, (2, 0, 1, 0, 0, 0, 0), strict=True))
    drawn = [sample_outline(grades, np.zeros(30), rng)[1] for _ in range(300)]
    medial = np.array([width.medial for width in drawn])
    low, middle, high = np.percentile(medial, [25, 50, 75])
    assert (low, middle, high) == (
        pytest.approx(3.51, abs=0.2),
        pytest.approx(3.98, abs=0.2),
        pytest.approx(4.49, abs=0.2),
    )


def test_joints_with_a_narrowing_grade_are_narrower():
    medial = [[k.joint_space_mm.medial for k in KNEES if k.grades["jsn_medial"] == grade] for grade in (0, 2)]
    assert np.mean(medial[0]) - np.mean(medial[1]) > 1.0


def test_attrition_occurs_only_with_narrowing():
    for knee in KNEES:
        for side in ("medial", "lateral"):
            if knee.grades[f"jsn_{side}"] < 2:
                assert knee.attrition_mm[side] == 0
    assert any(sum(sample_knee(2, index, "uniform").attrition_mm.values()) > 0 for index in range(60))


def test_fit_joint_space_moves_only_the_femur():
    before = KNEES[0].outline_mm
    after = fit_joint_space(before, JointSpaceWidth(3.0, 5.0)).apply(before)
    measured = joint_space_width(after)
    assert (measured.medial, measured.lateral) == (pytest.approx(3.0, abs=0.05), pytest.approx(5.0, abs=0.05))
    np.testing.assert_array_equal(after[37:], before[37:])
    distances = np.hypot(*(after[:37] - after[18]).T)
    np.testing.assert_allclose(distances, np.hypot(*(before[:37] - before[18]).T))  # a rigid motion


def test_signed_gap_is_negative_where_bones_overlap():
    before, x = KNEES[0].outline_mm, np.linspace(0.1, 0.9, 33)
    across = before[63] - before[47]
    shift_mm = KNEES[0].joint_space_mm.medial + 1.0
    lowered = before.copy()
    lowered[:37] += shift_mm * np.array([-across[1], across[0]]) / np.hypot(*across)
    np.testing.assert_allclose(signed_gap_at(lowered, x), signed_gap_at(before, x) - shift_mm)
    assert signed_gap_at(lowered, x).min() < 0
    assert joint_space_width(lowered).medial == 0

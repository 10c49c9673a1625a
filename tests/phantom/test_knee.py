import numpy as np
import pytest

from kneegrade.anatomy import joint_space_width
from kneegrade.errors import UsageError
from kneegrade.phantom.contours import ShaftShape, Spur, bone_contour, raise_spur
from kneegrade.phantom.grades import NATURAL_KL, PAPER_COUNTS, tuple_probabilities
from kneegrade.phantom.knee import sample_knee, set_joint_space, signed_gap_at
from kneegrade.results import JointSpaceWidth
from kneegrade.schema import TARGET_NAMES, grade_tuple_counts

KNEES = [sample_knee(11, index, "paper") for index in range(150)]


def test_joint_space_is_what_was_drawn():
    for knee in KNEES:
        assert knee.joint_space_mm.medial == pytest.approx(knee.drawn_joint_space_mm.medial, abs=0.1)
        assert knee.joint_space_mm.lateral == pytest.approx(knee.drawn_joint_space_mm.lateral, abs=0.1)
        assert joint_space_width(knee.outline_mm) == knee.joint_space_mm


def test_joint_space_can_be_set_without_touching_the_tibia():
    before = KNEES[0].outline_mm
    after, _ = set_joint_space(before, JointSpaceWidth(3.0, 5.0))
    measured = joint_space_width(after)
    assert (measured.medial, measured.lateral) == (pytest.approx(3.0, abs=0.05), pytest.approx(5.0, abs=0.05))
    np.testing.assert_array_equal(after[37:], before[37:])
    distances = np.hypot(*(after[:37] - after[18]).T)
    np.testing.assert_allclose(distances, np.hypot(*(before[:37] - before[18]).T))  # a rigid motion


def test_signed_gap_goes_on_below_zero_where_the_width_stops():
    before, x = KNEES[0].outline_mm, np.linspace(0.1, 0.9, 33)
    across = before[63] - before[47]
    sink_mm = KNEES[0].joint_space_mm.medial + 1.0
    sunk = before.copy()
    sunk[:37] += sink_mm * np.array([-across[1], across[0]]) / np.hypot(*across)
    np.testing.assert_allclose(signed_gap_at(sunk, x), signed_gap_at(before, x) - sink_mm)
    assert signed_gap_at(sunk, x).min() < 0
    assert joint_space_width(sunk).medial == 0


def test_narrowed_joints_are_narrower():
    medial = [[k.joint_space_mm.medial for k in KNEES if k.grades["jsn_medial"] == grade] for grade in (0, 2)]
    assert np.mean(medial[0]) - np.mean(medial[1]) > 1.0


def test_spurs_stand_exactly_where_a_grade_says():
    for knee in KNEES:
        graded = {name: grade for name, grade in knee.grades.items() if name.startswith("osteophyte") and grade > 0}
        assert {spur.target: spur.grade for spur in knee.spurs} == graded
        for spur in knee.spurs:
            low = 2.0 ** (spur.grade - 1)
            assert low <= spur.length_mm <= 2 * low


def test_grade_zero_margin_is_the_smooth_outline():
    knee = next(k for k in KNEES if len(k.spurs) == 1)
    shaft = ShaftShape(14.0, 0.1, 35.0)
    for bone in ("femur", "tibia"):
        plain = bone_contour(knee.outline_mm, bone, shaft)
        spurs = [spur for spur in knee.spurs if bone in spur.target]
        drawn = bone_contour(knee.outline_mm, bone, shaft, spurs)
        moved = np.hypot(*(drawn.points - plain.points).T)
        if not spurs:
            assert moved.max() == 0
        else:
            assert moved.max() == pytest.approx(spurs[0].length_mm, rel=0.1)
            middle = 18 if bone == "femur" else 55
            other_side = plain.station > middle if spurs[0].target.endswith("lateral") else plain.station < middle
            assert moved[other_side].max() == 0


def test_spur_area_is_length_times_base_over_sharpness_plus_one():
    spur = Spur("osteophyte_tibia_medial", 3, 6.0, 9.0, 0.0, 1.0)
    y = np.linspace(-20, 20, 4001)
    margin = np.stack([np.zeros_like(y), y], axis=1)
    raised = raise_spur(margin, np.linspace(43.3, 83.3, 4001), spur)
    assert np.trapezoid(raised[:, 0], y) == pytest.approx(spur.area_mm2, rel=0.02)


def test_contour_passes_through_the_landmarks():
    knee = KNEES[0]
    for bone, start in (("femur", 0), ("tibia", 37)):
        contour = bone_contour(knee.outline_mm, bone, ShaftShape(14.0, 0.1, 35.0))
        for number in range(start, start + 37):
            assert np.hypot(*(contour.points - knee.outline_mm[number]).T).min() < 0.3


def test_knee_depends_on_seed_and_index_alone():
    again = sample_knee(11, 77, "paper")
    np.testing.assert_array_equal(again.outline_mm, KNEES[77].outline_mm)
    assert (again.grades, again.build, again.spurs) == (KNEES[77].grades, KNEES[77].build, KNEES[77].spurs)
    assert not np.array_equal(sample_knee(12, 77, "paper").outline_mm, again.outline_mm)


def test_marginals_are_those_of_the_paper():
    tuples, probabilities = tuple_probabilities("paper")
    for column, name in enumerate(TARGET_NAMES):
        wanted = np.array(PAPER_COUNTS[name]) / sum(PAPER_COUNTS[name])
        got = np.bincount(tuples[:, column], probabilities, minlength=len(wanted))
        np.testing.assert_allclose(got, wanted, atol=0.01)


def test_natural_and_uniform_marginals_of_kellgren_lawrence():
    for prevalence, wanted in (("natural", NATURAL_KL), ("uniform", [0.2] * 5)):
        tuples, probabilities = tuple_probabilities(prevalence)
        np.testing.assert_allclose(np.bincount(tuples[:, 0], probabilities), wanted, atol=1e-9)


def test_drawn_grades_occur_together_in_the_table():
    known = grade_tuple_counts()
    assert all(tuple(knee.grades.values()) in known for knee in KNEES)
    share = np.bincount([knee.grades["kl"] for knee in KNEES], minlength=5) / len(KNEES)
    np.testing.assert_allclose(share, np.array(PAPER_COUNTS["kl"]) / sum(PAPER_COUNTS["kl"]), atol=0.12)


def test_unknown_prevalence_is_refused():
    with pytest.raises(UsageError, match="paper"):
        sample_knee(0, 0, "rare")

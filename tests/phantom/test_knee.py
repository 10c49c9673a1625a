from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from kneegrade.anatomy import joint_space_width
from kneegrade.errors import UsageError
from kneegrade.phantom.bones import bones_of
from kneegrade.phantom.contours import ShaftShape, Spur, bone_contour, raise_spur
from kneegrade.phantom.implants import KINDS
from kneegrade.phantom.phantom_knee import fit_joint_space, sample_knee, sample_outline, signed_gap_at
from kneegrade.phantom.prevalence import (
    KAPPA,
    NATURAL_KL,
    PAPER_COUNTS,
    reader_confusion,
    second_reading,
    tuple_probabilities,
)
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
    after = fit_joint_space(before, JointSpaceWidth(3.0, 5.0)).of(before)
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


def to_polygon(points, mark):
    """Distance from a point to a closed polygon."""
    edge = np.roll(points, -1, axis=0) - points
    share = ((mark - points) * edge).sum(1) / np.maximum((edge**2).sum(1), 1e-12)
    return np.hypot(*(points + share.clip(0, 1)[:, None] * edge - mark).T).min()


def test_drawn_bones_have_spurs_of_their_length_and_none_at_grade_zero_margins():
    seen = set()
    for knee in KNEES[:60]:
        for number, bone in enumerate(("femur", "tibia")):
            drawn = bones_of(knee)[number].points
            smooth = replace(knee.build, roughness_mm=0.0)
            plain = bones_of(replace(knee, spurs=(), build=smooth))[number].points
            near = drawn[np.abs(drawn[:, 1]) < 60]
            out = np.array([to_polygon(plain, mark) for mark in near])
            for side, own in (("lateral", near[:, 0] < -15), ("medial", near[:, 0] > 15)):
                spurs = [spur for spur in knee.spurs if spur.target == f"osteophyte_{bone}_{side}"]
                if spurs:
                    # the lifted tip may lie closer to the margin than it is long
                    assert 0.5 * spurs[0].length_mm < out[own].max() < spurs[0].length_mm + 0.6
                    seen.add(spurs[0].grade)
                else:
                    assert out[own].max() < 0.6
    assert seen == {1, 2, 3}


def test_landmarks_lie_on_the_drawn_joint_surfaces():
    for knee in KNEES[:40]:
        femur, tibia, _ = bones_of(replace(knee, spurs=()))
        for numbers, bone in ((range(12, 25), femur), (range(47, 64), tibia)):
            for number in numbers:
                assert to_polygon(bone.points, knee.outline_mm[number]) < 0.25


def test_drawn_widths_have_the_tables_distribution():
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


def test_narrowing_goes_with_kellgren_lawrence_as_in_the_joint_table():
    knees = [sample_knee(21, index, "paper").grades for index in range(1500)]
    for kl, jsn in ((3, 2), (4, 3)):
        most = [max(g["jsn_medial"], g["jsn_lateral"]) for g in knees if g["kl"] == kl]
        assert np.mean(np.array(most) == jsn) > 0.97
    assert np.mean([g["jsn_medial"] > 0 and g["jsn_lateral"] > 0 for g in knees]) < 0.05


def test_spur_area_is_length_times_base_over_sharpness_plus_one():
    spur = Spur("osteophyte_tibia_medial", 3, 6.0, 9.0, 0.0, 1.0)
    y = np.linspace(-20, 20, 4001)
    margin = np.stack([np.zeros_like(y), y], axis=1)
    raised = raise_spur(margin, np.linspace(83.3, 43.3, 4001), spur)
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
    metal = sample_knee(11, 77, "paper", implants=1.0)
    assert (metal.grades, metal.build, metal.spurs) == (again.grades, again.build, again.spurs)
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


def test_unknown_prevalence_and_seeds_out_of_range_are_refused():
    with pytest.raises(UsageError, match="paper"):
        sample_knee(0, 0, "rare")
    for seed, index in ((-1, 0), (2**32, 0), (0, -1)):
        with pytest.raises(UsageError, match="expected"):
            sample_knee(seed, index)


def test_both_knees_of_a_person_are_alike_and_have_the_same_population():
    pairs = [(sample_knee(3, 2 * person), sample_knee(3, 2 * person + 1)) for person in range(300)]
    kl = np.array([[knee.grades["kl"] for knee in pair] for pair in pairs])
    assert 0.35 < np.corrcoef(kl.T)[0, 1] < 0.75
    strangers = np.corrcoef(kl[:-1, 0], kl[1:, 1])[0, 1]
    assert abs(strangers) < 0.2
    for side in (0, 1):
        share = np.bincount(kl[:, side], minlength=5) / len(kl)
        np.testing.assert_allclose(share, NATURAL_KL, atol=0.09)
    for right, left in pairs[:20]:
        assert (right.side, left.side) == ("R", "L")
        assert right.build.fat == left.build.fat
        assert right.build.bone_volume_fraction == left.build.bone_volume_fraction
    widths = np.array([[np.ptp(knee.outline_mm[37:, 0]) for knee in pair] for pair in pairs])
    assert np.corrcoef(widths.T)[0, 1] > 0.5


def test_attrition_comes_with_narrowing_only():
    for knee in KNEES:
        for side in ("medial", "lateral"):
            if knee.grades[f"jsn_{side}"] < 2:
                assert knee.attrition_mm[side] == 0
    assert any(sum(sample_knee(2, index, "uniform").attrition_mm.values()) > 0 for index in range(60))


def test_cysts_and_sclerosis_follow_narrowing():
    knees = [sample_knee(6, index, "uniform") for index in range(200)]
    narrowed = np.array([knee.grades["jsn_medial"] >= 2 for knee in knees])
    cysts = np.array([len(knee.build.cysts) for knee in knees])
    sclerosis = np.array([knee.build.sclerosis_medial for knee in knees])
    assert cysts[narrowed].mean() > 3 * cysts[~narrowed].mean()
    assert sclerosis[narrowed].mean() > sclerosis[~narrowed].mean() + 0.3


def test_implants_of_every_kind_and_replaced_joints_cannot_be_graded():
    knees = [sample_knee(4, index, implants=1.0) for index in range(60)]
    assert {knee.implant.kind for knee in knees} == set(KINDS)
    for knee in knees:
        assert knee.gradable == (knee.implant.kind not in ("total_knee", "partial_knee"))
        assert knee.implant.bars
    assert not any(sample_knee(4, index).implant for index in range(20))
    some = [sample_knee(4, index, implants=0.25).implant is not None for index in range(400)]
    assert 0.18 < np.mean(some) < 0.32


@pytest.mark.parametrize("name", TARGET_NAMES)
def test_second_reader_agrees_as_stated(name):
    confusion = reader_confusion(name)
    np.testing.assert_allclose(confusion.sum(axis=1), 1)
    assert (confusion.argmax(axis=1) == np.arange(len(confusion))).all()
    tuples, probabilities = tuple_probabilities("paper")
    column = TARGET_NAMES.index(name)
    rng = np.random.default_rng(0)
    truth = tuples[rng.choice(len(tuples), 4000, p=probabilities), column]
    read = np.array([rng.choice(len(confusion), p=confusion[grade]) for grade in truth])
    kappa = cohen_kappa_score(truth, read, weights="quadratic")
    assert kappa == pytest.approx(KAPPA[name.split("_")[0]], abs=0.03)


def test_second_reading_is_repeatable_and_differs_between_knees():
    grades = KNEES[0].grades
    readings = [second_reading(grades, 1, index) for index in range(30)]
    assert readings[0] == second_reading(grades, 1, 0)
    assert len({tuple(reading.values()) for reading in readings}) > 5
    assert list(readings[0]) == list(grades)

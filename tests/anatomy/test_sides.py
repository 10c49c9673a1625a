import pytest

from kneegrade.anatomy.laterality import assign_sides


def sides(stated, *lateral_left):
    calls, warnings = assign_sides(lateral_left, stated)
    return [call.side for call in calls], [w.code for w in warnings]


def test_two_knees_the_right_one_on_the_images_left():
    assert sides("both", 0.99, 0.01) == (["R", "L"], [])


def test_a_mirrored_half_is_unknown_not_silently_wrong():
    assert sides("unknown", 0.99, 0.99) == (["R", "unknown"], ["side_conflict"])


@pytest.mark.parametrize(
    ("stated", "lateral_left", "expected"),
    [
        ("R", 0.99, (["R"], [])),
        ("R", 0.60, (["R"], [])),
        ("R", 0.30, (["R"], [])),
        ("R", 0.02, (["unknown"], ["side_conflict"])),
        ("L", 0.98, (["unknown"], ["side_conflict"])),
        ("unknown", 0.95, (["R"], [])),
        ("unknown", 0.05, (["L"], [])),
        ("unknown", 0.60, (["unknown"], [])),
    ],
)
def test_one_knee_tag_against_anatomy(stated, lateral_left, expected):
    assert sides(stated, lateral_left) == expected


def test_one_stated_side_but_two_knees():
    assert sides("L", 0.99, 0.01) == (["R", "L"], ["laterality_tag"])


def test_confidence_is_of_the_anatomys_own_call():
    calls, _ = assign_sides([0.2], "R")
    assert calls[0].confidence == pytest.approx(0.8)

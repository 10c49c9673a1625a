import pytest

from kneegrade.anatomy.laterality import assign_sides


def sides(stated, *lateral_left):
    sides, warnings = assign_sides(lateral_left, stated)
    return [side.side for side in sides], [w.code for w in warnings]


def test_of_two_knees_the_right_one_is_on_the_left_of_the_image():
    assert sides("both", 0.99, 0.01) == (["R", "L"], [])


def test_a_mirrored_half_of_a_bilateral_film_has_an_unknown_side():
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
def test_side_of_a_single_knee_from_tag_and_anatomy(stated, lateral_left, expected):
    assert sides(stated, lateral_left) == expected


def test_one_stated_side_with_two_knees_gives_a_warning():
    assert sides("L", 0.99, 0.01) == (["R", "L"], ["laterality_tag"])


def test_confidence_is_the_probability_of_the_side_that_the_anatomy_indicates():
    sides, _ = assign_sides([0.2], "R")
    assert sides[0].confidence == pytest.approx(0.8)


def test_both_stated_sides_with_one_knee_gives_a_warning():
    assert sides("both", 0.99) == (["R"], ["one_knee_of_two"])


def test_a_side_conflict_states_both_sources_and_what_to_do():
    _, (warning,) = assign_sides([0.02], "R")
    assert "stated laterality this is a right knee, according to its anatomy a left knee" in warning.message
    assert "Check the side marker." in warning.message


def test_on_a_picture_of_several_films_the_anatomy_alone_decides():
    sides, warnings = assign_sides([0.99, 0.99], "L", several_films=True)
    assert [side.side for side in sides] == ["R", "R"]
    assert warnings == ()

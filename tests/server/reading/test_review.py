"""Readings and their merge."""

from copy import deepcopy

import pytest
from pydantic import ValidationError

from kneegrade.server.reading.review import Difference, Reading, merge

KNEE = {"side": "R", "gradable": True, "reason": "", "grades": {"kl": 1, "jsn_medial": 0}, "landmarks_px": None}
BASE = {"knees": [KNEE, {**deepcopy(KNEE), "side": "L"}], "note": "", "status": "draft"}


def changed(**grades):
    reading = deepcopy(BASE)
    reading["knees"][0]["grades"] |= grades
    return reading


def test_changes_of_different_fields_are_merged():
    theirs = changed(jsn_medial=2)
    theirs["note"] = "narrow"
    merged, differences = merge(BASE, changed(kl=3), theirs)
    assert merged["knees"][0]["grades"] == {"kl": 3, "jsn_medial": 2}
    assert (merged["note"], differences) == ("narrow", [])


def test_fields_that_both_changed_differently_are_reported_and_keep_the_newer_value():
    merged, differences = merge(BASE, changed(kl=3), changed(kl=2))
    assert differences == [Difference(0, "kl", 3, 2)]
    assert merged["knees"][0]["grades"]["kl"] == 2


def test_the_same_change_is_no_difference():
    assert merge(BASE, changed(kl=3), changed(kl=3)) == (changed(kl=3), [])


def test_a_removed_grade_is_a_change():
    mine = deepcopy(BASE)
    del mine["knees"][1]["grades"]["kl"]
    merged, differences = merge(BASE, mine, changed(kl=4))
    assert (merged["knees"][0]["grades"]["kl"], "kl" in merged["knees"][1]["grades"], differences) == (4, False, [])


@pytest.mark.parametrize(
    ("mine", "theirs", "status"),
    [(changed(kl=3), BASE | {"status": "signed"}, "draft"), (BASE | {"status": "read"}, changed(kl=3), "draft"),
     (BASE | {"status": "read"}, BASE, "read"), (BASE, changed(kl=3) | {"status": "signed"}, "signed"),
     (BASE | {"status": "read"}, BASE | {"status": "signed"}, "signed")],
)  # fmt: skip
def test_a_merge_is_finished_only_if_it_is_what_a_reader_finished(mine, theirs, status):
    merged, differences = merge(BASE, mine, theirs)
    assert (merged["status"], differences) == (status, [])


def test_the_verdict_on_gradability_goes_with_its_reason():
    mine, theirs = deepcopy(BASE), deepcopy(BASE)
    mine["knees"][0] |= {"gradable": False, "reason": "metal"}
    theirs["knees"][0] |= {"gradable": False, "reason": "rotated"}
    _, differences = merge(BASE, mine, theirs)
    assert differences == [Difference(0, "gradable", (False, "metal"), (False, "rotated"))]


@pytest.mark.parametrize(
    "knee",
    [{"side": "X"}, {"side": "R", "grades": {"kl": 5}}, {"side": "R", "grades": {"hip": 1}},
     {"side": "R", "landmarks_px": [[0, 0]] * 73},
     {"side": "R", "landmarks_px": [[float("nan"), 0]] * 74}, {"side": "R", "patient": "x"}],
)  # fmt: skip
def test_invalid_knees_are_refused(knee):
    with pytest.raises(ValidationError):
        Reading.model_validate({"knees": [knee]})

"""Agreement of readers."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from kneegrade.errors import CohortError
from kneegrade.evaluation.reader_agreement import checked_readings, disagreements, load_readings, pairwise_agreement
from kneegrade.schema import TARGETS

FILMS = 60


def rows(reader: str, grades: np.ndarray, repeat: int = 0) -> list[dict]:
    """Readings of two knees on each film; `grades` (films, 2, 7)."""
    return [
        {"film": f"f{film}", "knee": knee, "subject_id": f"P{film}", "reader": reader, "repeat": repeat, "gradable": 1,
         **{target.name: int(grades[film, knee, i]) for i, target in enumerate(TARGETS)}}
        for film in range(len(grades)) for knee in range(2)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def grades() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 4, (FILMS, 2, 7))
    noise = {name: rng.integers(-1, 2, truth.shape) * (rng.random(truth.shape) < share) for name, share in
             (("anna", 0.2), ("ben", 0.6), ("kneegrade", 0.4))}  # fmt: skip
    return {name: np.clip(truth + change, 0, 3) for name, change in noise.items()}


@pytest.fixture(scope="module")
def readings(grades) -> pd.DataFrame:
    table = [row for name in grades for row in rows(name, grades[name])]
    again = np.clip(grades["anna"][:20] + (np.arange(7) == 0), 0, 3)
    return checked_readings(pd.DataFrame(table + rows("anna", again, repeat=1)))


def test_kappa_is_that_of_scikit_learn(grades, readings):
    found = {(pair.grade, pair.first, pair.second): pair for pair in pairwise_agreement(readings, 50)}
    for first, second in (("anna", "ben"), ("anna", "kneegrade"), ("ben", "kneegrade")):
        for i, target in enumerate(TARGETS):
            pair = found[target.name, first, second]
            one, two = grades[first][..., i].ravel(), grades[second][..., i].ravel()
            labels = list(range(target.classes))
            assert pair.kappa[0] == pytest.approx(cohen_kappa_score(one, two, labels=labels, weights="quadratic"))
            assert pair.accuracy[0] == pytest.approx((one == two).mean())
            assert pair.difference[0] == pytest.approx((two - one).mean())
            assert pair.kappa[1] < pair.kappa[0] < pair.kappa[2]
            assert pair.knees == 2 * FILMS


def test_repeats_are_compared_with_the_same_reader_only(readings):
    pairs = {(pair.first, pair.second) for pair in pairwise_agreement(readings, 10)}
    assert pairs == {
        ("anna", "ben"), ("anna", "kneegrade"), ("ben", "kneegrade"), ("anna", "anna, repeat 1"),
    }  # fmt: skip
    own = next(pair for pair in pairwise_agreement(readings, 10) if pair.second == "anna, repeat 1")
    assert (own.grade, own.knees) == ("kl", 40)
    assert own.difference[0] > 0.5


def test_a_grade_that_one_reader_did_not_give_does_not_count(readings):
    table = readings.copy()
    missing = (table["reader"] == "ben") & (table["film"] == "f0")
    table.loc[missing, "kl"] = pd.NA
    pair = next(p for p in pairwise_agreement(table, 10) if (p.grade, p.second) == ("kl", "ben"))
    assert pair.knees == 2 * FILMS - 2


def test_intervals_resample_people(readings):
    twice = pd.concat([readings, readings.assign(knee=readings["knee"] + 2)])
    widths = [np.diff(pairwise_agreement(table, 400)[0].kappa[1:])[0] for table in (readings, twice)]
    assert widths[1] == pytest.approx(widths[0], rel=0.25)  # the same people with twice the knees tell no more


def test_few_people_have_no_interval(readings):
    for people, has_interval in ((9, False), (10, True)):
        pair = pairwise_agreement(readings[readings["film"].isin([f"f{i}" for i in range(people)])], 20)[0]
        assert (pair.people, bool(np.isfinite(pair.kappa[1:]).all())) == (people, has_interval)
        assert (pair.as_row()["kappa_low"] is None) is not has_interval
        assert np.isfinite(pair.kappa[0])


def test_disagreements_name_the_film_as_labels_do():
    rated = [("anna", 1, "L"), ("ben", 2, "L"), ("kneegrade", 2, "R")]
    table = disagreements(checked_readings(pd.DataFrame([
        {"film": "f", "knee": 0, "image_path": "/films/a.dcm", "subject_id": "P7", "side": side, "visit": "24",
         "reader": reader, "repeat": 0, "kl": kl, "gradable": 1} for reader, kl, side in rated
    ])))  # fmt: skip
    (row,) = table.to_dict("records")
    names = ("image_path", "subject_id", "side", "visit", "grade", "anna", "ben")
    assert tuple(row[name] for name in names) == ("/films/a.dcm", "P7", "R", "24", "kl", 1, 2)


def test_disagreements_of_readers_are_listed_with_what_each_gave(readings):
    table = disagreements(readings[readings["film"].isin(["f0", "f1"])])
    both = readings[readings["repeat"] == 0].set_index(["film", "knee", "reader"])
    for row in table.to_dict("records"):
        values = [both.loc[(row["film"], row["knee"], name), row["grade"]] for name in ("anna", "ben")]
        assert values[0] != values[1]
        assert [row["anna"], row["ben"]] == values
    names = [target.name for target in TARGETS]
    wide = both.loc[["f0", "f1"], names].unstack()
    assert len(table) == int((wide.xs("anna", axis=1, level=1) != wide.xs("ben", axis=1, level=1)).sum().sum())


def test_a_grade_outside_its_scale_is_refused(tmp_path):
    (tmp_path / "r.csv").write_text("film,knee,subject_id,reader,kl\na,0,P,anna,5\n")
    with pytest.raises(CohortError, match="outside the scale"):
        load_readings(tmp_path / "r.csv")


def test_a_single_reader_is_refused(readings):
    with pytest.raises(CohortError, match="two"):
        pairwise_agreement(readings[(readings["reader"] == "ben")], 10)

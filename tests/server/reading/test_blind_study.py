"""The order of blind readings."""

import pytest

from kneegrade.errors import UsageError
from kneegrade.server.reading.blind_study import Study, open_study

FILMS = tuple(f"{i:040x}" for i in range(100))


def test_every_reader_sees_every_film_once_and_the_same_films_twice():
    study = Study("pilot", FILMS, repeats=0.1, seed=3)
    orders = [study.order(reader) for reader in ("anna", "ben")]
    for order in orders:
        assert sorted(key for key, repeat in order if repeat == 0) == sorted(FILMS)
    repeated = [{key for key, repeat in order if repeat == 1} for order in orders]
    assert len(repeated[0]) == 10
    assert repeated[0] == repeated[1]
    assert [key for key, _ in orders[0]] != [key for key, _ in orders[1]]
    assert study.order("anna") == orders[0]


def test_a_repeat_comes_long_after_the_film():
    order = Study("pilot", FILMS, repeats=1.0, seed=3).order("anna")
    place = {item: i for i, item in enumerate(order)}
    distances = [place[key, 1] - place[key, 0] for key in FILMS]
    assert min(distances) >= 1
    early = [place[key, 1] - place[key, 0] for key in FILMS if place[key, 0] < 60]
    assert min(early) >= 10


def test_a_study_keeps_its_films_and_seed(tmp_path):
    first = open_study(tmp_path, "pilot", list(FILMS), repeats=0.1, seed=3)
    assert open_study(tmp_path, "pilot", [], repeats=0.5, seed=4) == first


@pytest.mark.parametrize("name", ["", "../x", "a b", "x" * 70])
def test_names_that_are_no_file_names_are_refused(tmp_path, name):
    with pytest.raises(UsageError):
        open_study(tmp_path, name, [], repeats=0, seed=0)

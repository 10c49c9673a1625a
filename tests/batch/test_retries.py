"""Which film is blamed when workers die, with workers that only say what would happen to processes."""

from collections import Counter

import pytest
from worker_faults import planned, rows_of

from kneegrade.batch.retries import MAX_DEATHS, Death, grade_films
from kneegrade.errors import KneeGradeError
from kneegrade.imaging import Source


class NamedWorkers:
    """Workers that die on a film "kill…", and on a film "together…" unless it is alone; "hang…" exceeds its time."""

    def __init__(self):
        self.begun = Counter()

    def outcomes(self, films, number):
        for film in films:
            name = film.source.name
            self.begun[name] += 1
            if name.startswith(("kill", "hang")) or (name.startswith("together") and number > 1):
                yield Death(film, expired=name.startswith("hang"))
            else:
                yield rows_of(name)

    def end(self):
        pass


def grade(films, stop=lambda: 0):
    """Reasons of the films that have rows, in order of completion, and how often each was begun."""
    workers, reasons = NamedWorkers(), {}
    try:
        for rows in grade_films(workers, films, number=2, stop=stop, film_seconds=1):
            reasons[rows.film["source"]] = rows.film.get("reason_code")
    except KneeGradeError as error:
        reasons["error"] = error.message
    return reasons, workers.begun


def names(kind, number=MAX_DEATHS):
    return [f"{kind}{i}" for i in range(number)]


@pytest.mark.parametrize("more", [0, 3])
def test_many_films_that_kill_get_their_rows_and_the_run_goes_on(more):
    reasons, begun = grade(planned(*names("kill", MAX_DEATHS + more), "a"))
    assert reasons == {**dict.fromkeys(names("kill", MAX_DEATHS + more), "worker_died"), "a": None}
    assert begun == {**dict.fromkeys(names("kill", MAX_DEATHS + more), 3), "a": 1}


def test_workers_that_die_only_together_end_the_run_after_their_films_were_graded_alone():
    reasons, begun = grade(planned(*names("together"), "a"))
    assert "no film is to blame" in reasons.pop("error")
    assert reasons == dict.fromkeys(names("together"))
    assert begun["a"] == 0


def test_the_last_films_are_no_reason_to_end_with_an_error():
    assert grade(planned("a", *names("together")))[0] == dict.fromkeys(["a", *names("together")])


def test_a_disk_that_does_not_answer_ends_the_run():
    """The files of these films do not exist; they get rows without a checksum, which the next run tries again."""
    reasons, begun = grade(planned(*names("hang"), "a"))
    assert "does not answer" in reasons.pop("error")
    assert reasons == dict.fromkeys(names("hang"), "worker_timeout")
    assert begun["a"] == 0


def test_films_that_hang_although_they_can_be_read_are_to_blame():
    films = planned(*names("hang"), "a")
    readable = [type(film)(Source(film.source.name, load=lambda: b"film")) for film in films]
    assert grade(readable)[0] == {**dict.fromkeys(names("hang"), "worker_timeout"), "a": None}


def test_after_a_signal_nothing_is_tried_again():
    signals = iter([0, *[1] * 99])
    reasons, begun = grade(planned("kill", "a"), lambda: next(signals))
    assert (reasons, begun["kill"]) == ({"a": None}, 1)

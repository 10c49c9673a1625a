"""Requests of the reader's page."""

import json
from dataclasses import replace

import numpy as np
import pytest

from kneegrade.anatomy.shape_following import followed
from kneegrade.server.reading.blind_study import open_study
from kneegrade.server.reading.folder_store import FolderStore
from kneegrade.server.reading.reading_desk import ReadingDesk
from kneegrade.server.reading.reading_film import ListedFilm
from kneegrade.server.reading.reading_routes import ReadingServices
from kneegrade.server.reading.review_log import Stream


@pytest.fixture
def services(folder):
    return ReadingServices(ReadingDesk(FolderStore(folder)), labels_folder=folder)


@pytest.fixture
def client(client_of, services):
    return client_of(services)


@pytest.fixture
def key(services):
    return services.desk.store.worklist()[0].key


def save(client, key, reading, based_on, repeat=0):
    return client.post(f"/v1/films/{key}/reviews", json={"based_on": based_on, "repeat": repeat, "reading": reading})


def reading_of(client, key, repeat=0):
    return client.get(f"/v1/films/{key}/reading", params={"repeat": repeat}).json()


def test_every_request_needs_a_session(client, key):
    del client.headers["Authorization"]
    for path in ("worklist", f"films/{key}/reading", f"films/{key}/pixels", f"films/{key}/evidence", "shape"):
        assert client.get(f"/v1/{path}").status_code == 401, path
    for path in (f"films/{key}/measure", f"films/{key}/reviews", "coherence", "labels"):
        assert client.post(f"/v1/{path}", json={}).status_code == 401, path


def test_a_link_works_once(client_of, services):
    from starlette.testclient import TestClient

    from kneegrade.server.reading.local_page import local_application
    from kneegrade.server.reading.sessions import Sessions

    tokens = []
    sessions = Sessions(lambda _, token: tokens.append(token))
    with TestClient(local_application(services, sessions), base_url="http://127.0.0.1:80") as client:
        sessions.invite("anna")
        answers = [client.post("/v1/session", json={"token": tokens[0]}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 401]
    assert len(tokens) == 2  # a new link for the next tab
    assert answers[0].json()["reader"] == "anna"


def test_a_foreign_host_name_is_refused(client):
    assert client.get("/v1/worklist", headers={"Host": "attacker.example"}).status_code == 421


def test_the_page_has_a_strict_policy_and_its_files(client):
    answer = client.get("/viewer/")
    policy = answer.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    for name in ("viewer.js", "viewer.css", "icon.svg", "screen.js"):
        assert client.get(f"/viewer/{name}").status_code == 200
    assert client.get("/viewer/../reading.py").status_code == 404


def test_the_reading_starts_as_that_of_kneegrade_and_is_saved(client, key):
    film = reading_of(client, key)
    assert film["revision"] == 0
    assert film["reading"]["knees"][0]["grades"]["osteophyte_tibia_medial"] == 2
    film["reading"]["knees"][0]["grades"]["kl"] = 2
    answer = save(client, key, film["reading"], 0)
    assert (answer.status_code, answer.json()["revision"], answer.json()["reader"]) == (201, 1, "anna")
    assert reading_of(client, key)["reading"] == film["reading"]
    row = client.get("/v1/worklist").json()["films"][0]
    assert (row["status"], row["knees"][0]) == ("draft", ["R", 2, 0])


def test_two_readers_do_not_overwrite_each_other(client_of, services, key):
    anna, ben = client_of(services, "anna"), client_of(services, "ben")
    first, second = reading_of(anna, key)["reading"], reading_of(ben, key)["reading"]
    first["knees"][0]["grades"]["kl"] = 1
    first["knees"][1]["grades"]["jsn_medial"] = 3
    assert save(anna, key, first, 0).status_code == 201
    second["knees"][0]["grades"]["kl"] = 2
    second["note"] = "seen by ben"
    answer = save(ben, key, second, 0)
    conflict = answer.json()
    assert answer.status_code == 409
    assert conflict["differences"] == [{"knee": 0, "field": "kl", "mine": 2, "theirs": 1}]
    merged = conflict["merged"]
    assert (merged["knees"][1]["grades"]["jsn_medial"], merged["note"]) == (3, "seen by ben")
    assert save(ben, key, merged, conflict["revision"]).json()["revision"] == 2


def test_invalid_requests_change_nothing(client, key, services):
    reading = reading_of(client, key)["reading"]
    assert save(client, key, {**reading, "status": "unknown"}, 0).status_code == 422
    assert save(client, "0" * 40, reading, 0).status_code == 404
    assert client.get(f"/v1/films/{'0' * 40}/pixels").status_code == 404
    assert client.post(f"/v1/films/{key}/reviews", content="[" * 100_000).status_code in (
        400,
        422,
    )  # 400: FastAPI 0.115
    assert client.post("/v1/coherence", content=b"x" * (1 << 21)).status_code == 413
    assert services.desk.store.log.streams() == {}


def test_a_reading_without_a_knee_a_grade_or_a_reason_is_refused(client, key, services):
    reading = reading_of(client, key)["reading"]
    right, left = reading["knees"]
    ungraded = {**left, "grades": {"jsn_medial": 1}}
    unexplained = {**left, "gradable": False, "reason": " "}
    refused = [
        {"knees": [], "status": "draft"}, {"knees": [right], "status": "read"}, {"knees": [], "status": "signed"},
        {"knees": [right, ungraded], "status": "read"}, {"knees": [right, unexplained], "status": "signed"},
    ]  # fmt: skip
    assert [save(client, key, one, 0).status_code for one in refused] == [422] * 5
    assert services.desk.store.log.streams() == {}
    assert save(client, key, {"knees": [right, ungraded], "status": "draft"}, 0).status_code == 201
    explained = {**unexplained, "reason": "metal"}
    assert save(client, key, {"knees": [right, explained], "status": "signed"}, 1).status_code == 201


def test_a_reading_with_fewer_knees_than_the_film_has_now_is_an_open_draft(client, key, services):
    reading = reading_of(client, key)["reading"]
    old = {**reading, "knees": reading["knees"][:1], "status": "signed"}  # before the film was graded again
    services.desk.store.log.append(Stream(key), old, based_on=0, reader="ben", source="film-01.png")
    assert reading_of(client, key)["reading"] == reading


def test_a_text_that_is_no_unicode_is_refused(client, key):
    headers = {"Content-Type": "application/json"}
    assert client.post("/v1/session", content=rb'{"token":"\ud800"}', headers=headers).status_code == 401
    review = rb'{"based_on":0,"reading":{"knees":[],"note":"\ud800"}}'
    answer = client.post(f"/v1/films/{key}/reviews", content=review, headers=headers)
    assert (answer.status_code, "ud800" in answer.text) == (422, False)


def test_a_film_without_a_person_is_opened_without_listing_all_films(services, key, monkeypatch):
    def listing(self):
        raise AssertionError("all films were listed")

    monkeypatch.setattr(FolderStore, "worklist", listing)
    monkeypatch.setattr(FolderStore, "listed", lambda self, key: ListedFilm(key, "film", (), "graded"))
    assert services.desk.film(key, "anna")["same_person"] == []


def test_widths_of_unchanged_landmarks_are_those_of_the_report(client, key):
    knee = reading_of(client, key)["knees"][1]
    answer = client.post(f"/v1/films/{key}/measure", json={"knee": 1, "landmarks_px": knee["landmarks_px"]}).json()
    for side in ("medial", "lateral"):
        assert answer[side]["mm"] == pytest.approx(knee["joint_space"][side]["mm"], abs=0.02)
    (_, top), (_, bottom) = answer["lines"]["lateral"]
    assert bottom - top == pytest.approx(answer["lateral"]["mm"] / 0.5, abs=0.2)


def test_a_stretched_film_is_measured_without_its_stretch(client, key, services):
    knee = services.desk.store.film(key).knees[0]
    stretched = [[1.3 * x, y] for x, y in knee["landmarks_px"]]
    film = services.desk.store.film(key)
    services.desk.store._results._films[key] = {
        **services.desk.store._results._films[key], "knees": [{**knee, "landmarks_px": stretched}, *film.knees[1:]],
    }  # fmt: skip
    answer = client.post(f"/v1/films/{key}/measure", json={"knee": 0, "landmarks_px": stretched}).json()
    assert answer["lateral"]["fraction"] == pytest.approx(knee["joint_space"]["lateral"]["fraction"], rel=0.01)


def test_coherence_comes_from_the_packaged_table(client):
    zero = dict.fromkeys(("osteophyte_femur_lateral", "osteophyte_femur_medial", "osteophyte_tibia_lateral"), 0)
    answer = client.post("/v1/coherence", json={"grades": {"kl": 0, **zero, "osteophyte_tibia_medial": 2}}).json()
    assert answer[0]["sentence"] == "KL 0 with an osteophyte of grade 2: 1 of 5,507 knees"


def test_the_shape_of_the_page_follows_as_in_python(client, key):
    covariance = np.frombuffer(client.get("/v1/shape").content, "<f4").reshape(74, 74, 2, 2)
    film = reading_of(client, key)
    points, matrix = np.array(film["knees"][0]["landmarks_px"]), np.array(film["places"][0]["mm_to_px"])
    expected = followed(points, {55: (points[55, 0] + 3, points[55, 1] - 6)})
    shift = np.linalg.solve(covariance[55, 55] + 0.05**2 * np.eye(2), np.linalg.inv(matrix) @ [3, -6])
    np.testing.assert_allclose(points + (covariance[:, 55] @ shift) @ matrix.T, expected, atol=0.05)
    assert np.abs(expected - points)[:37].max() == 0  # the femur stays


def test_evidence_of_other_weights_is_not_shown(client, key, monkeypatch):
    class Loaded:  # instead of the network, which takes a second to load
        identity = type("Identity", (), {"sha256": "f" * 64})

    monkeypatch.setattr(
        "kneegrade.server.reading.film_evidence.EvidenceService.warm_up", lambda self: setattr(self, "_grader", Loaded)
    )
    answer = client.get(f"/v1/films/{key}/evidence")
    assert answer.status_code == 422
    assert "--weights" in answer.json()["detail"]


def test_a_blind_reader_gets_nothing_of_kneegrade_before_the_reading_is_finished(client_of, folder, services):
    keys = [film.key for film in services.desk.store.worklist()]
    study = open_study(folder, "pilot", keys, repeats=0.5, seed=1)
    blind = replace(services, desk=ReadingDesk(services.desk.store, study))
    client = client_of(blind, "anna")
    rows = client.get("/v1/worklist").json()["films"]
    assert len(rows) == 6
    assert all(row["knees"] == [] and row["doubt"] == 0 and "film-" not in row["name"] for row in rows)
    key = next(row["key"] for row in rows if row["repeat"])
    film = reading_of(client, key)
    assert (film["knees"], film["reason"], film["name"]) == (None, None, "")
    assert all(knee["grades"] == {} for knee in film["reading"]["knees"])
    points = [[1.0, 1.0]] * 74
    assert client.get(f"/v1/films/{key}/evidence").status_code == 403
    assert client.post(f"/v1/films/{key}/measure", json={"knee": 0, "landmarks_px": points}).status_code == 403
    assert "probabilities" not in json.dumps(film)
    finished = film["reading"] | {"status": "read"}
    for knee in finished["knees"]:
        knee["grades"] = {"kl": 1}
    assert save(client, key, {"knees": [], "status": "read"}, 0).status_code == 422
    assert save(client, key, finished, 0, repeat=9).status_code == 422  # not in the reader's order
    assert save(client, key, finished, 0).status_code == 201
    assert reading_of(client, key)["knees"] is None  # the repeat is not read yet
    again = save(client, key, finished, 0)  # the first answer was lost
    assert (again.status_code, again.json()["revision"]) == (201, 1)
    assert save(client, key, finished, 0, repeat=1).status_code == 201
    assert reading_of(client, key)["knees"][0]["grades"]["kl"]["probabilities"]
    assert save(client, key, film["reading"], 1).status_code == 403


def test_films_on_which_readers_differ_are_adjudicated(client_of, folder, services):
    keys = [film.key for film in services.desk.store.worklist()]
    study = open_study(folder, "pilot", keys, repeats=0, seed=1, readers=["anna", "ben"])
    blind = replace(services, desk=ReadingDesk(services.desk.store, study))
    judge = client_of(replace(services, desk=ReadingDesk(services.desk.store, study, adjudicate=True)), "carla")
    for reader, kl in (("anna", 1), ("ben", 2)):
        assert judge.get("/v1/worklist").json()["films"] == []  # the readers are not finished
        client = client_of(blind, reader)
        for key in keys[:2]:
            reading = reading_of(client, key)["reading"] | {"status": "read"}
            for knee in reading["knees"]:
                knee["grades"] = {"kl": kl if key == keys[0] else 3, "jsn_medial": 0}
            save(client, key, reading, 0)
    listed = judge.get("/v1/worklist").json()
    (row,), waiting = listed["films"], listed["waiting"]
    assert waiting == [{"reader": "anna", "done": 2, "total": 4}, {"reader": "ben", "done": 2, "total": 4}]
    film = reading_of(judge, row["key"])
    assert (row["key"], row["flags"], row["knees"]) == (keys[0], 16, [["R", None, None], ["L", None, None]])
    assert (film["knees"], film["hidden"]) == (None, True)  # of kneegrade, before the decision
    assert judge.get(f"/v1/films/{row['key']}/evidence").status_code == 403
    assert [one["reader"] for one in film["readings"]] == ["anna", "ben"]
    assert [knee["grades"] for knee in film["reading"]["knees"]] == [{"jsn_medial": 0}] * 2
    shared = client_of(services).get("/v1/worklist").json()["films"]
    assert [bool(one["flags"] & 16) for one in shared] == [True, False, False, False]
    decided = film["reading"] | {"status": "read"}
    for knee in decided["knees"]:
        knee["grades"]["kl"] = 2
    assert [save(judge, row["key"], decided, 0).status_code for _ in ("first", "answer lost")] == [201, 201]
    assert reading_of(judge, row["key"])["knees"][0]["grades"]["kl"]["probabilities"]
    assert save(judge, row["key"], film["reading"], 1).status_code == 403
    shared = client_of(services).get("/v1/worklist").json()["films"]
    assert not any(one["flags"] & 16 for one in shared)

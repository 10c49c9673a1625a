"""The job: UIDs are functions of the inputs, times are those of the job."""

import datetime
from dataclasses import replace
from pathlib import Path

import pytest
from clinical_films import JOB, WEIGHTS, ClinicalVariant, PhantomPair, having

from kneegrade.anatomy import UserHints, UserLandmarks
from kneegrade.clinical import FilmHeader, Job, options_of, read_film_header
from kneegrade.clinical.uids import IMPLEMENTATION_UID, tracking_uid, uid_of
from kneegrade.errors import UsageError
from kneegrade.grader import Grader


@pytest.fixture(scope="module")
def header(pair: PhantomPair) -> FilmHeader:
    return read_film_header(ClinicalVariant("plain").file(pair))


def test_uids_are_valid_and_never_change() -> None:
    assert uid_of("example", "a", "b") == "2.25.137243504093316319936141645511416956424"
    assert uid_of("implementation") == IMPLEMENTATION_UID
    assert uid_of("example", "ab", "") != uid_of("example", "a", "b")
    assert tracking_uid("1.2", "R", 0) != tracking_uid("1.2", "R", 0, "femur")


@pytest.mark.parametrize(
    "changed",
    [
        {"version": "0.2.0"},
        {"weights": replace(WEIGHTS, sha256="1" * 64)},
        {"detector_sha256": "2" * 64},
        {"options": "side=R"},
        {"revision": 1},
    ],
)
def test_each_input_changes_the_uid_of_the_instance(changed: dict, header: FilmHeader) -> None:
    other = replace(JOB, **changed)
    assert other.instance_uid("SR", header) != JOB.instance_uid("SR", header)
    is_revision = "revision" in changed
    assert (other.series_uid("SR", header) == JOB.series_uid("SR", header)) is is_revision


def test_time_name_and_kind_of_film_bytes(header: FilmHeader) -> None:
    later = replace(JOB, when=JOB.when + datetime.timedelta(days=9), institution="Elsewhere")
    assert later.instance_uid("SR", header) == JOB.instance_uid("SR", header)
    other_pixels = replace(header, pixel_sha256="3" * 64)
    assert JOB.instance_uid("SR", other_pixels) != JOB.instance_uid("SR", header)
    assert JOB.instance_uid("SC", header) != JOB.instance_uid("SR", header)


@pytest.mark.parametrize(("offset", "local"), [("+0530", "2026-11-25T18:04:56"), ("-0330", "2026-11-25T09:04:56")])
def test_local_time_is_in_the_time_zone_of_the_film(offset: str, local: str, pair: PhantomPair) -> None:
    film = read_film_header(ClinicalVariant("", having(TimezoneOffsetFromUTC=offset)).file(pair))
    assert JOB.local_time(film).isoformat() == local


def test_without_a_stated_time_zone_local_time_is_that_of_the_job(header: FilmHeader) -> None:
    zone = datetime.timezone(datetime.timedelta(hours=-7))
    assert replace(JOB, when=JOB.when.astimezone(zone)).local_time(header).hour == 5


def test_a_moment_without_time_zone_is_refused() -> None:
    with pytest.raises(UsageError, match="no time zone"):
        replace(JOB, when=datetime.datetime(2026, 1, 1))


def test_a_job_has_the_software_of_the_report(grader: Grader) -> None:
    report = grader.grade_sources([])
    job = Job.of(grader, JOB.when, UserHints("R"))
    assert (job.version, job.weights, job.set_level, job.site) == (
        report.version, report.weights, report.set_level, report.site,
    )  # fmt: skip
    assert (job.detector_sha256, job.options, job.when) == (grader.detector.sha256, "side=R", JOB.when)


def test_options_are_what_the_user_stated(tmp_path: Path) -> None:
    assert options_of(None) == options_of(UserHints()) == ""
    assert options_of(UserHints("R", (0.1, 0.2))) == "side=R;spacing_mm=0.1,0.2"
    (tmp_path / "a.pts").write_text("1")
    first = options_of(UserHints(landmarks=UserLandmarks(tmp_path)))
    (tmp_path / "a.pts").write_text("2")
    assert options_of(UserHints(landmarks=UserLandmarks(tmp_path))) != first


def test_each_signature_is_an_instance_of_its_own(header: FilmHeader) -> None:
    signed = replace(JOB, revision=1, reader="Reader A")
    others = [replace(signed, reader="Reader B"), replace(signed, when=signed.when + datetime.timedelta(seconds=1))]
    uids = {job.instance_uid("SR", header) for job in (JOB, signed, *others)}
    assert len(uids) == 4
    assert {job.series_uid("SR", header) for job in (JOB, signed, *others)} == {JOB.series_uid("SR", header)}

"""`share` as a whole: nothing of the patient is left anywhere, and the shared films are graded alike."""

import json
import logging
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from canaries import MarkedFilm
from PIL import Image

from kneegrade.clinical.pseudonyms import Pseudonyms
from kneegrade.clinical.sharing import share, share_film
from kneegrade.errors import KneeGradeError
from kneegrade.imaging import Source, find_sources, read_radiograph
from kneegrade.imaging.photometry import INVERTED
from kneegrade.reporting import write_report
from kneegrade.results import GradedRadiograph

pytest.importorskip("highdicom", reason='highdicom is missing: pip install "kneegrade[dicom]"')

EXAMPLES = Path(__file__).parents[2] / "examples"
PSEUDONYMS = Pseudonyms(b"s" * 32)


@pytest.fixture(scope="module")
def marked() -> MarkedFilm:
    return MarkedFilm(pydicom.dcmread(EXAMPLES / "bilateral.dcm"))


@pytest.fixture(scope="module")
def shared_marked(marked, grader, tmp_path_factory):
    """The output folder, the outcome and the log of sharing the marked film, whose name is a canary too."""
    folder = tmp_path_factory.mktemp("marked")
    (folder / "ZQ00XK^KNEE.dcm").write_bytes(marked.content)
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        films = share(list(find_sources([folder / "ZQ00XK^KNEE.dcm"])), folder / "shared", grader, PSEUDONYMS)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    return folder / "shared", films, "\n".join(records)


def test_there_are_more_than_36_canaries_and_all_are_in_the_film(marked):
    assert len(marked.canaries) > 36
    assert marked.left_in(marked.content).keys() == marked.canaries.keys()


def test_no_canary_is_left_in_any_file(marked, shared_marked):
    folder, films, _ = shared_marked
    assert [film.reason for film in films] == [None]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"".join(path.suffixes[-2:]) for path in files} >= {
        ".dcm", ".sr.dcm", ".gsps.dcm", ".sc.dcm", ".fhir.json", ".json", ".html", ".csv",
    }  # fmt: skip
    for path in files:
        assert marked.left_in(path.read_bytes()) == {}, path.name
        assert b"ZQ" not in path.name.encode()
        assert b"ZQ00XK" not in path.read_bytes(), path.name


def test_no_canary_is_left_in_the_log(marked, shared_marked):
    _, _, log = shared_marked
    assert marked.left_in(log.encode()) == {}


def test_reports_of_grade_hold_no_canary_either(marked, grader, tmp_path):
    (tmp_path / "film.dcm").write_bytes(marked.content)
    report = grader.grade(tmp_path / "film.dcm")
    assert report.radiographs[0].status == "graded"
    for path in write_report(report, tmp_path / "out").values():
        assert marked.left_in(path.read_bytes()) == {}, path.name
    assert marked.left_in(repr(report).encode()) == {}


def test_shared_films_are_graded_alike(grader, bilateral, tmp_path):
    (film,) = share(list(find_sources([EXAMPLES / "bilateral.dcm"])), tmp_path, grader, PSEUDONYMS, formats=["json"])
    assert film.changes == ()
    (shared,) = json.loads((tmp_path / "report.json").read_text())["radiographs"]
    assert shared["source"] == film.path.name
    for knee, again in zip(bilateral.film.knees, shared["knees"], strict=True):
        for name, grade in knee.grades.items():
            change = np.abs(np.subtract(grade.probabilities, again["grades"][name]["probabilities"])).max()
            assert change < 0.1, (name, change)


def test_a_later_run_takes_the_shared_film_and_not_the_objects_for_a_film(shared_marked):
    folder, films, _ = shared_marked
    assert [source.name for source in find_sources([folder])] == [f"films/{films[0].path.name}"]
    (source,) = find_sources([films[0].path])
    assert source.error is None


def test_results_come_from_the_shared_film(shared_marked):
    folder, films, _ = shared_marked
    report = json.loads((folder / "report.json").read_text())
    (film,) = (folder / "films").iterdir()
    shared = pydicom.dcmread(film)
    state = pydicom.dcmread(next((folder / "dicom").glob("*.gsps.dcm")))
    assert report["radiographs"][0]["source"] == film.name == films[0].path.name
    assert (state.PatientID, state.StudyInstanceUID) == (shared.PatientID, shared.StudyInstanceUID)
    referenced = state.ReferencedSeriesSequence[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID
    assert referenced == shared.SOPInstanceUID
    assert state.ContentDate if "ContentDate" in state else state.PresentationCreationDate == "20000101"


def test_a_picture_loses_its_metadata(grader, tmp_path):
    pixels = read_radiograph(EXAMPLES / "single_right.dcm").pixels
    exif = Image.Exif()
    exif[0x013B], exif[0x9286] = "ZQ01XK", "ZQ02XK"  # artist, comment
    Image.fromarray(np.rint(255 * pixels).astype(np.uint8)).save(
        tmp_path / "ZQ03XK.jpg", exif=exif, comment=b"ZQ04XK", quality=95
    )
    (film,) = share(list(find_sources([tmp_path / "ZQ03XK.jpg"])), tmp_path / "out", grader, PSEUDONYMS)
    assert film.path is not None
    assert film.path.suffix == ".png"
    for path in (tmp_path / "out").rglob("*"):
        assert "ZQ" not in path.name
        assert path.is_dir() or b"ZQ0" not in path.read_bytes()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"films", "report.json", "report.html", "grades.csv"}


def test_a_film_without_a_knee_and_the_second_copy_of_a_film_are_not_shared(grader, tmp_path):
    Image.fromarray(np.zeros((400, 400), np.uint8)).save(tmp_path / "blank.png")
    sources = list(find_sources([tmp_path / "blank.png", EXAMPLES / "single_right.dcm"]))
    sources.append(sources[1])
    films = share(sources, tmp_path / "out", grader, PSEUDONYMS, formats=["json"])
    assert [film.reason and film.reason.code for film in films] == ["no_knee", None, "duplicate"]
    assert len(list((tmp_path / "out" / "films").iterdir())) == 1


def test_a_film_that_was_graded_inverted_is_shared_so(single):
    as_stored, inverted = (
        share_film(Source("a", single.content), film, PSEUDONYMS)
        for film in (single.film, replace(single.film, warnings=(INVERTED,)))
    )
    first, second = (
        pydicom.dcmread(BytesIO(shared.content)).pixel_array.astype(int) for shared in (as_stored, inverted)
    )
    kept = (first > 0) & (second > 0)
    assert np.array_equal(first[kept] + second[kept], np.full(kept.sum(), 65535))


@pytest.mark.parametrize(("burned_in", "is_masked"), [("NO", False), ("YES", True), (None, True)])
def test_the_whole_film_is_kept_only_where_it_declares_no_text(single, burned_in, is_masked):
    film = pydicom.dcmread(single.content)
    film.BurnedInAnnotation = burned_in
    stream = BytesIO()
    film.save_as(stream)
    shared = share_film(Source("a", load=stream.getvalue), single.film, PSEUDONYMS, whole_film=True)
    assert shared.is_masked == is_masked
    assert (pydicom.dcmread(BytesIO(shared.content)).Rows == film.Rows) != is_masked


def test_a_film_without_uids_becomes_a_picture(single):
    film = pydicom.dcmread(single.content)
    del film.StudyInstanceUID
    stream = BytesIO()
    film.save_as(stream)
    assert share_film(Source("a", load=stream.getvalue), single.film, PSEUDONYMS).name.endswith(".png")


def test_a_film_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"no film")
    with pytest.raises(KneeGradeError):
        share_film(Source("a", tmp_path / "a.dcm"), GradedRadiograph("a"), PSEUDONYMS)

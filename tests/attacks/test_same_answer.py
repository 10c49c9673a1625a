"""Promise 9: the same answer. Repeats, threads, company, file format, polarity, turns and side labels change no grade.

What may move is measured here and limited: probabilities by the form in which the same film is given.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from attack_tools import SEED, is_full, say, tries
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian

from kneegrade.anatomy import Knee, UserHints
from kneegrade.grader import Grader, detect_film
from kneegrade.imaging import find_sources
from kneegrade.reporting import to_dict
from kneegrade.results import GradedKnee, GradedRadiograph
from kneegrade.training import predict
from kneegrade.training.phantom_datasets import build_phantom_dataset

EXAMPLES = Path(__file__).parents[2] / "examples"
FILMS = ("bilateral.dcm", "single_right.dcm")
MAX_TURNED = 0.05  # change of a probability by quarter turns; no other form may change it
MAX_BATCHED = 1e-5  # by the number of knees in a call of the network; `kneegrade` gives it those of one film
BATCH_SIZES = (1, 7, 32)
IN_CI = "undeclared negative"


@pytest.fixture(scope="module")
def grader() -> Grader:
    return Grader("cpu")


def dataset(name: str) -> pydicom.Dataset:
    film = pydicom.dcmread(EXAMPLES / name)
    if film.file_meta.TransferSyntaxUID.is_encapsulated:
        film.decompress(generate_instance_uid=False)
    return film


def with_pixels(film: pydicom.Dataset, values: np.ndarray) -> pydicom.Dataset:
    film.Rows, film.Columns = values.shape
    film.PixelData = np.ascontiguousarray(values).tobytes()
    return film


def as_bytes(film: pydicom.Dataset) -> bytes:
    stream = io.BytesIO()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pydicom.dcmwrite(stream, film)
    return stream.getvalue()


def png(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def graded(grader: Grader, data: bytes) -> GradedRadiograph:
    (film,) = grader.grade(data).radiographs
    return film


def grades_of(knee: GradedKnee) -> dict[str, int]:
    return {name: result.grade for name, result in (knee.grades or {}).items()}


def differences(first: GradedRadiograph, second: GradedRadiograph) -> tuple[int, float]:
    """Number of grades that differ, and the greatest change of a probability. Knees are compared in their order."""
    if len(first.knees) != len(second.knees):
        return 7 * max(len(first.knees), len(second.knees)), 1.0
    changed, most = 0, 0.0
    for one, other in zip(first.knees, second.knees, strict=True):
        before, after = grades_of(one), grades_of(other)
        changed += sum(before.get(name) != after.get(name) for name in {*before, *after})
        for name in before.keys() & after.keys():
            pair = ((one.grades or {})[name].probabilities, (other.grades or {})[name].probabilities)
            most = max(most, float(np.abs(np.subtract(*pair)).max()))
    return changed, most


def report_of(grader: Grader, source: Path) -> dict[str, str]:
    """Film → its entry of the report as text; equal texts have equal bits."""
    films = to_dict(grader.grade_sources(find_sources([source])))["radiographs"]
    return {film["source"]: json.dumps(film, sort_keys=True) for film in films}


def test_repeats_company_and_threads_change_no_bit(grader: Grader, tmp_path: Path) -> None:
    together = report_of(grader, EXAMPLES)
    faults, number = 0, tries(100, 1)
    for repeat in range(number):
        for name in FILMS:
            faults += report_of(grader, EXAMPLES / name)[name] != together[name]
        if repeat == 0:
            threads = torch.get_num_threads()
            torch.set_num_threads(2)
            try:
                faults += report_of(grader, EXAMPLES) != together
            finally:
                torch.set_num_threads(threads)
    faults += report_of(Grader("cpu", threads=2), EXAMPLES) != together
    say(9, f"{2 * number} films alone instead of in company, with 1 and 2 threads: {faults} reports differ in a bit")
    assert faults == 0
    assert together[FILMS[0]] != together[FILMS[1]]


def knees_of_films(grader: Grader, number: int) -> list[Knee]:
    """So many accepted knees: those of the examples again and again."""
    films = [detect_film(source, grader.detector, UserHints()) for source in find_sources([EXAMPLES])]
    knees = [knee for film in films for knee in film.accepted]
    return [knees[index % len(knees)] for index in range(number)]


def graded_in_batches(grader: Grader, knees: list[Knee], size: int) -> GradedRadiograph:
    """The knees as those of one film, of which the network sees `size` at a time."""
    parts = [grader._grade_knees(knees[start : start + size], None) for start in range(0, len(knees), size)]
    return GradedRadiograph("film", tuple(knee for part in parts for knee in part))


def test_the_number_of_knees_in_a_call_of_the_network_changes_no_grade(grader: Grader) -> None:
    number = BATCH_SIZES[-1] if is_full() else BATCH_SIZES[1]
    knees = knees_of_films(grader, number)
    alone = graded_in_batches(grader, knees, 1)
    changed, most = 0, 0.0
    sizes = [size for size in BATCH_SIZES[1:] if size <= number]
    for size in sizes:
        one = differences(alone, graded_in_batches(grader, knees, size))
        changed, most = changed + one[0], max(most, one[1])
    say(9, f"{number} knees, {sizes} in a call of the network instead of 1: {changed} grades differ, probabilities "
        f"by at most {most:.1g}")  # fmt: skip
    assert changed == 0
    assert most <= MAX_BATCHED
    assert differences(alone, graded_in_batches(grader, knees[1:] + knees[:1], number)) > (0, 0.0)


def test_the_grader_gives_the_network_the_knees_of_one_film(grader: Grader, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, predict = [], grader._predict
    monkeypatch.setattr(grader, "_predict", lambda knees: sizes.append(len(knees)) or predict(knees))
    report = grader.grade_sources(find_sources([EXAMPLES]))
    assert sizes == [len(film.knees) for film in report.radiographs] == [2, 1]


@pytest.mark.slow
def test_the_batch_size_of_predictions_changes_no_grade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_phantom_dataset(tmp_path / "knees", BATCH_SIZES[-1], "uniform", seed=SEED, extent_in_plateau_widths=1.5)
    found = {}
    for size in BATCH_SIZES:
        monkeypatch.setattr(predict, "BATCH_SIZE", size)
        found[size] = predict.predict_knees(tmp_path / "knees", device="cpu")
    changed = sum((found[size].grades != found[1].grades).sum() for size in BATCH_SIZES)
    most = max(float(np.abs(found[size].probabilities - found[1].probabilities).max()) for size in BATCH_SIZES)
    say(9, f"predictions for {BATCH_SIZES[-1]} knees in batches of {BATCH_SIZES}: {changed} grades differ, "
        f"probabilities by at most {most:.1g}")  # fmt: skip
    assert changed == 0
    assert most <= MAX_BATCHED
    assert len({*map(tuple, found[1].grades.tolist())}) > 3  # knees that were mixed up would differ


def negative(film: pydicom.Dataset) -> bytes:
    full = (1 << film.BitsStored) - 1
    film.PhotometricInterpretation = "MONOCHROME1"
    del film.PresentationLUTShape
    return as_bytes(with_pixels(film, full - film.pixel_array))


def undeclared_negative(film: pydicom.Dataset) -> bytes:
    return as_bytes(with_pixels(film, (1 << film.BitsStored) - 1 - film.pixel_array))


def other_side(film: pydicom.Dataset) -> bytes:
    film.ImageLaterality = {"R": "L", "L": "R"}.get(film.get("ImageLaterality", ""), "B")
    return as_bytes(film)


def as_png(film: pydicom.Dataset) -> bytes:
    values = film.pixel_array
    return png(values.astype(np.uint16) << (16 - film.BitsStored))


def compressed(film: pydicom.Dataset) -> bytes:
    film.compress(pydicom.uid.JPEG2000Lossless, generate_instance_uid=False)
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, film)
    return stream.getvalue()


def turned(quarters: int) -> Callable[[pydicom.Dataset], bytes]:
    def turn(film: pydicom.Dataset) -> bytes:
        del film.PatientOrientation
        return as_bytes(with_pixels(film, np.rot90(film.pixel_array, quarters)))

    return turn


FORMS: dict[str, Callable[[pydicom.Dataset], bytes]] = {
    "declared negative": negative, "undeclared negative": undeclared_negative, "JPEG 2000": compressed,
    "other side label": other_side, "PNG": as_png,
    **{f"turned by {90 * quarters} degrees": turned(quarters) for quarters in (1, 2, 3)},
}  # fmt: skip


@pytest.mark.parametrize(
    "form", [IN_CI, *(pytest.param(name, marks=pytest.mark.slow) for name in FORMS if name != IN_CI)]
)
def test_the_same_film_in_another_form_has_the_same_grades(form: str, grader: Grader) -> None:
    changed, most, change = 0, 0.0, FORMS[form]
    for name in FILMS:
        one = differences(graded(grader, as_bytes(dataset(name))), graded(grader, change(dataset(name))))
        changed, most = changed + one[0], max(most, one[1])
    say(9, f"{form}: {changed} grades of {len(FILMS)} films differ, probabilities by at most {most:.2g}")
    assert changed == 0
    assert most <= (MAX_TURNED if form.startswith("turned") else 0)


def test_another_film_would_be_seen(grader: Grader) -> None:
    first, second = (graded(grader, as_bytes(dataset(name))) for name in FILMS)
    changed, most = differences(first, second)
    assert (changed, most) == (14, 1.0)
    blurred = dataset(FILMS[1])
    values = blurred.pixel_array.copy()
    values[:400] = values[400:800]
    assert differences(second, graded(grader, as_bytes(with_pixels(blurred, values)))) != (0, 0.0)

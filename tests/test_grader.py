"""The Python interface on the example films."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image

import kneegrade
from kneegrade import Grader
from kneegrade.errors import UsageError, WeightsError
from kneegrade.imaging import Source, read_radiograph
from kneegrade.results import Quality
from kneegrade.schema import TARGET_NAMES, TARGETS
from kneegrade.uncertainty.quality_control import OOD_FINDINGS, UNSURE_LANDMARKS
from kneegrade.weights import load_weights, save_weights, shipped_path

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def grader() -> Grader:
    return Grader(device="cpu")


def only_knee(report):
    (radiograph,) = report.radiographs
    (knee,) = radiograph.knees
    assert tuple(knee.grades) == TARGET_NAMES
    return knee


def test_path_bytes_dataset_and_array_give_the_same_grades(grader):
    path = EXAMPLES / "single_right.dcm"
    radiograph = read_radiograph(path)
    expected = only_knee(grader.grade(path))
    for source in (str(path), path.read_bytes(), pydicom.dcmread(path), radiograph.pixels):
        knee = only_knee(grader.grade(source))
        for name in TARGET_NAMES:
            assert knee.grades[name].probabilities == pytest.approx(expected.grades[name].probabilities, abs=1e-3)


def test_an_array_with_spacing_gets_millimetres(grader):
    pixels = read_radiograph(EXAMPLES / "single_right.dcm").pixels
    assert only_knee(grader.grade(pixels)).joint_space_width_mm is None
    tibia = only_knee(grader.grade(pixels)).joint_space.tibial_width_px.value
    one, two = (
        only_knee(grader.grade(pixels, pixel_spacing_mm=(width_mm / tibia,) * 2)).joint_space_width_mm
        for width_mm in (70, 84)
    )
    assert two.medial == pytest.approx(1.2 * one.medial)
    assert two.lateral == pytest.approx(1.2 * one.lateral)


@pytest.mark.parametrize("width_mm", [38, 160, 290])
def test_a_spacing_that_makes_a_tibia_of_impossible_width_is_not_used(grader, width_mm):
    """Half and double the true spacing, as after a change of size, and a placeholder."""
    pixels = read_radiograph(EXAMPLES / "single_right.dcm").pixels
    mm = width_mm / only_knee(grader.grade(pixels)).joint_space.tibial_width_px.value
    film = grader.grade(pixels, pixel_spacing_mm=(mm, mm)).radiographs[0]
    (finding,) = (each for each in film.warnings if each.code == "spacing_implausible")
    assert "55 to 110 mm" in finding.message
    assert film.knees[0].joint_space_width_mm is None
    assert film.knees[0].joint_space.medial.value > 0  # relative to the width of the tibia


def test_the_magnification_of_a_spacing_that_is_not_used_needs_no_warning(grader):
    film = pydicom.dcmread(EXAMPLES / "single_right.dcm")
    assert "PixelSpacing" not in film
    used = {}
    for mm in (0.14, 0.5):
        film.ImagerPixelSpacing = [mm, mm]
        used[mm] = {each.code for each in grader.grade(film).radiographs[0].warnings}
    assert used[0.14] == {"magnification_uncorrected"}
    assert used[0.5] == {"spacing_implausible"}


def test_joint_space_is_measured_without_the_stretch_of_a_film(grader):
    """Within 12 %, as knees have different natural ratios of scales; on the stretched outline it changes by 24 %."""
    pixels = read_radiograph(EXAMPLES / "single_right.dcm").pixels
    size = (round(1.3 * pixels.shape[1]), pixels.shape[0])
    wide = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)).clip(0, 1)
    plain, stretched = only_knee(grader.grade(pixels)), only_knee(grader.grade(wide))
    before, after = plain.joint_space, stretched.joint_space
    for width, expected in ((after.medial, before.medial), (after.lateral, before.lateral)):
        assert width.value == pytest.approx(expected.value, rel=0.12)
    assert after.convergence_deg.value == pytest.approx(before.convergence_deg.value, abs=0.4)
    assert np.ptp(stretched.landmarks_px[:, 0]) == pytest.approx(1.3 * np.ptp(plain.landmarks_px[:, 0]), rel=0.03)


def test_the_users_side_is_used_where_the_file_has_none(grader):
    pixels = read_radiograph(EXAMPLES / "single_right.dcm").pixels
    assert only_knee(grader.grade(pixels, side="R")).side == "R"


def test_a_mirrored_film_gives_an_unknown_side_and_a_warning(grader):
    pixels = read_radiograph(EXAMPLES / "single_right.dcm").pixels[:, ::-1]
    report = grader.grade(pixels, side="R")
    assert only_knee(report).side == "unknown"
    assert "side_conflict" in {warning.code for warning in report.radiographs[0].warnings}


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_film_turned_by_quarters_gives_the_same_grades(grader, turns):
    pixels = read_radiograph(EXAMPLES / "single_right.dcm").pixels
    upright, turned = only_knee(grader.grade(pixels)), only_knee(grader.grade(np.rot90(pixels, turns).copy()))
    assert turned.side == upright.side == "R"
    same = sum(turned.grades[name].grade == upright.grades[name].grade for name in TARGET_NAMES)
    assert same >= 6


def test_a_negative_gives_the_same_grades(grader):
    pixels = read_radiograph(EXAMPLES / "single_right.dcm").pixels
    plain, negative = only_knee(grader.grade(pixels)), only_knee(grader.grade(1 - pixels))
    assert {n: g.grade for n, g in plain.grades.items()} == {n: g.grade for n, g in negative.grades.items()}


def test_landmarks_follow_a_shift_of_the_film(grader):
    pixels = read_radiograph(EXAMPLES / "single_right.dcm").pixels
    moved = np.pad(pixels, ((40, 0), (24, 0)))[: pixels.shape[0], : pixels.shape[1]]
    before, after = (only_knee(grader.grade(p)).landmarks_px[12:64] for p in (pixels, moved))
    offset = np.median(after - before, axis=0)
    np.testing.assert_allclose(offset, (24, 40), atol=6)


def test_a_knee_with_half_of_its_joint_cut_off_is_refused(grader):
    pixels = read_radiograph(EXAMPLES / "single_right.dcm").pixels
    knee = only_knee(grader.grade(pixels))
    right = round(float(knee.landmarks_px[12:25, 0].mean()))
    report = grader.grade(pixels[:, :right])
    assert report.radiographs[0].status == "not_gradable"
    assert report.radiographs[0].reason.code == "view"


def test_a_knee_refused_at_detection_has_a_quality_only_if_the_weights_have_quality_control(grader, tmp_path):
    pixels = read_radiograph(EXAMPLES / "single_right.dcm").pixels
    right = round(float(only_knee(grader.grade(pixels)).landmarks_px[12:25, 0].mean()))
    (knee,) = grader.grade(pixels[:, :right]).radiographs[0].knees
    assert knee.grades is None
    assert (knee.quality.score, knee.quality.findings) == (0.0, (knee.reason,))
    held = load_weights(shipped_path("grader"), "grader")
    parts = {name: tensor for name, tensor in held.tensors.items() if not name.startswith("gate.")}
    save_weights(tmp_path / "w.safetensors", parts, held.description)
    (knee,) = Grader("cpu", tmp_path / "w.safetensors").grade(pixels[:, :right]).radiographs[0].knees
    assert knee.grades is None
    assert knee.reason is not None
    assert knee.quality is None


def graded_as(grader, quality, monkeypatch):
    """The knee of an example film, graded with a given result of quality control."""
    monkeypatch.setattr(grader, "_check_knees", lambda knees, pooled, visible: [quality] * len(knees))
    return only_knee(grader.grade(EXAMPLES / "single_right.dcm"))


def test_findings_widen_the_sets_and_leave_the_grades(grader, monkeypatch):
    usual = graded_as(grader, Quality(0.5), monkeypatch)
    unusual = graded_as(grader, Quality(0.01, (OOD_FINDINGS[0],)), monkeypatch)
    assert unusual.abstain
    assert {n: g.probabilities for n, g in unusual.grades.items()} == {
        n: g.probabilities for n, g in usual.grades.items()
    }
    for name in TARGET_NAMES:
        assert set(usual.grades[name].prediction_set) <= set(unusual.grades[name].prediction_set)
    sizes = [sum(len(g.prediction_set) for g in knee.grades.values()) for knee in (usual, unusual)]
    assert sizes[0] < sizes[1]
    assert unusual.joint_space == usual.joint_space is not None


def test_no_joint_space_is_reported_between_unsure_landmarks(grader, monkeypatch):
    knee = graded_as(grader, Quality(0.01, (UNSURE_LANDMARKS,)), monkeypatch)
    assert (knee.status, knee.joint_space, knee.joint_space_width_mm) == ("graded", None, None)


def test_evidence_sums_to_the_networks_logits_and_gives_the_grades(grader):
    outputs = []
    hook = grader.network.register_forward_hook(lambda network, read, output: outputs.append(output.logits))
    knee = only_knee(grader.grade(EXAMPLES / "single_right.dcm"))
    hook.remove()
    evidence = knee.evidence
    assert evidence.roi.shape == (grader.network.config.roi_px,) * 2
    centred = {
        name: evidence.contributions[name].sum(0) + evidence.region_term[name] + evidence.constant[name]
        for name in TARGET_NAMES
    }
    calibrated = grader.postprocessor({name: torch.tensor(logits)[None] for name, logits in centred.items()})
    for target in TARGETS:
        logits = outputs[0][target.name][0].double().numpy()
        np.testing.assert_allclose(centred[target.name], logits - logits.mean(), atol=1e-4)
        assert evidence.region_term[target.name].any()  # the shipped network has a global branch
        grade = knee.grades[target.name].grade
        assert evidence.terms(target.name, grade).logit == pytest.approx(centred[target.name][grade], abs=1e-9)
        expected = calibrated.probabilities[0, target.one_hot].tolist()
        assert knee.grades[target.name].probabilities == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("film", "shifted"), [("bilateral.dcm", False), ("single_right.dcm", True)])
def test_coherence_is_that_of_the_networks_own_probabilities(grader, film, shifted):
    outputs = []
    hook = grader.network.register_forward_hook(lambda network, read, output: outputs.append(output.logits))
    knees = grader.grade(EXAMPLES / film).radiographs[0].knees
    hook.remove()
    own = torch.cat([torch.softmax(outputs[0][name], 1) for name in TARGET_NAMES], 1)
    g = grader.mixture.log_probability(own).tolist()
    assert [knee.coherence.log_probability for knee in knees] == pytest.approx(g, abs=1e-4)
    for row, knee in enumerate(knees):
        most_probable = [int(own[row, target.one_hot].argmax()) for target in TARGETS]
        moved = sum(abs(knee.grades[t.name].grade - grade) for t, grade in zip(TARGETS, most_probable, strict=True))
        assert knee.coherence.decoding_shift == moved
        given = torch.tensor([p for grade in knee.grades.values() for p in grade.probabilities])
        assert grader.mixture.log_probability(given[None]).item() != pytest.approx(g[row], abs=0.1)
    assert any(knee.coherence.decoding_shift for knee in knees) == shifted


def test_an_unknown_device_and_missing_weights_raise_errors():
    with pytest.raises(UsageError, match="tpu"):
        Grader(device="tpu")
    with pytest.raises(WeightsError):
        Grader(weights="nowhere.safetensors")


def test_the_export_list_is_true():
    for name in kneegrade.__all__:
        assert getattr(kneegrade, name) is not None
    assert len(kneegrade.__all__) <= 10
    with pytest.raises(AttributeError):
        kneegrade.nothing  # noqa: B018


def test_heavy_blur_is_refused(grader):
    from scipy import ndimage

    pixels = read_radiograph(EXAMPLES / "single_right.dcm").pixels
    report = grader.grade(ndimage.gaussian_filter(pixels, 40))
    assert report.radiographs[0].reason.code == "blur"


def test_an_unreadable_knee_of_two_is_listed_as_refused(grader):
    """A metal block over the left joint: the right knee is graded, the left is refused."""
    radiograph = read_radiograph(EXAMPLES / "bilateral.dcm")
    left = grader.grade(EXAMPLES / "bilateral.dcm").radiographs[0].knees[1]
    x, y = left.landmarks_px[18].round().astype(int)
    data = pydicom.dcmread(EXAMPLES / "bilateral.dcm")
    stored = data.pixel_array.copy()
    stored[y - 220 : y + 220, x - 260 : x + 260] = stored.min()  # MONOCHROME1: the least value is the brightest
    data.decompress()
    data.PixelData = stored.astype("<u2").tobytes()
    (film,) = grader.grade(data).radiographs
    assert radiograph.laterality == "both"
    assert [(knee.side, knee.status) for knee in film.knees] == [("R", "graded"), ("L", "not_gradable")]
    assert film.knees[1].reason.code == "view"


def test_a_film_that_causes_an_internal_error_is_a_row(grader, monkeypatch):
    monkeypatch.setattr(grader.detector, "detect", lambda radiograph: 1 / 0)
    (radiograph,) = grader.grade(EXAMPLES / "single_right.dcm").radiographs
    assert radiograph.status == "failed"
    assert radiograph.reason.code == "internal"


@dataclass(frozen=True, eq=False)
class RecordedSource(Source):
    """A source that records when it is opened."""

    events: list[object] = field(default_factory=list)

    def open(self) -> Path | bytes:
        self.events.append(self.name)
        return super().open()


def test_each_film_is_graded_and_handed_over_before_the_next_one_is_opened(grader):
    events: list[object] = []
    good, bad = (EXAMPLES / "single_right.dcm").read_bytes(), b"no film"
    sources = [
        RecordedSource(name, load=lambda data=data: data, events=events)
        for name, data in (("a", good), ("b", bad), ("c", good))
    ]
    report = grader.grade_sources(
        iter(sources),
        progress=lambda done, total: events.append((done, total)),
        on_film=lambda film: events.append(film.status),
    )
    assert events == ["a", "graded", (1, 3), "b", "failed", (2, 3), "c", "graded", (3, 3)]
    assert [film.status for film in report.radiographs] == ["graded", "failed", "graded"]


def test_a_film_is_graded_the_same_alone_and_after_other_films(grader):
    """Bit for bit: no call of the networks holds more than one film."""
    sources = [Source(name, EXAMPLES / name) for name in ("bilateral.dcm", "single_right.dcm")]
    _, after = grader.grade_sources(sources).radiographs
    alone = grader.grade_film(sources[1])
    for name in TARGET_NAMES:
        assert after.knees[0].grades[name].probabilities == alone.knees[0].grades[name].probabilities
    np.testing.assert_array_equal(after.knees[0].landmarks_px, alone.knees[0].landmarks_px)


def test_an_error_in_a_late_stage_is_a_row_with_the_films_checksum(grader, monkeypatch):
    monkeypatch.setattr(grader, "_compare", lambda output, calibrated: 1 / 0)
    film = grader.grade_film(Source("a", EXAMPLES / "single_right.dcm"))
    assert (film.status, film.reason.code) == ("failed", "internal")
    assert film.sha256 == hashlib.sha256((EXAMPLES / "single_right.dcm").read_bytes()).hexdigest()

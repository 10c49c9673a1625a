"""`kneegrade calibrate`: labelled knees → weights whose reports have prediction sets, or are on a site's scale."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kneegrade import Grader
from kneegrade.coherence import broken_rules
from kneegrade.errors import RecipeError
from kneegrade.evaluation import Predictions
from kneegrade.network import GradingNetwork, ModelConfig
from kneegrade.phantom import render_rois, sample_knee
from kneegrade.schema import TARGETS
from kneegrade.training.fit import calibrate
from kneegrade.training.fit_site import calibrate_to_site
from kneegrade.training.splits import in_first_group, left_out
from kneegrade.uncertainty import Calibration
from kneegrade.weights import read_description, save_weights, shipped_path


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return phantom_manifest(tmp_path_factory.mktemp("knees"), 130)


def phantom_manifest(folder, number):
    """Path of a manifest of single phantoms as PNG files, two per person, with landmarks."""
    rows, knees = [], [sample_knee(77, index, "uniform") for index in range(number)]
    drawn = [render_rois(knees[first : first + 20], 192, 1.3) for first in range(0, number, 20)]
    pictures = np.concatenate([pixels.numpy() for pixels, _ in drawn])
    points = np.concatenate([landmarks for _, landmarks in drawn])
    for index, (knee, pixels, landmarks) in enumerate(zip(knees, pictures, points, strict=True)):
        path = folder / f"{index}.png"
        Image.fromarray((pixels * 255).astype(np.uint8)).save(path)
        rows.append({"image_path": str(path), "knee_id": str(index), "subject_id": f"p{index // 2}", "side": "R",
                     "split": "val", "source": "phantom", "landmarks_px": landmarks.reshape(-1).tolist(),
                     **knee.grades})  # fmt: skip
    table = pd.DataFrame(rows)
    table.to_parquet(folder / "m.parquet")
    return folder / "m.parquet"


def test_reports_of_calibrated_weights_have_coherent_grades_and_sets(kneegrade_here, manifest, tmp_path):
    done = kneegrade_here("calibrate", "--manifest", manifest, "-o", tmp_path, "--level", "0.8", "--share", "0.9")
    assert done.returncode == 0, done.stderr
    assert "set coverage" in done.stdout
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    people = pd.read_parquet(manifest)["subject_id"].to_numpy(dtype=str)
    assert metrics["knees"] == (~in_first_group(people, 0.9, 0)).sum()
    assert metrics["hard_rule_rate"] == 0
    assert 0.5 < metrics["kl"]["set_coverage"] <= 1
    description = read_description(tmp_path / "weights.safetensors")
    calibrated = description["calibrated"]
    assert calibrated["weights"]["sha256"] == read_description(shipped_path("grader"))["sha256"]
    assert calibrated["grades"] == [target.name for target in TARGETS]
    assert (calibrated["knees"], calibrated["subjects"]) == (130 - metrics["knees"], 65 - metrics["subjects"])
    assert calibrated["level"] == 0.8
    rest = Predictions.load(tmp_path / "predictions.parquet").subject
    assert set(people[left_out(description, people)]) == set(rest)

    done = kneegrade_here(
        "grade", "examples", "--weights", tmp_path / "weights.safetensors", "-o", tmp_path / "report", "-q"
    )
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "report" / "report.json").read_text())
    assert written["software"]["weights"]["name"].endswith("-calibrated")
    assert written["software"]["set_level"] == pytest.approx(0.8)
    assert "contain the true grade in 80 % of knees" in (tmp_path / "report" / "report.html").read_text()

    report = Grader(weights=tmp_path / "weights.safetensors").grade("examples")
    assert report.set_level == pytest.approx(0.8)
    for knee in (knee for film in report.radiographs for knee in film.knees if knee.grades):
        grades = {name: result.grade for name, result in knee.grades.items()}
        assert not any(rule.hard for rule in broken_rules(grades))
        for result in knee.grades.values():
            assert result.grade in result.prediction_set
            assert len(result.prediction_set) == max(result.prediction_set) - min(result.prediction_set) + 1


def part_of(manifest, rows, **columns):
    """Path of a manifest with some rows, and with these columns in place of its own."""
    path = manifest.parent / f"part-{rows.start}-{rows.stop}.parquet"
    pd.read_parquet(manifest).iloc[rows].assign(**columns).to_parquet(path)
    return path


@pytest.mark.slow
def test_a_site_calibrated_report_has_the_grades_of_both_scales(kneegrade_here, manifest, tmp_path):
    """The site's reader gives one grade less than the truth; only KL is labelled."""
    own = pd.read_parquet(manifest).iloc[:60]
    unread = {target.name: pd.array([None] * 60, dtype="Int64") for target in TARGETS[1:]}
    few = part_of(manifest, slice(0, 60), kl=(own["kl"] - 1).clip(lower=0), **unread)
    done = kneegrade_here("calibrate", "--manifest", few, "--site", "North Hospital", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Scale of the reader of North Hospital" in done.stdout
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["knees"], metrics["subjects"]) == (60, 30)  # all knees, cross-fitted
    assert metrics["kl"]["accuracy"] > metrics["study_scale"]["kl"]["accuracy"] + 0.1
    about = read_description(tmp_path / "weights.safetensors")
    assert about["name"].endswith("@North Hospital")
    assert (about["site"]["knees"], list(about["site"]["maps"])) == (60, ["kl"])
    assert about["calibrated"] == read_description(shipped_path("grader"))["calibrated"]

    mapped, study = (Grader(weights=w).grade("examples") for w in (tmp_path / "weights.safetensors", None))
    assert mapped.site is not None
    assert mapped.site.name == "North Hospital"
    pairs = [(a, b) for one, other in zip(mapped.radiographs, study.radiographs, strict=True)
             for a, b in zip(one.knees, other.knees, strict=True) if a.grades]  # fmt: skip
    assert pairs
    for knee, before in pairs:
        assert knee.grades["kl"].study == before.grades["kl"]
        assert {n: g for n, g in knee.grades.items() if n != "kl"} == {
            n: g for n, g in before.grades.items() if n != "kl"
        }  # a map of KL alone moves no OARSI grade
        assert knee.coherence == before.coherence
        assert knee.grades["kl"].grade in knee.grades["kl"].prediction_set
    assert any(knee.grades["kl"].grade < before.grades["kl"].grade for knee, before in pairs)


def test_a_share_of_the_subjects_is_refused_with_a_site(kneegrade_here, manifest, tmp_path):
    done = kneegrade_here("calibrate", "--manifest", manifest, "--site", "North", "--share", "0.6", "-o", tmp_path)
    assert done.returncode == 2
    assert "Leave out --share" in " ".join(done.stderr.split())


@pytest.mark.slow
def test_too_few_knees_of_a_site_are_refused(manifest, untrained, tmp_path):
    table = pd.read_parquet(manifest)
    with pytest.raises(RecipeError, match=r"at most 40 labelled knees of 20 subjects.*50 knees of 20 subjects"):
        calibrate_to_site(table.iloc[:40], tmp_path / "w.safetensors", untrained(calibrated={}), site="s")
    few_people = table.iloc[:60].assign(subject_id=[f"p{i % 3}" for i in range(60)])
    with pytest.raises(RecipeError, match="at most 60 labelled knees of 3 subjects"):
        calibrate_to_site(few_people, tmp_path / "w.safetensors", untrained(calibrated={}), site="s")
    with pytest.raises(RecipeError, match="untrained are not calibrated"):
        calibrate_to_site(table.iloc[:60], tmp_path / "w.safetensors", untrained(), site="s")
    assert not (tmp_path / "w.safetensors").exists()


@pytest.fixture
def untrained(tmp_path):
    """Writes weights of a small, untrained network, with more entries in their description."""

    def write(**about):
        config = ModelConfig("resnet18", reduce=8, roi_px=64)
        parts = {"network": GradingNetwork(config), "calibration": Calibration()}
        tensors = {f"{part}.{name}": value for part, module in parts.items()
                   for name, value in module.state_dict().items()}  # fmt: skip
        kept = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
        path = tmp_path / "untrained.safetensors"
        save_weights(path, kept, {"name": "untrained", "kind": "grader", "model": asdict(config), **about})
        return path

    return write


@pytest.mark.slow
def test_people_are_either_fitted_or_measured_on(untrained, tmp_path):
    manifest = phantom_manifest(tmp_path, 200)
    table, untrained = pd.read_parquet(manifest), untrained()
    first, _ = calibrate(table, tmp_path / "a.safetensors", untrained, seed=1, share=0.6)
    assert first is not None
    assert 0 < len(set(first.subject)) < 50
    assert (table["subject_id"].to_numpy()[first.knee] == first.subject).all()
    other = table.copy()
    for target in TARGETS:  # labels of the people measured on do not change the weights
        other.loc[first.knee, target.name] = (other.loc[first.knee, target.name] + 1) % target.classes
    calibrate(other, tmp_path / "b.safetensors", untrained, seed=1, share=0.6)
    digests = [read_description(tmp_path / name)["sha256"] for name in ("a.safetensors", "b.safetensors")]
    assert digests[0] == digests[1]
    first.save(tmp_path / "p.parquet")
    read = Predictions.load(tmp_path / "p.parquet")
    np.testing.assert_array_equal(read.sets, first.sets)
    np.testing.assert_array_equal(read.guess(), first.grades)
    none, _ = calibrate(table, tmp_path / "c.safetensors", untrained, share=1.0)
    assert none is None
    with pytest.raises(RecipeError, match="Found 36 graded knees to calibrate on"):
        calibrate(table, tmp_path / "d.safetensors", untrained, share=0.2)
    with pytest.raises(RecipeError, match="at most 200 labelled knees of 1 subjects per grade to calibrate on"):
        calibrate(table.assign(subject_id="p"), tmp_path / "e.safetensors", untrained, share=1.0)
    assert not (tmp_path / "e.safetensors").exists()

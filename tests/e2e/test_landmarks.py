"""`kneegrade landmarks`, and grading at landmarks of the user, as a user runs them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from kneegrade import Grader
from kneegrade.anatomy import LandmarkDetector, UserLandmarks
from kneegrade.anatomy.landmark_files import read_kneel_csv, read_pts, write_pts
from kneegrade.commands import app
from kneegrade.errors import UsageError
from kneegrade.imaging import find_sources, read_radiograph
from kneegrade.reporting.landmark_export import write_landmarks

EXAMPLES = Path(__file__).parents[2] / "examples"
TRUTH = json.loads((EXAMPLES / "truth.json").read_text())


@pytest.fixture(scope="module")
def exported(kneegrade, tmp_path_factory):
    output = tmp_path_factory.mktemp("landmarks")
    return kneegrade("landmarks", EXAMPLES, "--output", output, "--format", "pts,csv,coco,png"), output


def test_all_formats_have_the_same_points(exported):
    done, output = exported
    assert done.returncode == 0, done.stderr
    both = read_pts(output / "bilateral.pts")
    assert both.shape == (2, 74, 2)
    coco = json.loads((output / "landmarks.json").read_text())
    image = next(i for i in coco["images"] if i["file_name"] == "bilateral.dcm")
    annotations = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
    assert [a["side"] for a in annotations] == ["R", "L"]
    for points, annotation in zip(both, annotations, strict=True):
        np.testing.assert_allclose(np.reshape(annotation["keypoints"], (74, 3))[:, :2], points, atol=0.006)
    kneel = [k for k in read_kneel_csv(output / "landmarks.csv") if k.subject_id == "bilateral"]
    np.testing.assert_allclose(kneel[1].points[4], both[1, 55], atol=0.51)
    with Image.open(output / "single_right.landmarks.png") as picture:
        assert picture.mode == "RGB"
    assert not list(output.rglob("*.tmp"))


def test_points_are_close_to_the_truth(exported):
    _, output = exported
    for name in ("bilateral", "single_right"):
        for points, true in zip(read_pts(output / f"{name}.pts"), TRUTH[f"{name}.dcm"]["knees"], strict=True):
            expected = np.array(true["landmarks_px"])
            width = np.linalg.norm(expected[63] - expected[47])
            error = np.linalg.norm(points - expected, axis=1)[[*range(12, 25), *range(47, 64)]]
            assert np.median(error) < 0.015 * width


def test_table_lists_films_and_widths(exported):
    done, _ = exported
    for word in ("bilateral.dcm", "single_right.dcm", "mm", "±"):
        assert word in done.stdout


def test_film_without_a_knee_is_listed_and_gives_exit_code_one(kneegrade, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (300, 300), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    done = kneegrade("landmarks", tmp_path, "--output", tmp_path / "out", "--format", "csv,coco")
    assert done.returncode == 1
    assert "noise.png: " in done.stdout
    assert json.loads((tmp_path / "out" / "landmarks.json").read_text())["annotations"] == []


def test_unknown_format_writes_nothing(tmp_path):
    with pytest.raises(UsageError, match="svg"):
        write_landmarks(find_sources([EXAMPLES]), tmp_path / "out", ["svg"], LandmarkDetector())
    assert not (tmp_path / "out").exists()


def test_grading_at_landmarks_of_the_user(tmp_path):
    """The user's points are used unchanged; a film without landmarks is a row with its reason."""
    true = [np.array(knee["landmarks_px"]) for knee in TRUTH["bilateral.dcm"]["knees"]]
    write_pts(tmp_path / "bilateral.pts", np.stack(true))
    report = Grader(device="cpu").grade(EXAMPLES, landmarks=UserLandmarks(tmp_path))
    by_name = {radiograph.source: radiograph for radiograph in report.radiographs}
    without = by_name["single_right.dcm"]
    assert (without.status, without.reason.code) == ("not_gradable", "no_landmarks")
    for knee, expected, points in zip(
        by_name["bilateral.dcm"].knees, TRUTH["bilateral.dcm"]["knees"], true, strict=True
    ):
        np.testing.assert_allclose(knee.landmarks_px, points, atol=1e-3)
        assert knee.side == expected["side"]
        assert knee.landmark_confidence == 1.0


def test_grade_accepts_a_pts_file(kneegrade, tmp_path):
    write_pts(tmp_path / "mine.pts", np.array(TRUTH["single_right.dcm"]["knees"][0]["landmarks_px"]))
    done = kneegrade(
        "grade", EXAMPLES / "single_right.dcm", "-o", tmp_path / "out", "--landmarks", tmp_path / "mine.pts", "--quiet"
    )
    assert done.returncode == 0, done.stderr
    (knee,) = json.loads((tmp_path / "out" / "report.json").read_text())["radiographs"][0]["knees"]
    np.testing.assert_allclose(knee["landmarks_px"], TRUTH["single_right.dcm"]["knees"][0]["landmarks_px"], atol=0.01)


def test_one_pts_file_for_two_films_is_a_usage_error(tmp_path):
    write_pts(tmp_path / "mine.pts", np.array(TRUTH["single_right.dcm"]["knees"][0]["landmarks_px"]))
    arguments = ("grade", EXAMPLES, "-o", tmp_path / "out", "--landmarks", tmp_path / "mine.pts")
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 2
    assert "one film" in done.stderr


def example_pixels() -> np.ndarray:
    """(H, W) uint8 pixels of an example film."""
    pixels = read_radiograph(EXAMPLES / "single_right.dcm").pixels
    return np.rint(pixels * 255).astype(np.uint8)


def test_films_with_equal_stems_get_separate_files_and_sources_are_kept(kneegrade, tmp_path):
    for ending in ("png", "tif"):
        Image.fromarray(example_pixels()).save(tmp_path / f"film.{ending}")
    before = (tmp_path / "film.png").read_bytes()
    done = kneegrade("landmarks", tmp_path, "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.glob("*.pts")} == {"film.pts", "film.tif.pts"}
    assert (tmp_path / "film.png").read_bytes() == before


def test_pixel_spacing_option_gives_millimetres(kneegrade, tmp_path):
    Image.fromarray(example_pixels()).save(tmp_path / "film.png")
    done = kneegrade("landmarks", tmp_path / "film.png", "-o", tmp_path / "out", "--pixel-spacing", "0.15")
    assert done.returncode == 0, done.stderr
    assert " mm" in done.stdout
    assert "%" not in done.stdout.split("Conf.:")[0]

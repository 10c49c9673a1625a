"""`kneegrade grade`, `info` and `phantom` as a user runs them, in a process of their own."""

import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kneegrade.imaging import read_radiograph
from kneegrade.reporting import json_schema

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def graded(kneegrade, tmp_path_factory):
    output = tmp_path_factory.mktemp("out")
    done = kneegrade("grade", EXAMPLES, "--output", output)
    return done, output


def test_the_example_study(graded):
    done, output = graded
    assert done.returncode == 0, done.stderr
    report = json.loads((output / "report.json").read_text())
    truth = json.loads((EXAMPLES / "truth.json").read_text())
    by_name = {radiograph["source"]: radiograph for radiograph in report["radiographs"]}
    assert set(by_name) == {"bilateral.dcm", "single_right.dcm"}
    assert [knee["side"] for knee in by_name["bilateral.dcm"]["knees"]] == ["R", "L"]
    assert [knee["side"] for knee in by_name["single_right.dcm"]["knees"]] == ["R"]
    assert all(knee["joint_space_width_mm"] for knee in by_name["bilateral.dcm"]["knees"])
    assert by_name["single_right.dcm"]["knees"][0]["joint_space_width_mm"] is None
    for name, radiograph in by_name.items():
        for knee, true in zip(radiograph["knees"], truth[name]["knees"], strict=True):
            assert knee["side"] == true["side"]
            assert abs(knee["grades"]["kl"]["grade"] - true["grades"]["kl"]) <= 1
            offset = np.subtract(knee["landmarks_px"], true["landmarks_px"])[12:25]
            width = np.linalg.norm(np.subtract(true["landmarks_px"][63], true["landmarks_px"][47]))
            assert np.median(np.linalg.norm(offset, axis=1)) < 0.02 * width


def test_report_fits_its_published_schema(graded):
    jsonschema = pytest.importorskip("jsonschema")
    _, output = graded
    report = json.loads((output / "report.json").read_text())
    jsonschema.Draft202012Validator(json_schema()).validate(report)
    for radiograph in report["radiographs"]:
        for knee in radiograph["knees"]:
            for grade in knee["grades"].values():
                assert sum(grade["probabilities"]) == pytest.approx(1, abs=1e-4)
            assert len(knee["landmarks_px"]) == 74


def test_csv_html_and_terminal_table(graded):
    done, output = graded
    rows = list(csv.DictReader((output / "grades.csv").read_text("utf-8-sig").splitlines()))
    assert [(row["source"], row["side"]) for row in rows] == [
        ("bilateral.dcm", "R"), ("bilateral.dcm", "L"), ("single_right.dcm", "R"),
    ]  # fmt: skip
    assert "report.html" in done.stdout
    assert "not a medical device" in " ".join(done.stdout.lower().split())
    assert (output / "report.html").stat().st_size > 20_000


def test_formats_and_quiet(kneegrade, tmp_path):
    done = kneegrade("grade", EXAMPLES / "single_right.dcm", "-o", tmp_path, "--format", "csv", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["grades.csv"]


def test_bad_files_are_rows_and_the_run_goes_on(kneegrade, tmp_path):
    """20 good and 20 broken files: 40 rows, exit code 1."""
    folder = tmp_path / "in"
    folder.mkdir()
    film = (EXAMPLES / "single_right.dcm").read_bytes()
    for i in range(20):
        (folder / f"good{i:02}.dcm").write_bytes(film)
    generator = np.random.default_rng(0)
    broken = [b"", b"text", film[: len(film) // 2], film[:131], b"\x89PNG\r\n\x1a\n", generator.bytes(5000)]
    for i in range(20):
        (folder / f"bad{i:02}.dcm").write_bytes(broken[i % len(broken)])
    done = kneegrade("grade", folder, "-o", tmp_path / "out", "--quiet")
    assert done.returncode == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    status = [(r["source"][:3], r["status"]) for r in report["radiographs"]]
    assert sorted(set(status)) == [("bad", "failed"), ("goo", "graded")]
    assert len(status) == 40
    assert all(r["reason"]["message"] for r in report["radiographs"] if r["status"] == "failed")


def test_members_of_a_zip_are_listed_by_name(kneegrade, tmp_path):
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        archive.write(EXAMPLES / "single_right.dcm", "a/knee.dcm")
        archive.writestr("a/readme.txt", "nothing")
        archive.writestr("../evil.dcm", b"no film")
    done = kneegrade("grade", tmp_path / "study.zip", "-o", tmp_path / "out", "--format", "json", "--quiet")
    assert done.returncode == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {r["source"]: r["status"] for r in report["radiographs"]} == {"a/knee.dcm": "graded", "evil.dcm": "failed"}


def test_a_picture_without_a_knee_is_not_gradable(kneegrade, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (300, 300), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    done = kneegrade("grade", tmp_path / "noise.png", "-o", tmp_path / "out", "--format", "json", "--quiet")
    assert done.returncode == 1
    (radiograph,) = json.loads((tmp_path / "out" / "report.json").read_text())["radiographs"]
    assert radiograph["status"] == "not_gradable"
    assert radiograph["reason"]["code"]


def test_every_reason_for_exit_code_one_is_printed_with_its_count(kneegrade, tmp_path):
    """A film whose second knee is cut off is graded, but the exit code is 1; this is printed too."""
    films, truth = tmp_path / "in", json.loads((EXAMPLES / "truth.json").read_text())
    films.mkdir()
    pixels = np.rint(read_radiograph(EXAMPLES / "bilateral.dcm").pixels * 255).astype(np.uint8)
    cut = round(truth["bilateral.dcm"]["knees"][1]["landmarks_px"][14][0])
    Image.fromarray(pixels[:, :cut]).save(films / "half.png")
    done = kneegrade("grade", films, "-o", tmp_path / "half")
    (radiograph,) = json.loads((tmp_path / "half" / "report.json").read_text())["radiographs"]
    assert [knee["status"] for knee in radiograph["knees"]] == ["graded", "not_gradable"]
    assert done.returncode == 1
    code = radiograph["knees"][1]["reason"]["code"].replace("_", " ")
    line = f"1 knee was not graded on a film whose other knee was graded: 1 {code}."
    assert line in done.stdout.splitlines()
    (films / "bad.dcm").write_bytes(b"no film")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300), dtype=np.uint8)).save(films / "noise.png")
    done = kneegrade("grade", films, "-o", tmp_path / "all")
    assert done.returncode == 1
    noise = json.loads((tmp_path / "all" / "report.json").read_text())["radiographs"][2]
    printed = [text for text in done.stdout.splitlines() if text.startswith("1 ")]
    assert printed == [
        "1 of 3 files could not be read: 1 format.",
        f"1 of 3 films has no gradable knee: 1 {noise['reason']['code'].replace('_', ' ')}.",
        line,
    ]


def test_info_names_versions_and_weights(kneegrade):
    done = kneegrade("info", "--json")
    facts = json.loads(done.stdout)
    assert len(facts["weights"]["grader"]["sha256"]) == 64
    assert facts["torch"].startswith("2.")


def test_phantoms_as_an_array_with_a_second_reader(kneegrade, tmp_path):
    done = kneegrade("phantom", "--rois", "-n", 3, "--readers", "--implants", 0.5, "--seed", 4, "-o", tmp_path / "p")
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(tmp_path / "p" / "truth.parquet")
    assert np.load(tmp_path / "p" / "rois.npy").shape == (3, 320, 320)
    assert {"kl", "kl_reader2", "implant", "joint_space_medial_mm"} <= set(table.columns)
    assert list(table["roi_index"]) == [0, 1, 2]

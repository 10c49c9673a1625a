"""`kneegrade quality-control`: fit quality control on normal films and on phantoms with implants."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kneegrade import Grader
from kneegrade.phantom.phantom_cohort import ROI_FILE, TABLE_FILE
from kneegrade.weights import read_description

pytestmark = pytest.mark.slow  # detects and reads about 600 knees
COMMAND = "quality-control"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("quality_control")


@pytest.fixture(scope="module")
def manifest(kneegrade, folder):
    """220 single phantoms without implants as PNG files."""
    done = kneegrade(
        "phantom", "--rois", "--number", "220", "--prevalence", "paper", "--seed", "5", "-o", folder / "normal"
    )
    assert done.returncode == 0, done.stderr
    rows = []
    for index, roi in enumerate(np.load(folder / "normal" / ROI_FILE)):
        path = folder / f"{index}.png"
        Image.fromarray(roi).save(path)
        rows.append({"image_path": str(path), "knee_id": str(index), "subject_id": f"p{index}", "side": "R",
                     "split": "train" if index % 2 else "val", "source": "phantom"})  # fmt: skip
    pd.DataFrame(rows).to_parquet(folder / "m.parquet")
    return folder / "m.parquet"


def test_implants_are_refused_and_normal_knees_hardly_ever(kneegrade, folder, manifest):
    phantoms = folder / "implants"
    options = ("phantom", "--rois", "--implants", "0.5", "--number", "260", "--prevalence", "paper", "--seed", "6")
    assert kneegrade(*options, "-o", phantoms).returncode == 0
    done = kneegrade(COMMAND, "--manifest", manifest, "--phantoms", phantoms, "-o", folder / "out", "--share", "1")
    assert done.returncode == 0, done.stderr
    description = read_description(folder / "out" / "weights.safetensors")["gate"]
    assert (description["division"], description["share"], description["seed"]) == ("sha256", 1.0, 0)
    assert description["implant_auc"] > 0.95
    assert description["plain_taken_for_implants"] < 0.1
    grader = Grader("cpu", folder / "out" / "weights.safetensors")
    table = pd.read_parquet(phantoms / TABLE_FILE)
    total = np.flatnonzero((table["implant"] == "total_knee").fillna(False))[:10]
    rois = np.load(phantoms / ROI_FILE)
    reasons = [knee.reason for row in total for knee in grader.grade(rois[row]).radiographs[0].knees]
    assert sum(reason is not None and reason.code == "implant" for reason in reasons) >= 0.8 * len(reasons) > 0
    normal = [knee.grades for row in range(10) for knee in grader.grade(folder / f"{row}.png").radiographs[0].knees]
    assert sum(grades is not None for grades in normal) >= 8


def test_too_few_films_are_a_usage_error(kneegrade_here, folder, manifest):
    few = pd.read_parquet(manifest).head(20)
    few.to_parquet(folder / "few.parquet")
    kneegrade_here("phantom", "--rois", "--number", "4", "-o", folder / "plain")
    done = kneegrade_here(
        COMMAND, "--manifest", folder / "few.parquet", "--phantoms", folder / "plain", "-o", folder / "none"
    )
    assert done.returncode == 2
    assert "Quality control needs at least 100 films of each kind; found 10 normal films" in done.stderr
    assert not (folder / "none" / "weights.safetensors").exists()

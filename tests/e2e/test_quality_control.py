"""`kneegrade gate`: from sound films and phantoms with metal to weights that refuse metal."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kneegrade import Grader
from kneegrade.phantom.phantom_cohort import ROI_FILE, TABLE_FILE
from kneegrade.weights import read_description

pytestmark = pytest.mark.slow  # some 600 knees are found and read


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gate")


@pytest.fixture(scope="module")
def manifest(kneegrade, folder):
    """220 single phantoms without metal as PNG files."""
    done = kneegrade(
        "phantom", "--rois", "--number", "220", "--prevalence", "paper", "--seed", "5", "-o", folder / "sound"
    )
    assert done.returncode == 0, done.stderr
    rows = []
    for index, roi in enumerate(np.load(folder / "sound" / ROI_FILE)):
        path = folder / f"{index}.png"
        Image.fromarray(roi).save(path)
        rows.append({"image_path": str(path), "knee_id": str(index), "subject_id": f"p{index}", "side": "R",
                     "split": "train" if index % 2 else "val", "source": "phantom"})  # fmt: skip
    pd.DataFrame(rows).to_parquet(folder / "m.parquet")
    return folder / "m.parquet"


def test_a_gate_refuses_metal_and_hardly_anything_else(kneegrade, folder, manifest):
    metal = folder / "metal"
    made = ("phantom", "--rois", "--implants", "0.5", "--number", "260", "--prevalence", "paper", "--seed", "6")
    assert kneegrade(*made, "-o", metal).returncode == 0
    done = kneegrade("gate", "--manifest", manifest, "--phantoms", metal, "-o", folder / "out", "--share", "1")
    assert done.returncode == 0, done.stderr
    said = read_description(folder / "out" / "weights.safetensors")["gate"]
    assert (said["division"], said["share"], said["seed"]) == ("sha256", 1.0, 0)
    assert said["implant_auc"] > 0.95
    assert said["plain_taken_for_implants"] < 0.1
    grader = Grader("cpu", folder / "out" / "weights.safetensors")
    table = pd.read_parquet(metal / TABLE_FILE)
    total = np.flatnonzero((table["implant"] == "total_knee").fillna(False))[:10]
    rois = np.load(metal / ROI_FILE)
    reasons = [knee.reason for row in total for knee in grader.grade(rois[row]).radiographs[0].knees]
    assert sum(reason is not None and reason.code == "implant" for reason in reasons) >= 0.8 * len(reasons) > 0
    sound = [knee.grades for row in range(10) for knee in grader.grade(folder / f"{row}.png").radiographs[0].knees]
    assert sum(grades is not None for grades in sound) >= 8


def test_too_few_films_are_a_sentence(kneegrade, folder, manifest):
    few = pd.read_parquet(manifest).head(20)
    few.to_parquet(folder / "few.parquet")
    kneegrade("phantom", "--rois", "--number", "4", "-o", folder / "plain")
    done = kneegrade(
        "gate", "--manifest", folder / "few.parquet", "--phantoms", folder / "plain", "-o", folder / "none"
    )
    assert done.returncode == 2
    assert "A gate needs 100 of each kind" in done.stderr
    assert not (folder / "none" / "weights.safetensors").exists()

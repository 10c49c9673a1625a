"""`kneegrade audit` on a table, on a manifest with films, and with predictions."""

import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from kneegrade.auditing import audit_labels, falls, odd_widths
from kneegrade.coherence import one_hot
from kneegrade.cohorts import load_labels
from kneegrade.errors import CohortError
from kneegrade.evaluation import Predictions
from kneegrade.phantom import Cohort, write_cohort
from kneegrade.schema import TARGET_NAMES

HEADER = "knee_id,subject_id,side,visit," + ",".join(TARGET_NAMES)
ROWS = (
    "a,P1,R,0,2,0,1,0,1,0,1",
    "b,P1,R,12,1,0,1,0,1,0,1",
    "c,P2,L,0,4,0,0,2,3,1,3",
    "d,P3,L,0,0,0,0,0,0,0,0",
    "e,P4,R,0,1,0,.A,,,,",
)


def kneegrade(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "kneegrade.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def labels(tmp_path):
    (tmp_path / "labels.csv").write_text("\n".join([HEADER, *ROWS]))
    return tmp_path / "labels.csv"


def test_a_table_of_labels(labels, tmp_path):
    done = kneegrade("audit", labels, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "1  kl4_needs_jsn3" in done.stdout
    assert "5 knees, 1 break a hard rule" in done.stdout
    table = pd.read_csv(tmp_path / "out" / "audit.csv")
    assert table["knee_id"][0] == "c"
    assert table["suspect"][0] == "jsn_medial"
    assert table["expected"][0] == 3
    assert (table["score"].diff().dropna() <= 0).all()
    page = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    assert "KL 4 without joint space narrowing grade 3" in page
    assert "falls from 2 to 1" in page
    assert "<script" not in page


def test_falls_over_visits(labels):
    found = falls(load_labels(labels))
    assert [(row, finding.message) for row, finding in found] == [(1, "kl falls from 2 to 1")]


def test_narrowing_against_measured_widths(labels):
    read = load_labels(labels).assign(joint_space_medial_mm=[3.9, 4.2, 4.8, 1.0, np.nan])
    found = odd_widths(read)
    assert [row for row, _ in found] == [3]
    assert "jsn_medial 0 with 1.0 mm; such knees have 4.9 ± 0.9 mm" in found[0][1].message


def test_confident_predictions_join_the_score(labels):
    read = load_labels(labels)
    truth = read[list(TARGET_NAMES)].astype("Int64").fillna(0).to_numpy(dtype=int)
    said = truth.copy()
    said[3, 0] = 4
    shares = 0.94 * one_hot(said) + 0.01
    for start, stop in ((0, 5), (5, 9), (9, 13), (13, 17), (17, 21), (21, 25), (25, 29)):
        shares[:, start:stop] /= shares[:, start:stop].sum(1, keepdims=True)
    predictions = Predictions(
        shares.astype(np.float32), one_hot(truth).astype(np.float32), np.array(list("abcde")), np.arange(5)
    )
    table = audit_labels(read, predictions).set_index("knee_id")
    assert table.loc["d", "disagreement_grade"] == "kl"
    assert table.loc["d", "predicted"] == 4
    assert table.loc["d", "score"] == table.loc["d", "disagreement_score"] > 3
    assert "confident_disagreement" in table.loc["d", "codes"]
    assert table["disagreement_grade"].notna().sum() == 1
    beyond = Predictions(
        shares[:1].astype(np.float32), one_hot(truth[:1]).astype(np.float32), np.array(["z"]), np.array([9])
    )
    with pytest.raises(CohortError, match="row 9; the labels have 5"):
        audit_labels(read, beyond)


def test_a_manifest_of_films_gets_pictures(tmp_path):
    manifest = write_cohort(tmp_path / "films", Cohort(2, seed=21))
    done = kneegrade("audit", manifest, "-o", tmp_path / "out", "--most", 2)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 2


def test_what_is_no_table_of_labels_is_said(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    done = kneegrade("audit", tmp_path / "x.csv", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "x.csv holds no grade" in done.stderr


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium")
def test_the_page_opens_without_complaint(labels, tmp_path):
    from playwright.sync_api import sync_playwright

    assert kneegrade("audit", labels, "-o", tmp_path / "out", "--quiet").returncode == 0
    told = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.goto((tmp_path / "out" / "audit.html").as_uri())
        assert page.locator("article").count() == 5
        assert page.locator(".suspect").count() >= 1
        browser.close()
    assert told == []

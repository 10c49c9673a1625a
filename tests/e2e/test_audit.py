"""`kneegrade audit` on a table, on a manifest with films, and with predictions."""

import shutil

import numpy as np
import pandas as pd
import pytest

from kneegrade.coherence import one_hot
from kneegrade.cohorts import load_labels
from kneegrade.errors import CohortError
from kneegrade.evaluation import Predictions
from kneegrade.phantom import Cohort, write_cohort
from kneegrade.schema import TARGET_NAMES
from kneegrade.training.audit import audit_labels, falls, odd_widths

HEADER = "knee_id,subject_id,side,visit," + ",".join(TARGET_NAMES)
ROWS = (
    "a,P1,R,0,2,0,1,0,1,0,1",
    "b,P1,R,12,1,0,1,0,1,0,1",
    "c,P2,L,0,4,0,0,2,3,1,3",
    "d,P3,L,0,0,0,0,0,0,0,0",
    "e,P4,R,0,1,0,.A,,,,",
)


@pytest.fixture
def labels(tmp_path):
    (tmp_path / "labels.csv").write_text("\n".join([HEADER, *ROWS]))
    return tmp_path / "labels.csv"


def test_a_table_of_labels(kneegrade, labels, tmp_path):
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
    assert "kl falls from 2 at 0 to 1 at 12 months" in page
    assert "<script" not in page


def test_falls_over_visits(labels):
    found = falls(load_labels(labels))
    assert [(row, finding.message) for row, finding in found] == [(1, "kl falls from 2 at 0 to 1 at 12 months")]


def test_narrowing_against_measured_widths(labels):
    read = load_labels(labels).assign(joint_space_medial_mm=[3.9, 4.2, 4.8, 1.0, np.nan])
    found = odd_widths(read)
    assert [row for row, _ in found] == [3]
    assert "jsn_medial 0 with 1.0 mm, such knees have 4.9 ± 0.9 mm" in found[0][1].message


def test_confident_predictions_join_the_score(labels):
    read = load_labels(labels)
    truth = read[list(TARGET_NAMES)].astype("Int64").fillna(0).to_numpy(dtype=int)
    said = truth.copy()
    said[3, 0] = 4
    shares = 0.94 * one_hot(said) + 0.01
    for start, stop in ((0, 5), (5, 9), (9, 13), (13, 17), (17, 21), (21, 25), (25, 29)):
        shares[:, start:stop] /= shares[:, start:stop].sum(1, keepdims=True)
    predictions = Predictions(
        shares.astype(np.float32),
        one_hot(truth).astype(np.float32),
        read["subject_id"].to_numpy(dtype=str),
        np.arange(5),
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
    with pytest.raises(CohortError, match="other knees than these labels"):
        audit_labels(read, beyond)


def test_a_measured_width_reaches_the_page(kneegrade, tmp_path):
    lines = [HEADER + ",joint_space_medial_mm", "w,P9,R,0,0,0,0,0,0,0,0,0.9", "x,P8,R,0,0,0,0,0,0,0,0,9.9"]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    done = kneegrade("audit", tmp_path / "labels.csv", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    assert "narrowing_against_width" in page
    assert page.count("<article>") == 1


def test_wrong_cells_of_a_table_are_named(kneegrade, tmp_path):
    (tmp_path / "labels.csv").write_text("\n".join([HEADER, "a,P1,R,12m,1,0,0,0,0,0,0"]))
    done = kneegrade("audit", tmp_path / "labels.csv", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "row 2, column VISIT: '12m'; expected a number" in done.stderr


def test_formulas_do_not_reach_a_spreadsheet(kneegrade, tmp_path):
    (tmp_path / "labels.csv").write_text("\n".join([HEADER, "=1+1,P1,R,0,4,0,0,0,0,0,0"]))
    assert kneegrade("audit", tmp_path / "labels.csv", "-o", tmp_path / "out", "--quiet").returncode == 0
    assert "'=1+1" in (tmp_path / "out" / "audit.csv").read_text(encoding="utf-8")


def test_predictions_of_one_split_meet_their_knees(kneegrade, tmp_path):
    """evaluate → audit: predictions for the test split are laid beside the right rows of the whole manifest."""
    path = write_cohort(tmp_path / "films", Cohort(4, seed=12))
    table = pd.read_parquet(path)
    people = sorted(table["subject_id"].unique())
    table["split"] = np.where(table["subject_id"].isin(people[1:]), "test", "train")
    table.to_parquet(path)
    assert kneegrade("evaluate", "--manifest", path, "-o", tmp_path / "e", "--quiet").returncode == 0
    wrong = kneegrade("audit", path, "--predictions", tmp_path / "e", "-o", tmp_path / "a", "--most", 0)
    assert wrong.returncode == 2
    assert "other knees than these labels" in wrong.stderr
    done = kneegrade(
        "audit", path, "--predictions", tmp_path / "e", "--split", "test", "-o", tmp_path / "a", "--most", 0
    )
    assert done.returncode == 0, done.stderr


def test_a_manifest_of_films_gets_pictures(kneegrade, tmp_path):
    manifest = write_cohort(tmp_path / "films", Cohort(2, seed=21))
    done = kneegrade("audit", manifest, "-o", tmp_path / "out", "--most", 2)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 2


def test_what_is_no_table_of_labels_is_said(kneegrade, tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    done = kneegrade("audit", tmp_path / "x.csv", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "x.csv holds no grade" in done.stderr


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium")
def test_the_page_opens_without_complaint(kneegrade, labels, tmp_path):
    from playwright.sync_api import sync_playwright

    assert kneegrade("audit", labels, "-o", tmp_path / "out", "--quiet").returncode == 0
    told = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.goto((tmp_path / "out" / "audit.html").as_uri())
        assert 2 <= page.locator("article").count() <= 4
        assert page.locator(".suspect").count() >= 1
        browser.close()
    assert told == []

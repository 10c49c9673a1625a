"""`kneegrade audit` on a table, on a manifest with films, and with predictions."""

import shutil

import pandas as pd
import pytest

from kneegrade.phantom import Cohort, write_cohort
from kneegrade.schema import TARGET_NAMES

HEADER = "knee_id,subject_id,side,visit," + ",".join(TARGET_NAMES)


def test_a_table_of_labels(kneegrade, label_file, tmp_path):
    done = kneegrade("audit", label_file, "-o", tmp_path / "out")
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
    assert "Kellgren–Lawrence decreases from 2 at 0 months to 1 at 12 months." in page
    assert "<script" not in page


def test_a_measured_width_is_on_the_page(kneegrade_here, tmp_path):
    lines = [HEADER + ",joint_space_medial_mm", "w,P9,R,0,0,0,0,0,0,0,0,0.9", "x,P8,R,0,0,0,0,0,0,0,0,9.9"]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    done = kneegrade_here("audit", tmp_path / "labels.csv", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    assert "narrowing_against_width" in page
    assert page.count("<article>") == 1


def test_a_wrong_cell_is_named(kneegrade_here, tmp_path):
    (tmp_path / "labels.csv").write_text("\n".join([HEADER, "a,P1,R,12m,1,0,0,0,0,0,0"]))
    done = kneegrade_here("audit", tmp_path / "labels.csv", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "row 2, column VISIT: '12m'; expected a number" in done.stderr


def test_formulas_do_not_reach_a_spreadsheet(kneegrade_here, tmp_path):
    (tmp_path / "labels.csv").write_text("\n".join([HEADER, "=1+1,P1,R,0,4,0,0,0,0,0,0"]))
    assert kneegrade_here("audit", tmp_path / "labels.csv", "-o", tmp_path / "out", "--quiet").returncode == 0
    assert "'=1+1" in (tmp_path / "out" / "audit.csv").read_text(encoding="utf-8")


def test_predictions_of_one_split_are_matched_with_the_whole_manifest(
    kneegrade_here, evaluation, labelled_films, tmp_path
):
    arguments = ("audit", labelled_films, "--predictions", evaluation[0], "-o", tmp_path / "a", "--most", 0)
    wrong = kneegrade_here(*arguments)
    assert wrong.returncode == 2
    assert "other knees than these labels" in wrong.stderr
    done = kneegrade_here(*arguments, "--split", "test")
    assert done.returncode == 0, done.stderr


def test_a_manifest_of_films_gets_pictures(kneegrade_here, tmp_path):
    manifest = write_cohort(tmp_path / "films", Cohort(2, seed=21, longest_px=900))
    done = kneegrade_here("audit", manifest, "-o", tmp_path / "out", "--most", 2)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 2


def test_a_table_without_grades_is_refused(kneegrade_here, tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    done = kneegrade_here("audit", tmp_path / "x.csv", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "x.csv contains no grade" in done.stderr


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium")
def test_the_page_opens_without_errors(kneegrade_here, label_file, tmp_path):
    pytest.importorskip("playwright", reason="playwright is missing; pip install 'kneegrade[dev]'")
    from playwright.sync_api import sync_playwright

    assert kneegrade_here("audit", label_file, "-o", tmp_path / "out", "--quiet").returncode == 0
    messages = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto((tmp_path / "out" / "audit.html").as_uri())
        assert page.locator("article").count() == 4
        assert page.locator(".suspect").count() == 4
        browser.close()
    assert messages == []

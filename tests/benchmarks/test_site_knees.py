"""Rows per knee: the same as those of a report, and stored."""

from pathlib import Path

import numpy as np
import pytest

from kneegrade import Grader
from kneegrade.imaging import Source
from kneegrade.schema import TARGET_NAMES

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def grader() -> Grader:
    return Grader(device="cpu")


@pytest.fixture
def images():
    from site_knees import SiteImage

    files = sorted(EXAMPLES.glob("*.dcm"))[:2]
    return [SiteImage(file.name, Source(file.name, file), {"kl": 1, "group": file.name}) for file in files]


def test_rows_are_the_knees_of_the_report_and_are_read_back(grader, images, tmp_path):
    from site_knees import site_knees

    cache = tmp_path / "weights" / "site.jsonl"
    rows = site_knees(grader, images, cache)
    report = grader.grade_sources(image.source for image in images)
    knees = [knee for radiograph in report.radiographs for knee in radiograph.knees]
    assert rows["side"].tolist() == [knee.side for knee in knees]
    for row, knee in zip(rows.itertuples(), knees, strict=True):
        assert row.refused == (knee.reason.code if knee.reason else "")
        assert row.abstain == knee.abstain
        if knee.grades:
            assert row.grades == [knee.grades[name].grade for name in TARGET_NAMES]
            assert np.isfinite(row.logits).all()
    again = site_knees(None, images, cache)  # nothing is left for a grader
    assert again["grades"].tolist() == rows["grades"].tolist()


def test_a_line_that_was_cut_off_is_graded_again(grader, images, tmp_path):
    from site_knees import read_lines, site_knees

    cache = tmp_path / "site.jsonl"
    site_knees(grader, images, cache)
    text = cache.read_text()
    cache.write_text(text[:-20])
    assert len(read_lines(cache)) == len(images) - 1
    site_knees(grader, images, cache)
    assert len(read_lines(cache)) == len(images)


def test_quality_control_is_in_place_again_afterwards(grader, images, tmp_path):
    from site_knees import site_knees

    before = grader.quality_control
    site_knees(grader, images, tmp_path / "site.jsonl")
    assert grader.quality_control is before
    assert not grader.network._forward_hooks

import base64
import re
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from kneegrade.reporting import write_html
from kneegrade.reporting.html_report import shares_of
from kneegrade.reporting.pages import picture_of
from kneegrade.reporting.report_labels import LANDMARK_CONFIDENCE
from kneegrade.results import GradedRadiograph
from kneegrade.schema import TARGETS


def page_of(report, tmp_path):
    write_html(report, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_page_names_nothing_outside_itself(report, tmp_path):
    page = page_of(report, tmp_path)
    assert not re.search(r"https?://|@import|url\(|<link|<iframe", page)
    assert "default-src &#39;none&#39;" in page
    assert "unsafe" not in page
    assert page.count("Research use, not a medical device") >= 3  # header, footer, each printed sheet
    assert "any text burned into a film" in page


def test_text_is_escaped(report, tmp_path):
    knee = report.radiographs[0].knees[0]
    attack = "</script><script>alert(1)</script>\u202e"
    findings = (replace(knee.coherence.findings[0], message=attack),)
    film = GradedRadiograph(attack, (replace(knee, coherence=replace(knee.coherence, findings=findings)),))
    page = page_of(replace(report, radiographs=(film,)), tmp_path)
    assert "<script>alert" not in page
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in page
    assert "\u202e" not in page


def test_refused_films_and_knees_are_listed_with_their_reasons(report, tmp_path):
    page = page_of(report, tmp_path)
    for sentence in ("The knee holds a metal implant", "No knee was found", "The file is damaged"):
        assert sentence in page
    assert page.count('<article class="knee"') == 5  # pair 2, half 2, plain 1; no panel for hip and the broken file


def test_empty_run_makes_a_page(report, tmp_path):
    assert "0 graded of 0 radiographs" in page_of(replace(report, radiographs=()), tmp_path)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_shares_sum_to_the_centred_logit(report, target):
    evidence = report.radiographs[0].knees[0].evidence
    for grade in range(target.classes):
        shares = shares_of(evidence, target.name, grade)
        terms = shares["sum"]
        landmarks = evidence.contributions[target.name][:, grade].sum()
        region, constant = evidence.region_term[target.name][grade], evidence.constant[target.name][grade]
        assert terms["femur"] + terms["tibia"] == pytest.approx(landmarks, abs=1e-4)
        assert (terms["region"], terms["constant"]) == pytest.approx((region, constant), abs=1e-4)
        assert terms["logit"] == pytest.approx(landmarks + region + constant, abs=1e-4)
        drawn = sum(value for value in shares["values"] if value is not None)
        assert drawn + terms["outside"] == pytest.approx(terms["femur"] + terms["tibia"], abs=1e-2)


def test_the_page_says_what_is_exact(report, tmp_path):
    page = page_of(report, tmp_path)
    assert "less the mean over the grades, before calibration and decoding" in page
    for term in ("Femur, all points", "Tibia, all points", "Whole region", "Constant", "Logit, class-centred"):
        assert page.count(f'<th scope="row">{term}</th>') == 3  # of every knee with evidence
    assert "remainder" not in page


def test_the_page_says_whose_coherence_and_how_far_grades_were_moved(report, tmp_path):
    knee = report.radiographs[0].knees[0]
    coherence = replace(knee.coherence, log_probability=-2.25)
    film = GradedRadiograph("a.dcm", (replace(knee, coherence=coherence),))
    page = " ".join(page_of(replace(report, radiographs=(film,)), tmp_path).split())
    assert '<dd>−2.2</dd><dd class="aside">log-probability of the network’s own probabilities' in page
    assert '<dd>3 steps</dd><dd class="aside">from the network’s own most probable grades' in page


def test_the_page_says_what_the_landmark_confidence_is(report, tmp_path):
    page = " ".join(page_of(report, tmp_path).split())
    said = '<dt>Landmark confidence</dt><dd>0.81</dd><dd class="aside">' + LANDMARK_CONFIDENCE + "</dd>"
    assert page.count(said) == 3
    assert "times the probability that this is a knee seen from the front" in LANDMARK_CONFIDENCE


def test_points_a_head_does_not_read_are_told_from_zero(report):
    evidence = report.radiographs[0].knees[0].evidence
    drawn = [point.index for point in picture_of(evidence).points]
    values = shares_of(evidence, "osteophyte_tibia_medial", 2)["values"]
    assert [i for i, value in zip(drawn, values, strict=True) if value is not None] == [i for i in drawn if i >= 55]


def test_picture_is_small_true_and_skips_what_was_not_read(report):
    evidence = report.radiographs[0].knees[0].evidence
    ramp = np.tile(np.linspace(20, 230, 320).astype(np.uint8), (320, 1))
    picture = picture_of(replace(evidence, roi=ramp))
    image = Image.open(BytesIO(base64.b64decode(picture.uri.split(",")[1])))
    assert image.size == (320, 320)
    assert np.abs(np.asarray(image, dtype=float) - ramp).max() <= 4
    assert len(picture.points) + picture.unread == 74
    assert len(picture.points) == evidence.landmark_visible.sum()
    assert picture.outlines[0].startswith("M")
    assert "nan" not in picture.outlines[0]


def test_noise_still_fits_the_budget(report, rng):
    evidence = report.radiographs[0].knees[0].evidence
    uri = picture_of(replace(evidence, roi=rng.integers(0, 256, (224, 224), dtype=np.uint8))).uri
    assert len(base64.b64decode(uri.split(",")[1])) <= 25_000

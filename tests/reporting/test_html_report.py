import re
from dataclasses import replace

import pytest

from kneegrade.reporting import write_html
from kneegrade.reporting.html_pages import picture_of
from kneegrade.reporting.html_report import KNEES_PER_PAGE
from kneegrade.reporting.report_labels import LANDMARK_CONFIDENCE
from kneegrade.reporting.report_views import contributions_to
from kneegrade.results import GradedRadiograph, SiteReader
from kneegrade.schema import TARGETS


def page_of(report, tmp_path):
    write_html(report, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_page_refers_to_nothing_outside_itself(report, tmp_path):
    page = page_of(report, tmp_path)
    assert not re.search(r"https?://|@import|url\(|<link|<iframe", page)
    assert "default-src &#39;none&#39;" in page
    assert "unsafe" not in page
    assert page.count("Research use, not a medical device") >= 3  # header, footer, each printed page
    assert "any burned-in text" in page


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
    for sentence in ("The knee contains a metal implant", "No knee was found", "The file is damaged"):
        assert sentence in page
    assert page.count('<article class="knee"') == 5  # pair 2, half 2, plain 1; no panel for hip and the broken file


def test_the_table_marks_knees_that_a_reader_should_decide(report, tmp_path):
    film = report.radiographs[0]
    sure, unsure = film.knees
    kl = replace(unsure.grades["kl"], prediction_set=(0, 1, 2))
    unsure = replace(unsure, grades={**unsure.grades, "kl": kl})
    page = page_of(replace(report, radiographs=(replace(film, knees=(sure, unsure)),)), tmp_path)
    assert not sure.abstain
    assert page.partition("<article")[0].count("A reader should decide") == 1


def test_empty_run_makes_a_page(report, tmp_path):
    assert "0 graded of 0 radiographs" in page_of(replace(report, radiographs=()), tmp_path)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_contributions_sum_to_the_centred_logit(report, target):
    evidence = report.radiographs[0].knees[0].evidence
    for grade in range(target.classes):
        contributions = contributions_to(evidence, target.name, grade)
        terms = contributions["sum"]
        landmarks = evidence.contributions[target.name][:, grade].sum()
        region, constant = evidence.region_term[target.name][grade], evidence.constant[target.name][grade]
        assert terms["femur"] + terms["tibia"] == pytest.approx(landmarks, abs=1e-4)
        assert (terms["region"], terms["constant"]) == pytest.approx((region, constant), abs=1e-4)
        assert terms["logit"] == pytest.approx(landmarks + region + constant, abs=1e-4)
        drawn = sum(value for value in contributions["values"] if value is not None)
        assert drawn + terms["outside"] == pytest.approx(terms["femur"] + terms["tibia"], abs=1e-2)


def test_page_states_which_sum_is_exact(report, tmp_path):
    page = page_of(report, tmp_path)
    assert "minus the mean of its logits over all classes, before calibration and joint decoding" in page
    for term in ("Femur, all points", "Tibia, all points", "Whole crop", "Constant", "Logit, class-centred"):
        assert page.count(f'<th scope="row">{term}</th>') == 3  # of every knee with evidence
    assert "remainder" not in page


def test_page_states_coherence_and_the_shift_of_the_grades(report, tmp_path):
    knee = report.radiographs[0].knees[0]
    coherence = replace(knee.coherence, log_probability=-2.25)
    film = GradedRadiograph("a.dcm", (replace(knee, coherence=coherence),))
    page = " ".join(page_of(replace(report, radiographs=(film,)), tmp_path).split())
    assert '<dd>−2.2</dd><dd class="aside">log density of the network’s own probabilities' in page
    assert '<dd>3 steps</dd><dd class="aside">from the network’s own most probable grades' in page


def test_page_explains_the_landmark_confidence(report, tmp_path):
    page = " ".join(page_of(report, tmp_path).split())
    fact = '<dt>Landmark confidence</dt><dd>0.81</dd><dd class="aside">' + LANDMARK_CONFIDENCE + "</dd>"
    assert page.count(fact) == 3
    assert "times the probability that this is a frontal view of a knee" in LANDMARK_CONFIDENCE


def test_points_that_a_head_does_not_read_are_none_rather_than_zero(report):
    evidence = report.radiographs[0].knees[0].evidence
    drawn = [point.index for point in picture_of(evidence).points]
    values = contributions_to(evidence, "osteophyte_tibia_medial", 2)["values"]
    assert [i for i, value in zip(drawn, values, strict=True) if value is not None] == [i for i in drawn if i >= 55]


@pytest.mark.parametrize(("family", "reader"), [("thresholds", True), ("bias", False)])
def test_only_the_scale_of_a_reader_names_a_reader(report, tmp_path, family, reader):
    knee = report.radiographs[0].knees[0]
    grades = {**knee.grades, "kl": replace(knee.grades["kl"], study=knee.grades["kl"])}
    film = replace(report.radiographs[0], knees=(replace(knee, grades=grades),))
    text = page_of(replace(report, radiographs=(film,), site=SiteReader("North", 60, {"kl": family})), tmp_path)
    for named in ("as read at North", "the reader of North", "study’s scale: "):
        assert (named in text) == reader
    for corrected in ("orrected for the prevalences at North", "60 knees without labels", "uncorrected: "):
        assert (corrected in text) != reader


def linked(page, links):
    """The page and the id that each link names."""
    return [((page.parent / file).resolve() if file else page, anchor) for file, anchor in links]


def test_a_report_of_many_knees_is_divided_into_pages_whose_links_lead_to_the_knees(report, tmp_path):
    pair = report.radiographs[0]
    films = [replace(pair, source=f"film{number}.dcm") for number in range(2 * KNEES_PER_PAGE // 2 + 1)]
    write_html(replace(report, radiographs=(*films, *report.radiographs[3:])), tmp_path / "report.html")
    pages = sorted((tmp_path / "report-pages").iterdir())
    assert [page.name for page in pages] == ["page-1.html", "page-2.html", "page-3.html"]
    text = {page: page.read_text(encoding="utf-8") for page in [tmp_path / "report.html", *pages]}
    assert [page.count('<article class="knee"') for page in text.values()] == [0, KNEES_PER_PAGE, KNEES_PER_PAGE, 2]
    links = {page: linked(page, re.findall(r'href="([^"#]*)#?([^"]*)"', content)) for page, content in text.items()}
    knees = [target for target in links[tmp_path / "report.html"] if target[1] != "summary"]
    assert len(knees) == len(set(knees)) == 2 * len(films)
    assert all(not anchor or f'id="{anchor}"' in text[file] for targets in links.values() for file, anchor in targets)
    write_html(report, tmp_path / "report.html")
    assert list((tmp_path / "report-pages").iterdir()) == []
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count('<article class="knee"') == 5

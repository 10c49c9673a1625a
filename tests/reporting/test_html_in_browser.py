"""The page in a real browser."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from kneegrade.reporting import write_html

CHROMIUM = shutil.which("chromium")
NEUTRAL_TOLERANCE = 6


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        message = "no chromium on the path; apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, report, tmp_path) -> Iterator[Page]:
    """The report in a window; the test fails if the page raised an error or requested another file."""
    film = report.radiographs[0]
    long = replace(report, radiographs=(*report.radiographs, film, film))  # its last knees are far below the window
    write_html(long, tmp_path / "report.html")
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    errors: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: (errors.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((tmp_path / "report.html").as_uri())
    yield page
    context.close()
    assert errors == []
    assert [url for url in requests if not url.startswith("data:")] == [(tmp_path / "report.html").as_uri()]


def fills(page: Page, knee: str = "#k1-1") -> dict[str, str]:
    """Colour of each point by landmark index."""
    return page.locator(f"{knee} circle").evaluate_all(
        "circles => Object.fromEntries(circles.map(circle => [circle.dataset.i, getComputedStyle(circle).fill]))"
    )


def overflow(page: Page) -> int:
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def test_pictures_are_shown(page):
    assert page.locator("#k1-1 img").evaluate("image => image.naturalWidth") == 96
    assert page.locator("#k1-1 .outlines path").count() == 2


def test_selector_recolours_the_points_and_marks_the_row(page):
    before = fills(page)
    page.locator("#k1-1-osteophyte_femur_medial").check()
    after = fills(page)
    assert before != after
    assert {fill for i, fill in after.items() if int(i) >= 37} == {"none"}  # the tibia is not read for the femur
    assert page.locator("#k1-1 tr.is-shown").get_attribute("data-target") == "osteophyte_femur_medial"
    assert "Osteophyte, femur medial" in page.locator("#k1-1 .chosen").inner_text()
    assert fills(page, "#k1-2") != after


def test_colour_follows_the_sign(page, report):
    knee = report.radiographs[0].knees[0]
    share = knee.evidence.contributions["kl"][:, knee.grades["kl"].grade]
    for index, fill in fills(page).items():
        red, _, blue = (int(part) for part in fill.removeprefix("rgb(").removesuffix(")").split(","))
        if abs(red - blue) > NEUTRAL_TOLERANCE:
            assert (red > blue) == (share[int(index)] > 0), index


def test_keyboard_reaches_the_selector(page):
    page.locator("#k1-1-kl").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#k1-1-jsn_lateral").is_checked()
    assert "lateral" in page.locator("#k1-1 .chosen").inner_text()


def test_row_labels_select_too(page):
    page.locator("#k1-1 tr[data-target=jsn_medial] label").click()
    assert page.locator("#k1-1-jsn_medial").is_checked()


def test_toggles_hide_outlines_and_points(page):
    for value in ("outlines", "points"):
        shown = page.locator(f"#k1-1 .{value}")
        assert shown.evaluate("group => getComputedStyle(group).display") == "inline"
        page.locator(f"#k1-1 .toggles input[value={value}]").uncheck()
        assert shown.evaluate("group => getComputedStyle(group).display") == "none"


def test_the_terms_shown_sum_to_the_centred_logit(page, report):
    knee = report.radiographs[0].knees[0]
    grade, evidence = knee.grades["kl"].grade, knee.evidence
    cells = page.locator("#k1-1 .terms td")
    shown = dict(zip(
        cells.evaluate_all("cells => cells.map(cell => cell.dataset.term)"),
        [float(text.replace("−", "-")) for text in cells.all_inner_texts()],
        strict=True,
    ))  # fmt: skip
    assert list(shown) == ["femur", "tibia", "region", "constant", "logit"]
    assert shown["region"] == pytest.approx(evidence.region_term["kl"][grade], abs=6e-4)
    logit = evidence.contributions["kl"][:, grade].sum() + shown["region"] + shown["constant"]
    assert shown["logit"] == pytest.approx(logit, abs=2e-3)
    assert shown["femur"] + shown["tibia"] + shown["region"] + shown["constant"] == pytest.approx(logit, abs=2e-3)


@pytest.mark.parametrize("width", [320, 360, 768, 1920])
def test_page_never_scrolls_sideways(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert overflow(page) <= 0


def test_file_names_are_shown_as_text(page):
    assert page.get_by_text("=<script>alert(1)</script>.dcm").first.is_visible()


def test_printing_draws_every_knee(page):
    logits = page.locator(".view .terms td[data-term=logit]")
    assert "" in logits.all_text_contents()
    assert page.pdf(format="A4").startswith(b"%PDF")
    assert logits.count() == 7
    assert "" not in logits.all_text_contents()


def test_dark_scheme_has_a_dark_page(page):
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 17, 19)"

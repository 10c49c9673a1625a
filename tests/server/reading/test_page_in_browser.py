"""Every journey of a reader in a real browser, on folders made without a network."""

import csv
import json
from dataclasses import replace

import pytest

pytest.importorskip("fastapi", reason="FastAPI is missing; pip install 'kneegrade[serve]'")
pytest.importorskip("playwright", reason="playwright is missing; pip install 'kneegrade[dev]'")

from browser_pages import Readers, chromium, drawn, grade_of, number, saved, serving, until
from reading_folders import write_reading_folder

from kneegrade.server.reading.blind_study import open_study
from kneegrade.server.reading.folder_store import FolderStore
from kneegrade.server.reading.reading_desk import ReadingDesk
from kneegrade.server.reading.reading_routes import ReadingServices
from kneegrade.server.reading.review_log import ReviewLog, Stream


class NoEvidence:
    """Stands for the network, which takes seconds to load; `test_real_films` has the real one."""

    def of(self, pixels, outlines, sha256):
        return [{} for _ in outlines]


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def services(folder):
    return ReadingServices(ReadingDesk(FolderStore(folder)), NoEvidence(), folder)


@pytest.fixture
def in_order(services):
    """Opens a page with the films in the order of the folder."""

    def open_first(readers, reader="anna", **options):
        page = readers.open(reader, **options)
        page.select_option("#sort", "order")
        page.locator(".row").first.click()
        until(page, "kneegrade.film?.name === 'film-01.png'")
        return page

    return open_first


def picture(page) -> list[int]:
    """Mean brightness of the first canvas, and the number of grey levels in it."""
    return page.evaluate(
        """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
          const from = document.querySelector(".view canvas"), to = document.createElement("canvas");
          to.width = to.height = 200;
          const context = to.getContext("2d");
          context.drawImage(from, 0, 0, 200, 200);
          const { data } = context.getImageData(0, 0, 200, 200), seen = new Set();
          let sum = 0;
          for (let i = 0; i < data.length; i += 4) { sum += data[i]; seen.add(data[i]); }
          done([sum / 40000, seen.size]);
        })))"""
    )


@pytest.mark.parametrize("query", ["", "?canvas"], ids=["webgl", "canvas"])
def test_a_film_is_shown_windowed_inverted_and_zoomed(browser, services, query):
    with serving(browser, services) as readers:
        page = readers.open("anna", query)
        kind = page.evaluate("kneegrade.views[0].screen.constructor.name")
        assert kind == ("CanvasScreen" if query else "GlScreen")
        before, levels = picture(page)
        assert levels > 20
        box = page.locator(".view").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + 40
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x, y - 120, steps=4)  # up: brighter
        page.mouse.up()
        assert picture(page)[0] > before + 10
        page.keyboard.press("f")
        assert picture(page)[0] == pytest.approx(before, abs=1)
        page.keyboard.press("i")
        dark = picture(page)[0]
        page.keyboard.press("i")
        assert abs(dark - before) > 20
        scale = page.evaluate("kneegrade.views[0].view.k")
        page.mouse.move(x, y + 100)
        page.mouse.wheel(0, -300)
        page.keyboard.press("+")
        until(page, f"kneegrade.views[0].view.k > 1.5 * {scale}")
        page.keyboard.press("v")
        assert page.locator(".view").count() == 2
        assert page.locator(".caption").all_inner_texts() == ["Right knee", "Left knee"]


def test_grades_are_set_by_keyboard_saved_at_once_and_undone(browser, services, folder, in_order):
    with serving(browser, services) as readers:
        page = in_order(readers)
        rule = "KL 0 with an osteophyte of grade 2: 1 of 5,507 knees"
        page.get_by_text(rule).wait_for()
        page.keyboard.press("2")
        saved(page, 1)
        page.get_by_text(rule).wait_for(state="detached")
        page.keyboard.press("1")  # the cursor went on to medial narrowing
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowUp")
        page.keyboard.press("3")
        until(page, "document.querySelector('#saved').dataset.revision >= 2 && !kneegrade.film.isDirty")
        assert [grade_of(page, 0, "kl"), grade_of(page, 0, "jsn_medial"), grade_of(page, 1, "jsn_medial")] == [2, 1, 3]
        page.keyboard.press("u")
        until(page, "!kneegrade.film.isDirty")
        newest = ReviewLog(folder / "reviews.jsonl").newest(Stream(services.desk.store.worklist()[0].key))
        machine = services.desk.store.film(newest.stream.film).knees[1]["grades"]["jsn_medial"]["grade"]
        assert newest.reading["knees"][0]["grades"]["kl"] == 2
        assert newest.reading["knees"][1]["grades"]["jsn_medial"] == machine
        page.keyboard.press("x")
        page.keyboard.press("Escape")
        page.keyboard.press("Enter")
        page.get_by_text("Say why the knee is not gradable.").wait_for()
        page.keyboard.type("metal")  # the field of the reason has the focus
        page.keyboard.press("Tab")
        until(page, "!kneegrade.film.isDirty && kneegrade.film.reading.knees[1].reason === 'metal'")
        page.keyboard.press("Escape")
        page.keyboard.press("Enter")
        until(page, "kneegrade.film.name === 'film-02.png'")
        assert page.locator("#progress-text").inner_text() == "1 of 4 read"
        assert "read · anna" in page.locator(".row").first.inner_text()
        page.reload()
        page.wait_for_selector("body[data-opened]")
        row = page.locator(".row", has_text="film-01.png")
        assert "R knee, KL 2 L knee, KL –" in " ".join(row.inner_text().split())


def test_a_dragged_landmark_takes_the_outline_with_it_and_is_measured(browser, services, folder, in_order):
    with serving(browser, services) as readers:
        page = in_order(readers)
        page.keyboard.press("v")
        page.wait_for_selector(".space .lateral:not(:empty)")
        before = number(page.locator(".knee .lateral").first.inner_text())
        points = page.evaluate("kneegrade.film.points(0)")
        drawn(page)
        box = page.locator(".view").first.locator(".hit[data-knee='0'][data-i='50']").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        scale = page.evaluate("kneegrade.views[0].view.k")
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x, y + 3 * scale, steps=5)
        until(page, "kneegrade.film.reading.knees[0].landmarks_px !== null")
        page.mouse.up()
        until(page, f"parseFloat(document.querySelector('.knee .lateral').textContent) > {before + 0.5}")
        saved(page, 1)
        moved = page.evaluate("kneegrade.film.points(0)")
        shifts = [b[1] - a[1] for a, b in zip(points, moved, strict=True)]
        assert shifts[50] == pytest.approx(3, abs=0.3)
        assert 0.5 < shifts[51] < shifts[50]
        assert max(map(abs, shifts[:37])) == 0
        line = (folder / "reviews.jsonl").read_text().splitlines()[-1]
        assert json.loads(line)["reading"]["knees"][0]["landmarks_px"] == moved
        page.get_by_role("button", name="Reset landmarks").first.click()
        saved(page, 2)
        until(page, f"Math.abs(parseFloat(document.querySelector('.knee .lateral').textContent) - {before}) < 0.02")
        page.keyboard.press("m")
        page.keyboard.press("ArrowDown")
        until(page, "kneegrade.film.reading.knees[0].landmarks_px !== null && !kneegrade.film.isDirty")


def test_a_joint_space_of_no_width_has_no_error_of_zero(browser, services, in_order):
    with serving(browser, services) as readers:
        page = in_order(readers)
        page.evaluate(
            """async () => {
              const { film } = kneegrade, [x, y] = film.points(0)[50];
              await film.startMoving(0, 50);
              film.move(0, 50, [x, y - 20]);
              film.endMoving();
            }"""
        )
        page.locator(".knee .lateral").first.get_by_text("0 (outlines meet)").wait_for()


def test_two_readers_merge_and_decide(browser, services, in_order):
    with serving(browser, services, "anna", "ben") as readers:
        anna, ben = in_order(readers), in_order(readers, "ben")
        anna.keyboard.press("1")
        saved(anna, 1)
        ben.keyboard.press("ArrowDown")
        ben.keyboard.press("2")  # another grade: merged without a question
        saved(ben, 2)
        ben.get_by_text("Merged with the changes of anna").wait_for()
        assert (grade_of(ben, 0, "kl"), grade_of(ben, 0, "jsn_medial")) == (1, 2)
        anna.keyboard.press("ArrowUp")
        anna.keyboard.press("ArrowDown")
        anna.keyboard.press("3")  # the same grade as ben
        anna.get_by_role("dialog").wait_for()
        dialog = anna.get_by_role("dialog").inner_text()
        assert "ben changed this film meanwhile" in dialog
        assert "Right knee: Joint space narrowing, medial" in dialog
        anna.get_by_role("button", name="Save merged").click()
        saved(anna, 3)
        assert (grade_of(anna, 0, "kl"), grade_of(anna, 0, "jsn_medial")) == (1, 3)
        ben.keyboard.press("ArrowUp")  # back to the narrowing
        ben.keyboard.press("1")
        ben.get_by_role("dialog").wait_for()
        ben.keyboard.press("Escape")  # decides nothing
        ben.get_by_text("You did not choose: the film now has the values of anna").wait_for()
        assert grade_of(ben, 0, "jsn_medial") == 3
        ben.keyboard.press("u")
        until(ben, "kneegrade.film.reading.knees[0].grades.jsn_medial === 1")


def test_a_blind_study_of_three_readers_is_compared_and_adjudicated(browser, tmp_path, monkeypatch, capsys):
    from kneegrade.commands import main

    folder = write_reading_folder(tmp_path, 3)
    store = FolderStore(folder)
    names, keys = ("anna", "ben", "carla"), [film.key for film in store.worklist()]
    study = open_study(folder, "pilot", keys, repeats=0.34, seed=1, readers=names)
    services = ReadingServices(ReadingDesk(store, study), NoEvidence(), folder)
    with serving(browser, services, *names) as readers:
        for kl, reader in enumerate(names):
            page = readers.open(reader)
            assert page.locator(".row").count() == 4
            assert "film-0" not in page.locator("body").inner_text()
            assert page.locator(".in-set, .is-machine, .bone, .space").count() == 0
            asked = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            for _ in range(4):
                for knee in range(2):
                    page.evaluate(f"kneegrade.page.select({knee}, 'kl')")
                    page.keyboard.press(str(kl if reader != "carla" else 1))
                opened = page.evaluate("kneegrade.page.row.name")
                page.keyboard.press("Enter")
                page.get_by_role("button", name="Finish", exact=True).click()
                is_open = "['key', 'repeat'].every((one) => kneegrade.film[one] === kneegrade.page.row[one])"
                until(page, f"kneegrade.page.row.name !== '{opened}' && {is_open} || kneegrade.film.locked")
            assert page.locator("#progress-text").inner_text() == "4 of 4 read"
            assert [url for url in asked if "coherence" in url] == []
            page.wait_for_selector(".is-machine")  # the results are shown now
    monkeypatch.setattr("sys.argv", ["kneegrade", "agreement", str(folder), "--replicates", "20"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    rows = list(csv.DictReader((folder / "agreement.csv").read_text(encoding="utf-8-sig").splitlines()))
    pairs = {(row["first"], row["second"]): row for row in rows if row["grade"] == "kl"}
    assert pairs["ben", "carla"]["accuracy"] == "1.0"
    assert pairs["anna", "ben"]["accuracy"] == "0.0"
    assert pairs["anna", "anna, repeat 1"]["knees"] == "2"
    assert ("carla", "kneegrade") in pairs
    screen = capsys.readouterr().out
    assert "Readers differ on 6 knees" in screen
    raters = [line for line in screen.splitlines() if "(too few)" in line]
    assert [line.split("  ")[0] for line in raters][-2:] == ["ben, repeat 1", "carla, repeat 1"]
    assert len(raters) == 9  # a line for each of 6 pairs and 3 repeats
    judge = replace(services, desk=ReadingDesk(store, study, adjudicate=True))
    with serving(browser, judge, "dora") as readers:
        page = readers.open("dora")
        assert page.locator(".row").count() == 3
        assert page.locator(".readers tbody tr").count() == 6
        for knee in range(2):
            page.evaluate(f"kneegrade.page.select({knee}, 'kl')")
            page.keyboard.press("1")
        assert page.locator(".is-machine, .bone, .space").count() == 0
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Finish", exact=True).click()
        until(page, "document.querySelector('#progress-text').textContent === '1 of 3 read'")
        page.keyboard.press("p")
        page.wait_for_selector(".is-machine")  # shown after the decision


def test_labels_are_written_and_read_back(browser, services, folder):
    with serving(browser, services) as readers:
        page = readers.open("anna")
        page.keyboard.press("Enter")
        until(page, "document.querySelector('#progress-text').textContent === '1 of 4 read'")
        page.get_by_role("button", name="Write labels").click()
        page.get_by_text("Wrote labels.csv").wait_for()
    rows = list(csv.DictReader((folder / "labels.csv").read_text().splitlines()))
    assert [row["side"] for row in rows] == ["R", "L"]
    assert {row["reader"] for row in rows} == {"anna"}


@pytest.mark.parametrize(("width", "height"), [(390, 844), (820, 1180), (1280, 800)])
def test_the_page_never_scrolls_sideways_and_every_control_has_a_name(browser, services, width, height):
    with serving(browser, services) as readers:
        page = readers.open("anna", width=width, height=height, has_touch=width < 1000)
        assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll("button, input, select, textarea")]
              .filter((node) => node.checkVisibility())
              .filter((node) => !(node.getAttribute("aria-label") || node.textContent.trim() || node.labels?.length))
              .map((node) => node.outerHTML)"""
        )
        assert unnamed == []
        if width < 900:
            page.get_by_role("button", name="Films").click()
            assert page.locator(".row").first.is_visible()
        page.keyboard.press("?")
        assert page.get_by_role("dialog").is_visible()
        page.keyboard.press("Escape")


def test_an_old_link_asks_for_a_token(browser, services):
    with serving(browser, services) as readers:
        old = readers.links["anna"]
        readers.open("anna")
        context = browser.new_context()
        readers.contexts.append(context)
        page = context.new_page()
        page.goto(old)
        page.get_by_role("dialog").get_by_text("This link was used before").wait_for()


def test_a_film_that_cannot_be_shown_does_not_stop_the_reader(browser, services, in_order, folder):
    (folder.parent / "films" / "film-02.png").unlink()
    with serving(browser, services) as readers:
        page = in_order(readers)
        page.keyboard.press("Enter")
        page.get_by_text("0 of 3 read, 1 not readable").or_(page.get_by_text("1 of 3 read, 1 not readable")).wait_for()
        page.keyboard.press("s")
        page.get_by_text("This film cannot be shown").wait_for()
        for name in ("film-03.png", "film-04.png"):
            page.keyboard.press("Enter")
            until(page, f"kneegrade.film?.name === '{name}'")
        page.keyboard.press("Enter")
        page.get_by_text("All films of the list are read.").wait_for()
        assert page.locator("#progress-text").inner_text() == "3 of 3 read, 1 not readable"
        readers.errors[:] = [error for error in readers.errors if "Failed to load resource" not in error]


def sign(page):
    """Sign the open film; the next one is open afterwards."""
    page.keyboard.press("s")
    page.get_by_role("dialog").get_by_role("button", name="Sign", exact=True).click()


def test_a_signed_film_changes_only_after_its_signature_was_withdrawn(browser, services, in_order):
    with serving(browser, services) as readers:
        page = in_order(readers)
        page.keyboard.press("2")
        saved(page, 1)
        sign(page)
        until(page, "kneegrade.film.name === 'film-02.png'")
        page.keyboard.press("p")
        until(page, "kneegrade.film.name === 'film-01.png'")
        page.locator("#standing").get_by_text("Signed by anna, revision 2").wait_for()
        page.keyboard.press("3")
        page.get_by_text("This film is signed. Withdraw the signature").wait_for()
        page.keyboard.press("u")
        assert page.locator(".scale button:enabled").count() == 0
        assert grade_of(page, 0, "kl") == 2
        page.get_by_role("button", name="Withdraw signature…").click()
        page.keyboard.press("Enter")  # the answer of Enter is no
        assert page.locator("#standing").get_attribute("class") == "standing is-signed"
        page.keyboard.press("s")
        page.get_by_role("button", name="Withdraw the signature").click()
        page.get_by_text("Signature withdrawn. anna had signed revision 2").wait_for()
        assert "withdrawn" in page.locator(".row").first.inner_text()
        page.keyboard.press("u")  # does not sign again
        page.keyboard.press("3")
        until(page, "!kneegrade.film.isDirty && kneegrade.film.revision === 4")
        page.get_by_text("Signature withdrawn").wait_for()
    history = services.desk.store.log.history(Stream(services.desk.store.worklist()[0].key))
    assert [(one.reading["status"], one.reading["knees"][0]["grades"]["kl"]) for one in history] == [
        ("draft", 2), ("signed", 2), ("draft", 2), ("draft", 3),
    ]  # fmt: skip


def test_a_reader_whose_film_was_signed_meanwhile_decides(browser, services, in_order):
    with serving(browser, services, "anna", "ben") as readers:
        ben, anna = in_order(readers, "ben"), in_order(readers)
        sign(anna)
        until(anna, "kneegrade.film.name === 'film-02.png'")
        ben.keyboard.press("4")
        ben.get_by_text("anna signed this film meanwhile").wait_for()
        ben.get_by_role("button", name="Withdraw the signature").click()
        until(ben, "!kneegrade.film.isDirty && kneegrade.film.revision === 3")
        ben.get_by_text("Signature withdrawn. anna had signed revision 1").wait_for()
    history = services.desk.store.log.history(Stream(services.desk.store.worklist()[0].key))
    assert [(one.reader, one.reading["status"]) for one in history] == [
        ("anna", "signed"), ("ben", "draft"), ("ben", "draft"),
    ]  # fmt: skip
    assert history[2].reading["knees"][0]["grades"]["kl"] == 4


def test_a_merge_is_read_by_nobody(browser, services, in_order):
    with serving(browser, services, "anna", "ben") as readers:
        ben, anna = in_order(readers, "ben"), in_order(readers)
        anna.keyboard.press("Enter")
        until(anna, "kneegrade.film.name === 'film-02.png'")
        ben.keyboard.press("4")
        saved(ben, 2)
        assert ben.locator("#film-status").inner_text() == "begun by ben, revision 2"
        assert "begun · ben" in ben.locator(".row").first.inner_text()


class MovedEvidence(NoEvidence):
    """One contribution, that of the first landmark: where it is."""

    def of(self, pixels, outlines, sha256):
        terms = {"region": [0.0] * 5, "constant": [0.0] * 5}
        return [{"kl": terms | {"points": [[float(points[0, 1])] * 5] + [None] * 73}} for points, _ in outlines]


def test_evidence_is_computed_anew_at_moved_landmarks(browser, services, in_order):
    with serving(browser, replace(services, evidence=MovedEvidence())) as readers:
        page = in_order(readers)
        until(page, "kneegrade.film.evidence !== null")
        before = page.evaluate("kneegrade.film.evidence[0].kl.points[0][0]")
        page.keyboard.press("m")
        page.evaluate("kneegrade.page.mark(0, 0)")
        page.keyboard.press("Shift+ArrowDown")
        until(page, f"kneegrade.film.evidence[0].kl.points[0][0] === {before} + 5")


@pytest.fixture
def page_of_a_server_that_went_down(browser, services, in_order):
    """Readers, a page on which anna changed KL to 2 after its server had ended, and a function that starts it again."""
    from kneegrade.server.reading.local_page import LocalServer

    readers = Readers(browser)
    with LocalServer(services, readers.on_link) as server:
        server.sessions.invite("anna")
        page = in_order(readers)
        port = int(page.evaluate("location.port"))
    page.keyboard.press("2")
    page.get_by_role("alert").get_by_text("Not saved: the server does not answer").wait_for()
    yield readers, page, lambda: LocalServer(services, readers.on_link, port)
    for context in readers.contexts:
        context.close()
    assert [error for error in readers.errors if "ERR_CONNECTION_REFUSED" not in error] == []


def kl_of_first_film(services):
    services.desk.store.log.refresh()
    newest = services.desk.store.log.newest(Stream(services.desk.store.worklist()[0].key))
    return None if newest is None else newest.reading["knees"][0]["grades"]["kl"]


def test_a_change_made_while_the_server_is_down_survives_its_tab(services, page_of_a_server_that_went_down):
    readers, page, start = page_of_a_server_that_went_down
    assert "not saved" in page.locator(".row").first.inner_text()
    assert "kept in this browser" in page.get_by_role("alert").inner_text()
    page.close()
    assert kl_of_first_film(services) is None
    with start() as server:
        for name in ("anna", "ben"):
            server.sessions.invite(name)
        page = readers.contexts[0].new_page()
        page.goto(readers.links["ben"])  # at the same computer
        page.wait_for_selector("body[data-opened]")
        assert kl_of_first_film(services) is None
        page = readers.contexts[0].new_page()
        page.goto(readers.links["anna"])
        page.get_by_text("Saved the changes of 1 film").wait_for()
        assert page.evaluate("Object.keys(localStorage).length") == 0
    assert kl_of_first_film(services) == 2


def test_what_a_signature_sent_later_did_is_shown(services, page_of_a_server_that_went_down):
    from kneegrade.server.reading.local_page import LocalServer

    readers, page, _ = page_of_a_server_that_went_down
    sign(page)
    until(page, "Object.values(localStorage).some((kept) => kept.includes('signed'))")
    port = int(page.evaluate("location.port"))
    page.close()
    signing = replace(services, on_signature=lambda key, review: ["Signed, but no object was written."])
    with LocalServer(signing, readers.on_link, port) as server:
        server.sessions.invite("anna")
        page = readers.contexts[0].new_page()
        page.goto(readers.links["anna"])
        page.get_by_text("Signed, but no object was written.").wait_for()


def test_a_tab_whose_session_ended_asks_for_a_token_and_saves(services, page_of_a_server_that_went_down):
    readers, page, start = page_of_a_server_that_went_down
    with start() as server:
        server.sessions.invite("anna")
        page.get_by_role("dialog").wait_for()
        page.keyboard.press("Escape")
        page.get_by_role("alert").get_by_text("Not saved: your session has ended").wait_for()
        page.get_by_role("button", name="Sign in").click()
        page.get_by_label("Token or link").fill(readers.links["anna"])
        page.keyboard.press("Enter")
        saved(page, 1)
        assert page.get_by_role("alert").count() == 0
    assert kl_of_first_film(services) == 2

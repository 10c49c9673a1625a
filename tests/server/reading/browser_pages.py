"""The reader's page in a real browser: a server in this process, readers in contexts of Chromium."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from kneegrade.server.reading.reading_routes import ReadingServices

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]  # fmt: skip
EXPECTED = ("409 (Conflict)", "401 (Unauthorized)")  # the browser's note of answers that the page deals with


@contextmanager
def chromium() -> Iterator["object"]:
    """A browser; the test is skipped without one."""
    if CHROMIUM is None:
        message = "no chromium on the path; apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Readers:
    """Opens the page for readers, and collects what went wrong on it."""

    browser: "object"
    links: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    contexts: list["object"] = field(default_factory=list)

    def on_link(self, reader: str, link: str) -> None:
        self.links[reader] = link

    def open(self, reader: str, query: str = "", width: int = 1280, height: int = 800, **options):
        """A page of a reader, after its first film was shown."""
        context = self.browser.new_context(viewport={"width": width, "height": height}, **options)
        self.contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: self._note(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(self.links[reader].replace("/viewer/", f"/viewer/{query}"))
        page.wait_for_selector("body[data-opened]")
        return page

    def _note(self, text: str) -> None:
        if not any(known in text for known in EXPECTED) and "GPU stall" not in text and "GL Driver" not in text:
            self.errors.append(text)


@contextmanager
def serving(browser, services: ReadingServices, *names: str) -> Iterator[Readers]:
    """Readers with links; at the end no page may have had an error."""
    from kneegrade.server.reading.local_page import LocalServer

    readers = Readers(browser)
    with LocalServer(services, readers.on_link) as server:
        for name in names or ("anna",):
            server.sessions.invite(name)
        yield readers
        for context in readers.contexts:
            context.close()
    assert not readers.errors, readers.errors


def saved(page, revision: int) -> None:
    """Wait until the page shows that this revision was saved."""
    page.wait_for_selector(f"#saved[data-revision='{revision}']", state="attached")


def until(page, condition: str) -> None:
    """Wait until an expression is true; the page's security policy forbids the browser's own way of waiting."""
    page.wait_for_function(f"() => {condition}")


def drawn(page) -> None:
    """Wait until what changed is on the screen."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def grade_of(page, knee: int, name: str) -> int | None:
    """The grade that the panel shows as chosen."""
    chosen = page.locator(f".scale[data-knee='{knee}'][data-name={name}] [aria-checked=true]")
    return int(chosen.inner_text()) if chosen.count() else None


def number(text: str) -> float:
    """The first number of a text."""
    return float(re.search(r"[\d.]+", text)[0])

"""`report.html`: self-contained pages for people, with pictures and the evidence for each grade.

What a page shows is computed in `report_views`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from kneegrade.files import make_directory, replacing
from kneegrade.reporting.html_pages import environment, policy, resource
from kneegrade.reporting.report_labels import LANDMARK_CONFIDENCE, RESEARCH_USE
from kneegrade.reporting.report_views import FilmView, count_knees, film_views
from kneegrade.results import Report
from kneegrade.schema import KL_MEANING, OARSI_MEANING, TARGETS

KNEES_PER_PAGE: Final = 200  # a page of 200 knees has about 7 MB
MANY_KNEES: Final = 12  # the summary of at least so many knees has a search field


def write_html(report: Report, path: Path) -> None:
    """Writes the page to `path`: style, script and pictures embedded, no network access, strict security policy.

    The page of more than `KNEES_PER_PAGE` knees has only the summary, with links to further pages in the folder
    `<stem>-pages` beside it, of about so many knees each. Pages of an earlier report in this folder are removed.

    The pages contain the pixels of the crops, including any text that is burned into the film there.

    Raises:
        UsageError: `path` or the folder cannot be written.
    """
    films = film_views(report)
    pages = paged([film for film in films if film.radiograph.status == "graded"])
    folder = path.with_name(f"{path.stem}-pages")
    for old in folder.glob("page-*.html"):
        old.unlink()
    if len(pages) <= 1:
        _write_page(report, path, films, [film for page in pages for film in page])
        return
    make_directory(folder)
    names = [f"page-{number}.html" for number in range(1, len(pages) + 1)]
    where = {id(film): f"{folder.name}/{name}" for name, page in zip(names, pages, strict=True) for film in page}
    for number, (name, page) in enumerate(zip(names, pages, strict=True), start=1):
        links = PageLinks(f"../{path.name}", names, number)
        _write_page(report, folder / name, [], page, links)
    _write_page(report, path, [replace(film, page=where.get(id(film), "")) for film in films], [])


def paged(films: Sequence[FilmView]) -> list[list[FilmView]]:
    """The films in their order on pages; a page is full with `KNEES_PER_PAGE` knees or more."""
    pages: list[list[FilmView]] = []
    knees = KNEES_PER_PAGE
    for film in films:
        if knees >= KNEES_PER_PAGE:
            pages.append([])
            knees = 0
        pages[-1].append(film)
        knees += len(film.knees)
    return pages


@dataclass(frozen=True)
class PageLinks:
    """Links of one of several pages.

    Attributes:
        summary: address of the page with the summary.
        names: addresses of all pages with knees.
        number: of this page, from 1.
    """

    summary: str
    names: Sequence[str]
    number: int


def _write_page(
    report: Report,
    path: Path,
    listed: Sequence[FilmView],
    shown: Sequence[FilmView],
    links: PageLinks | None = None,
) -> None:
    """Writes a page with a summary of the films `listed` (unless `links` say where it is) and the knees of `shown`."""
    style, script = resource("report.css"), resource("report.js")
    template = environment().get_template("report.html.j2")
    with replacing(path) as stream:
        stream.writelines(
            template.generate(
                report=report,
                films=listed,
                shown=shown,
                links=links,
                pairs=any(len(film.knees) > 1 for film in (listed or shown)),
                counts=count_knees(report),
                style=style,
                script=script,
                policy=policy(style, script),
                research_use=RESEARCH_USE,
                landmark_confidence=LANDMARK_CONFIDENCE,
                targets=TARGETS,
                kl_meaning=KL_MEANING,
                oarsi_meaning=OARSI_MEANING,
                many_knees=MANY_KNEES,
            )
        )

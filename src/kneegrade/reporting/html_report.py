"""`report.html`: one self-contained page for people, with pictures and the evidence for each grade."""

from pathlib import Path
from typing import Final

from kneegrade.files import replacing
from kneegrade.reporting.html_view import counts_of, films_of
from kneegrade.reporting.page import environment, policy, resource
from kneegrade.reporting.wording import LANDMARK_CONFIDENCE, RESEARCH_USE
from kneegrade.results import Report
from kneegrade.schema import KL_MEANING, OARSI_MEANING, TARGETS

MANY_KNEES: Final = 12  # from here on the summary has a filter


def write_html(report: Report, path: Path) -> None:
    """Writes the page to `path`: style, script and pictures inline, no network, strict content security policy.

    The page holds the pixels of the knees' regions, and with them whatever text is burned into the film there.

    Raises:
        UsageError: `path` cannot be written.
    """
    style, script = resource("report.css"), resource("report.js")
    page = environment().get_template("report.html.j2")
    with replacing(path) as stream:
        stream.writelines(
            page.generate(
                report=report,
                films=films_of(report),
                pairs=any(len(radiograph.knees) > 1 for radiograph in report.radiographs),
                counts=counts_of(report),
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

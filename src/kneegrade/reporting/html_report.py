"""`report.html`: one self-contained page for people, with pictures and the evidence for each grade."""

import base64
import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kneegrade.reporting.files import replacing
from kneegrade.reporting.html_view import counts_of, films_of
from kneegrade.reporting.wording import RESEARCH_USE, printable
from kneegrade.results import Report
from kneegrade.schema import KL_MEANING, OARSI_MEANING, TARGETS

if TYPE_CHECKING:
    from jinja2 import Environment

MANY_KNEES: Final = 12  # from here on the summary has a filter


def write_html(report: Report, path: Path) -> None:
    """Writes the page to `path`: style, script and pictures inline, no network, strict content security policy.

    The page holds the pixels of the knees' regions, and with them whatever text is burned into the film there.

    Raises:
        UsageError: `path` cannot be written.
    """
    style, script = _resource("report.css"), _resource("report.js")
    page = _environment().get_template("report.html.j2")
    with replacing(path) as stream:
        stream.writelines(
            page.generate(
                report=report,
                films=films_of(report),
                pairs=any(len(radiograph.knees) > 1 for radiograph in report.radiographs),
                counts=counts_of(report),
                style=style,
                script=script,
                policy=_policy(style, script),
                research_use=RESEARCH_USE,
                targets=TARGETS,
                kl_meaning=KL_MEANING,
                oarsi_meaning=OARSI_MEANING,
                many_knees=MANY_KNEES,
            )
        )


def _policy(style: str, script: str) -> str:
    """Content security policy that allows this style, this script and embedded pictures, and nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_sha256(style)}'; script-src '{_sha256(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _sha256(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _resource(name: str) -> str:
    return files("kneegrade.reporting").joinpath("templates", name).read_text(encoding="utf-8").strip()


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("kneegrade.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["printable"] = printable
    return environment

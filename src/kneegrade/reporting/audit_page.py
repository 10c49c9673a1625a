"""`audit.html`: the knees whose labels should be checked, with pictures."""

from collections.abc import Sequence
from pathlib import Path

from kneegrade.files import replacing
from kneegrade.reporting.html_pages import data_uri, environment, policy, resource
from kneegrade.reporting.report_labels import SHORT_LABELS
from kneegrade.results import AuditedKnee
from kneegrade.schema import TARGETS


def write_audit(knees: Sequence[AuditedKnee], total: int, path: Path) -> None:
    """Writes the page to `path`: style and pictures embedded, no network access, strict content security policy.

    Args:
        knees: the knees to show, the most unusual first.
        total: number of knees that were audited.
        path: file to write.

    Raises:
        UsageError: `path` cannot be written.
    """
    style = resource("report.css") + "\n" + resource("audit.css")
    pictures = [(knee, None if knee.crop is None else data_uri(knee.crop)) for knee in knees]
    targets = [(target, SHORT_LABELS[target.name]) for target in TARGETS]
    with replacing(path) as stream:
        page = environment().get_template("audit.html.j2")
        stream.writelines(
            page.generate(knees=pictures, total=total, targets=targets, style=style, policy=policy(style, ""))
        )

"""`audit.html`: the knees whose labels are worth a second look, with pictures; self-contained like the report."""

from collections.abc import Sequence
from pathlib import Path

from kneegrade.files import replacing
from kneegrade.reporting.page import environment, policy, resource
from kneegrade.reporting.picture import data_uri
from kneegrade.results import AuditedKnee
from kneegrade.schema import TARGETS

SHORT = ("KL", "JSN L", "JSN M", "O FL", "O FM", "O TL", "O TM")


def write_audit(knees: Sequence[AuditedKnee], total: int, path: Path) -> None:
    """Writes the page to `path`: style and pictures inline, no network, strict content security policy.

    Args:
        knees: those shown, the oddest first.
        total: how many were audited.
        path: of the page.

    Raises:
        UsageError: `path` cannot be written.
    """
    style = resource("report.css") + "\n" + resource("audit.css")
    shown = [(knee, None if knee.region is None else data_uri(knee.region)) for knee in knees]
    targets = list(zip(TARGETS, SHORT, strict=True))
    with replacing(path) as stream:
        page = environment().get_template("audit.html.j2")
        stream.writelines(
            page.generate(knees=shown, total=total, targets=targets, style=style, policy=policy(style, ""))
        )

"""`audit.html`: the knees whose labels are worth a second look, with pictures; self-contained like the report.

What every page shares: templates, style and script from the package, and the content security policy.

The picture of a knee as a page holds it: the region as a data URI, bone outlines and points to draw over it.
"""

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from kneegrade.reporting.report_labels import printable

if TYPE_CHECKING:
    from jinja2 import Environment
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kneegrade.files import replacing
from kneegrade.results import FEMUR, TIBIA, AuditedKnee, Evidence
from kneegrade.schema import TARGETS


def policy(style: str, script: str) -> str:
    """Content security policy that allows this style, this script and embedded pictures, and nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_sha256(style)}'; script-src '{_sha256(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _sha256(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def resource(name: str) -> str:
    """The text of a file in `templates/`, stripped."""
    return files("kneegrade.reporting").joinpath("templates", name).read_text(encoding="utf-8").strip()


@cache
def environment() -> "Environment":
    """Jinja2 with this package's templates: escapes everything, refuses unknown names."""
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


_MAX_BYTES: Final = 24_000
_QUALITIES: Final = (88, 80, 70, 55, 40, 25)


@dataclass(frozen=True)
class Point:
    """A landmark that was read: its index and place in pixels of the region."""

    index: int
    x: float
    y: float


@dataclass(frozen=True)
class Picture:
    """What is drawn for one knee.

    Attributes:
        uri: JPEG of the region as a data URI.
        size: side of the region in pixels; the drawing spans -0.5 … size - 0.5, so that the first pixel's centre is 0.
        outlines: SVG path data of femur and tibia.
        points: the landmarks that were read.
        unread: number of landmarks that lie outside the region.
    """

    uri: str
    size: int
    outlines: tuple[str, str]
    points: tuple[Point, ...]
    unread: int


def picture_of(evidence: Evidence) -> Picture:
    """The picture for `evidence`: at most about 24 kB of JPEG, or what quality 25 needs for a region of noise."""
    landmarks = evidence.landmarks_roi_px
    points = tuple(
        Point(int(index), round(float(landmarks[index, 0]), 1), round(float(landmarks[index, 1]), 1))
        for index in np.flatnonzero(landmarks_read(evidence))
    )
    return Picture(
        uri=data_uri(evidence.roi),
        size=evidence.roi.shape[1],
        outlines=(_path(landmarks[FEMUR]), _path(landmarks[TIBIA])),
        points=points,
        unread=len(landmarks) - len(points),
    )


def landmarks_read(evidence: Evidence) -> NDArray[np.bool_]:
    """(74,) True for the landmarks inside the region, which are those drawn as points."""
    return evidence.landmark_visible & np.isfinite(evidence.landmarks_roi_px).all(axis=1)


def data_uri(roi: NDArray[np.uint8]) -> str:
    """JPEG of a picture (H, W) as a data URI, at most about 24 kB or of quality 25."""
    from PIL import Image

    image = Image.fromarray(roi)
    for quality in _QUALITIES:
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= _MAX_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _path(outline: NDArray[np.float64]) -> str:
    """SVG path data through the rows of `outline` (N, 2); a row without a place breaks the line."""
    commands: list[str] = []
    pen = "M"
    for x, y in outline.tolist():
        if np.isfinite([x, y]).all():
            commands.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(commands)


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

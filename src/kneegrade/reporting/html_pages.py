"""Parts that the HTML pages share: templates, content security policy, and the picture of a knee.

Every page is one self-contained file: style, script and pictures are embedded, and the content security policy allows
nothing else.
"""

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from io import BytesIO
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from kneegrade.reporting.report_labels import printable
from kneegrade.results import FEMUR, TIBIA, Evidence

if TYPE_CHECKING:
    from jinja2 import Environment

_MAX_BYTES: Final = 24_000
_JPEG_QUALITIES: Final = (88, 80, 70, 55, 40, 25)


@cache
def environment() -> "Environment":
    """The Jinja2 environment of the package's templates: escapes all values, refuses unknown names."""
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


def resource(name: str) -> str:
    """The stripped text of a file in `templates/`."""
    return files("kneegrade.reporting").joinpath("templates", name).read_text(encoding="utf-8").strip()


def policy(style: str, script: str) -> str:
    """The content security policy that allows this style, this script and embedded pictures, and nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_sha256(style)}'; script-src '{_sha256(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _sha256(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


@dataclass(frozen=True)
class Point:
    """A landmark at which the network read its features: its index, and its position in pixels of the crop."""

    index: int
    x: float
    y: float


@dataclass(frozen=True)
class Picture:
    """The drawing of one knee.

    Attributes:
        uri: JPEG of the crop as a data URI.
        size: side length of the crop in pixels; the drawing spans -0.5 … size - 0.5, so that the centre of the first
            pixel is 0.
        outlines: SVG path data of femur and tibia.
        points: the landmarks at which the network read its features.
        unread: number of landmarks outside the crop.
    """

    uri: str
    size: int
    outlines: tuple[str, str]
    points: tuple[Point, ...]
    unread: int


def picture_of(evidence: Evidence) -> Picture:
    """The picture for `evidence`; its JPEG has at most about 24 kB, or what quality 25 needs for a crop of noise."""
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
    """(74,) bool: True for the landmarks inside the crop, which are drawn as points."""
    return evidence.landmark_visible & np.isfinite(evidence.landmarks_roi_px).all(axis=1)


def data_uri(roi: NDArray[np.uint8]) -> str:
    """A JPEG of the (H, W) picture as a data URI, of at most about 24 kB, or of quality 25."""
    from PIL import Image

    image = Image.fromarray(roi)
    for quality in _JPEG_QUALITIES:
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= _MAX_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _path(outline: NDArray[np.float64]) -> str:
    """SVG path data through the rows of `outline` (N, 2); a row that is not finite interrupts the line."""
    commands: list[str] = []
    pen = "M"
    for x, y in outline.tolist():
        if np.isfinite([x, y]).all():
            commands.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(commands)

"""`write_page`: summary.html of a batch, one self-contained page with pictures of the films that were chosen."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kneegrade.anatomy import knees_from_landmarks
from kneegrade.batch.plan import PlannedFilm, StopCount
from kneegrade.batch.result_parts import part_tables
from kneegrade.errors import KneeGradeError
from kneegrade.files import replacing
from kneegrade.imaging import read_radiograph
from kneegrade.imaging.sources import sha256_of
from kneegrade.reporting.html_pages import data_uri, environment, policy, resource
from kneegrade.reporting.report_labels import RESEARCH_USE, SHORT_LABELS, SIDE_LABELS
from kneegrade.schema import TARGETS

if TYPE_CHECKING:
    from kneegrade.batch.summary import ReviewedKnee

PICTURE_PX: Final = 224


def write_page(
    facts: Mapping[str, Any], shown: Sequence["ReviewedKnee"], directory: Path, films: Sequence[PlannedFilm],
    path: Path, stop: StopCount = lambda: 0,
) -> None:  # fmt: skip
    """Writes the page to `path`: style and pictures embedded, no network access, strict content security policy.

    Args:
        facts: of `summary.summarise`.
        shown: the knees and films to show, in their order.
        directory: of the batch.
        films: to read again for the pictures; there is none of a film that is missing, cannot be read or was replaced.
        path: file to write.
        stop: number of signals to stop so far; after the second one no film is read any more.

    Raises:
        UsageError: `path` cannot be written.
    """
    style = resource("report.css") + "\n" + resource("batch.css")
    page = environment().get_template("batch.html.j2")
    pictures = _pictures(shown, directory, films, stop)
    with replacing(path) as stream:
        stream.writelines(
            page.generate(
                facts=facts, knees=list(zip(shown, pictures, strict=True)), targets=TARGETS, short=SHORT_LABELS,
                sides=SIDE_LABELS, style=style, policy=policy(style, ""), research_use=RESEARCH_USE,
            )
        )  # fmt: skip


def _pictures(
    shown: Sequence["ReviewedKnee"], directory: Path, films: Sequence[PlannedFilm], stop: StopCount
) -> list[str | None]:
    """For each knee its crop, and for each film without knees the film, as a data URI; None where there is none."""
    wanted = {one.source for one in shown}
    planned = {film.source.name: film for film in films if film.source.name in wanted}
    landmarks = _landmarks(directory, wanted)
    return [
        None if stop() > 1 else _picture(planned.get(one.source), one.sha256, landmarks.get(_key(one))) for one in shown
    ]


def _key(one: "ReviewedKnee") -> tuple[str, str | None, int | None]:
    return one.source, one.sha256, one.knee


def _landmarks(
    directory: Path, sources: set[str]
) -> dict[tuple[str, str | None, int | None], NDArray[np.float64]]:  # fmt: skip
    """Landmarks of the knees of these films, read part by part, because those of all knees take much memory."""
    wanted, found = pa.array(sorted(sources), pa.string()), {}
    for table in part_tables(directory, "knees", ["source", "sha256", "knee", "landmarks_px"]) if sources else ():
        for row in table.filter(pc.is_in(table["source"], value_set=wanted)).to_pylist():
            if row["landmarks_px"] is not None:
                points = np.array(row["landmarks_px"], dtype=np.float64).reshape(-1, 2)
                found[row["source"], row["sha256"], row["knee"]] = points
    return found


def _picture(film: PlannedFilm | None, sha256: str | None, landmarks_px: NDArray[np.float64] | None) -> str | None:
    """The picture of a film with this SHA-256; None if the file has other bytes now."""
    if film is None or sha256 is None:  # a film that nobody could read may lie on a disk that does not answer
        return None
    try:
        content = film.source.open()
        if sha256_of(content) != sha256:
            return None
        radiograph = read_radiograph(content)
        if landmarks_px is None:
            return data_uri(_thumbnail(radiograph.pixels))
        (knee,), _ = knees_from_landmarks(radiograph, landmarks_px[None], PICTURE_PX)
    except KneeGradeError:
        return None
    return data_uri(np.rint(knee.roi * 255).astype(np.uint8))


def _thumbnail(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    from PIL import Image

    picture = Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    picture.thumbnail((PICTURE_PX, PICTURE_PX))
    return np.asarray(picture)

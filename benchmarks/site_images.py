"""The images of the sites that `sites.py` compares."""

import csv
import hashlib
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from site_knees import SiteImage
from site_split import grey_image, site_table

from kneegrade.cohorts import chen2018_manifest
from kneegrade.imaging import Source
from kneegrade.training.splits import left_out
from kneegrade.weights import read_description, shipped_path

Half = Literal["fitted", "left-out", "all"]
FILMS_TABLE = Path(__file__).with_name("real_films.csv")
Change = Callable[[NDArray[np.float32], str], NDArray[np.float32]]


def validation_images(root: Path, half: Half = "left-out", weights: Path | None = None) -> list[SiteImage]:
    """The validation crops of Chen 2018.

    Args:
        root: unpacked folder of the archive.
        half: people that calibration and quality control of the weights were fitted on, the others, or all.
        weights: whose description states these people; default: the shipped weights.
    """
    table = chen2018_manifest(root)
    table = table[table["split"] == "val"].reset_index(drop=True)
    if half != "all":
        others = left_out(read_description(weights or shipped_path("grader")), table["subject_id"].to_numpy(dtype=str))
        table = table[others == (half == "left-out")]
    return [
        SiteImage(
            Path(path).name, Source(Path(path).name, Path(path)),
            {"kl": int(kl), "group": subject, "path": path, "part": half},
        )
        for path, kl, subject in zip(table["image_path"], table["kl"], table["subject_id"], strict=True)
    ]  # fmt: skip


def labelled_site_images(root: Path, part: Literal["look", "score"]) -> list[SiteImage]:
    """The images of one part of a labelled site, see `site_split.site_table`."""
    table = site_table(root)
    table = table[table["part"] == part]
    return [
        SiteImage(
            "/".join(Path(path).parts[-2:]), Source(Path(path).name, Path(path)),
            {"kl": int(kl), "group": group, "path": path, "part": part},
        )
        for path, kl, group in zip(table["path"], table["kl"], table["group"], strict=True)
    ]  # fmt: skip


def film_images(root: Path) -> list[SiteImage]:
    """The films of `real_films.csv`, with the number of knees on each, counted by eye."""
    with FILMS_TABLE.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return [
        SiteImage(
            row["film"], Source(row["film"], root / f"{row['film']}.jpg"),
            {"group": row["film"], "path": str(root / f"{row['film']}.jpg"), "knees_by_eye": int(row["knees"])},
        )
        for row in rows
    ]  # fmt: skip


def in_hash_order(names: Iterable[str]) -> list[str]:
    """Names in an order without meaning, so that the first ones are a sample of all grades."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())


def changed_images(images: list[SiteImage], change: Change) -> list[SiteImage]:
    """The same images after a change of their grey levels.

    Args:
        images: with the column `path`.
        change: (H, W) float32 in [0, 1] and the name of the image → an image of any size in [0, 1].
    """
    return [SiteImage(i.name, Source(i.name, load=_changed(i, change)), i.about) for i in images]


def _changed(image: SiteImage, change: Change) -> Callable[[], bytes]:
    def load() -> bytes:
        grey = grey_image(Path(image.about["path"])) / np.float32(255)
        stream = io.BytesIO()
        Image.fromarray(np.rint(np.clip(change(grey, image.name), 0, 1) * 255).astype(np.uint8)).save(stream, "PNG")
        return stream.getvalue()

    return load

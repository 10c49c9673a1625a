"""Sound knees of several sites for the implant network, from their manifests."""

import tempfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from kneegrade.errors import RecipeError
from kneegrade.progress import Progress
from kneegrade.training.build_dataset import build_dataset
from kneegrade.training.dataset import load_datasets
from kneegrade.training.implant_examples import KneePictures

MAX_SITE_KNEES = 3_000  # of one site; more add little


def without_metal(table: pd.DataFrame, paths: Collection[str]) -> pd.DataFrame:
    """The rows of a manifest whose image is not one of `paths`.

    Args:
        table: a validated manifest.
        paths: ends of image paths, for example `train/0/9862741R.jpg`; all of them need not occur.
    """
    ends = tuple(f"/{path.lstrip('/')}" for path in paths)
    return table[[not f"/{path}".endswith(ends) for path in table["image_path"]]] if ends else table


def read_paths(file: Path) -> list[str]:
    """The paths in the column `path` of a CSV file.

    Raises:
        RecipeError: there is no such file, or it has no column `path`.
    """
    try:
        return pd.read_csv(file, dtype=str)["path"].dropna().tolist()
    except (OSError, ValueError, KeyError) as error:
        raise RecipeError(f"{file} is not a CSV file with a column path, which names the knees with metal.") from error


def site_pictures(
    table: pd.DataFrame, *, seed: int = 0, workers: int = 1, progress: Progress | None = None
) -> list[KneePictures]:
    """The pictures of the knees of a manifest, for each `source` one; of a large source 3,000 knees drawn at random.

    Args:
        table: a validated manifest; without landmarks the shipped detector finds them.
        seed: of the draw.
        workers: processes that crop knees.
        progress: called with (films done, films in all).

    Raises:
        RecipeError: no knee could be cropped.
    """
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(rows)[:MAX_SITE_KNEES] for rows in table.groupby("source").indices.values()]
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "dataset"
        build_dataset(table.iloc[np.sort(np.concatenate(drawn))], directory, workers=workers, progress=progress)
        dataset = load_datasets((directory,))
        return [
            KneePictures(dataset.images[own], dataset.landmarks_px[own], str(source))
            for source in np.unique(dataset.source)
            for own in [dataset.source == source]
        ]

"""From manifests of several sites to a fitted implant network."""

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kneegrade.anatomy import LandmarkDetector
from kneegrade.cohorts import load_manifest
from kneegrade.cohorts.film_manifests import manifest_from_films
from kneegrade.errors import RecipeError
from kneegrade.phantom.phantom_cohort import ROI_FILE, TABLE_FILE
from kneegrade.progress import Progress
from kneegrade.training.build_dataset import build_dataset
from kneegrade.training.dataset import load_datasets
from kneegrade.training.metal.implant_examples import KneePictures, make_examples, phantom_pictures
from kneegrade.training.metal.train_implants import FittedImplants, fit_implants

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


def site_manifest(path: Path, progress: Progress | None = None) -> pd.DataFrame:
    """The manifest of a site: that in the file `path`, or that of the knees detected on the films in the folder `path`.

    The source of the knees of a folder is the folder's name.

    Raises:
        RecipeError: `path` is neither a folder nor a manifest.
        UsageError: there is no film in the folder, or no knee on its films.
    """
    if not path.is_dir():
        return load_manifest(path)
    return manifest_from_films(path, LandmarkDetector(), progress=progress)[0].assign(source=path.resolve().name)


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


@dataclass(frozen=True, eq=False)
class PhantomParts:
    """The phantoms of a cohort by their use: of its people, one fifth is measured on and one fifth is the reference.

    Attributes:
        table: of the cohort.
        rois: (N, S, S) uint8.
        implant: (N,) bool, phantoms with metal.
        tested: (N,) bool.
        reference: (N,) bool.
    """

    table: pd.DataFrame
    rois: NDArray[np.uint8]
    implant: NDArray[np.bool_]
    tested: NDArray[np.bool_]
    reference: NDArray[np.bool_]

    @property
    def trained(self) -> NDArray[np.bool_]:
        """(N,) bool: the other three fifths."""
        return ~self.tested & ~self.reference

    @classmethod
    def load(cls, directory: Path) -> "PhantomParts":
        """The phantoms in a folder written by `kneegrade phantom --rois --implants`."""
        table = pd.read_parquet(directory / TABLE_FILE)
        fifth = pd.factorize(table["subject_id"])[0] % 5
        rois = np.load(directory / ROI_FILE, mmap_mode="r")
        return cls(table, rois, table["implant"].notna().to_numpy(), fifth == 0, fifth == 1)

    def pictures(self, rows: NDArray[np.bool_]) -> KneePictures:
        """The pictures of some phantoms."""
        return phantom_pictures(self.table, self.rois, rows)


def fit_implants_of_manifests(
    sound: pd.DataFrame, held_out: pd.DataFrame, measured: pd.DataFrame, other_sites: Sequence[pd.DataFrame],
    phantoms: PhantomParts, *, seed: int = 0, workers: int = 1, progress: Progress | None = None,
) -> tuple[FittedImplants, dict[str, float]]:  # fmt: skip
    """The implant network, and measures of it on knees of the first site that were not used.

    Args:
        sound: manifest of knees without metal, of the training data of the grading network.
        held_out: the same of other people, which the limits are chosen on.
        measured: the same of other people, into which metal is drawn to measure the detection; may be empty.
        other_sites: manifests of knees without metal of further sites.
        phantoms: with and without metal.
        seed: of all draws.
        workers: processes that crop knees.
        progress: called with (steps done, steps in all) in each stage.

    Returns:
        The network with its limits; and `sound_knees` (number), `drawn_metal_certain` and `drawn_metal_seen` (certain
        or possible), shares of the measured knees with drawn metal.
    """
    sites = [
        replace(site, site=f"{number}: {site.site}")
        for number, table in enumerate((sound, *other_sites), start=1)
        for site in site_pictures(table, seed=seed, workers=workers, progress=progress)
    ]
    held = site_pictures(held_out, seed=seed, workers=workers, progress=progress)
    plain = ~phantoms.implant
    fitted = fit_implants(
        sites, phantoms.pictures(plain & phantoms.trained), phantoms.pictures(phantoms.implant & phantoms.trained),
        [*held, phantoms.pictures(plain & phantoms.reference)], seed=seed, progress=progress,
    )  # fmt: skip
    measures: dict[str, float] = {"sound_knees": sum(len(site) for site in sites)}
    if len(measured):
        drawn = [
            make_examples(site, len(site), 1000 * seed + 999, metal=True).inputs
            for site in site_pictures(measured, seed=seed, workers=workers, progress=progress)
        ]
        probability = fitted.network.probability(np.concatenate(drawn))
        measures["drawn_metal_certain"] = round(float((probability > fitted.limits.certain).mean()), 4)
        measures["drawn_metal_seen"] = round(float((probability > fitted.limits.possible).mean()), 4)
    return fitted, measures

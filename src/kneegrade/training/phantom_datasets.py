"""Datasets of synthetic knees for training: rendered to disk once, or rendered item by item on request.

Every knee is a function of (seed, index) alone; see `kneegrade.phantom`. Therefore the order of rendering and the
number of processes do not change a dataset, and a stopped call can be continued.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from kneegrade.anatomy.geometry import ROI_PLATEAU_WIDTHS, stretch_contrast
from kneegrade.anatomy.landmark_scheme import NUM_LANDMARKS
from kneegrade.coherence import one_hot
from kneegrade.errors import UsageError
from kneegrade.phantom import (
    FilmOptions,
    Prevalence,
    coherent_reading,
    compose_film,
    render_film,
    render_rois,
    sample_knee,
)
from kneegrade.phantom.phantom_cohort import RENDERER
from kneegrade.progress import Progress
from kneegrade.schema import ONE_HOT_LENGTH, TARGET_NAMES
from kneegrade.training.dataset import DATASET_PLATEAU_WIDTHS, DATASET_PX, PENDING, DatasetWriter, crop_knee, encode
from kneegrade.training.parallel import parallel_map

FILM_SPACING_MM = 0.35  # of rendered films; coarser than real ones, since the crops are coarse too
ROIS_PER_TASK, FILMS_PER_TASK = 64, 4

RenderedKnee = tuple[NDArray[np.uint8], NDArray[np.floating], NDArray[np.bool_]]  # arguments of `DatasetWriter.put`


def one_hot_labels(grades: Mapping[str, int]) -> NDArray[np.float32]:
    """(29,) float32 one-hot vector of the seven grades (by name) in the layout of the schema."""
    (row,) = one_hot(np.array([[grades[name] for name in TARGET_NAMES]]))
    return np.asarray(row, dtype=np.float32)


class PhantomRois(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Crops of synthetic knees, rendered on request, without augmentation.

    Item i is a tuple of the crop (1, S, S) float32 in [0, 1], level, lateral on the left, contrast stretched as
    networks read it; the landmarks (74, 2) float32 in its pixels; and the grades (29,) float32 one-hot.

    Args:
        seed: of the population.
        number: length of the dataset.
        prevalence: population of the grades.
        size_px: side S of a crop.
        extent_in_plateau_widths: side of a crop in plateau widths.

    Example:
        >>> loader = torch.utils.data.DataLoader(PhantomRois(1, 4, size_px=64), batch_size=2)
        >>> [tuple(part.shape) for part in next(iter(loader))]
        [(2, 1, 64, 64), (2, 74, 2), (2, 29)]
    """

    def __init__(
        self, seed: int, number: int, prevalence: Prevalence = "natural", *, size_px: int = 320,
        extent_in_plateau_widths: float = ROI_PLATEAU_WIDTHS,
    ) -> None:  # fmt: skip
        self.seed, self.number, self.prevalence = seed, number, prevalence
        self.size_px, self.extent_in_plateau_widths = size_px, extent_in_plateau_widths

    def __len__(self) -> int:
        """Number of knees."""
        return self.number

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Crop, landmarks and grades of knee `index`."""
        if not 0 <= index < self.number:
            raise IndexError(index)
        knee = sample_knee(self.seed, index, self.prevalence)
        pixels, landmarks = render_rois([knee], self.size_px, self.extent_in_plateau_widths)
        crops = pixels.unsqueeze(1)
        crop = stretch_contrast(crops, torch.ones_like(crops, dtype=torch.bool))[0]
        return crop, torch.from_numpy(landmarks[0]).float(), torch.from_numpy(one_hot_labels(knee.grades))


@dataclass(frozen=True)
class PhantomContent:
    """What a dataset of phantoms holds. The dataset has one row per knee (`films=False`) or two rows per film.

    Attributes:
        number: of knees, or of films.
        prevalence: population of the grades.
        seed: of the population.
        films: crop the knees from whole films, with all layouts and nuisances, instead of rendering single knees.
        extent_in_plateau_widths: side of a picture in plateau widths.
        pixel_spacing_mm: of the films.
        readings: labels are simulated readings (`coherent_reading`) instead of the true grades.
        splits: (split, whether its knees have labels, number of rows), in the order of the rows; by default all rows
            are labelled and of split "train".
    """

    number: int
    prevalence: Prevalence
    seed: int
    films: bool = False
    extent_in_plateau_widths: float = DATASET_PLATEAU_WIDTHS
    pixel_spacing_mm: float = FILM_SPACING_MM
    readings: bool = False
    splits: tuple[tuple[str, bool, int], ...] = ()

    @property
    def rows_per_item(self) -> int:
        """Rows of the dataset for one knee (1) or one film (2)."""
        return 2 if self.films else 1

    def render(self, index: int) -> list[RenderedKnee]:
        """Knee `index`, or the knees of film `index` (none, one or two)."""
        if self.films:
            options = FilmOptions(prevalence=self.prevalence, pixel_spacing_mm=self.pixel_spacing_mm)
            film = render_film(self.seed, index, options)
            return [crop_knee(film.pixels, knee.landmarks_px, self.extent_in_plateau_widths) for knee in film.knees]
        knee = sample_knee(self.seed, index, self.prevalence)
        pixels, landmarks = render_rois([knee], DATASET_PX, self.extent_in_plateau_widths)
        on_film = np.ones((DATASET_PX, DATASET_PX), dtype=np.bool_)
        return [(encode(pixels[0].numpy(), on_film), landmarks[0], np.ones(NUM_LANDMARKS, dtype=np.bool_))]

    def grades(self, index: int) -> list[Mapping[str, int]]:
        """True grades of knee `index`, or of the knees of film `index`."""
        if self.films:
            film = compose_film(self.seed, index, FilmOptions(prevalence=self.prevalence))
            return [shown.knee.grades for shown in film.knees]
        return [sample_knee(self.seed, index, self.prevalence).grades]

    def labels(self) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
        """(rows, 29) one-hot labels, NaN for knees without labels, and (rows,) splits."""
        rows = self.number * self.rows_per_item
        names, labelled, counts = zip(*(self.splits or (("train", True, rows),)), strict=True)
        targets = np.zeros((rows, ONE_HOT_LENGTH), dtype=np.float32)
        has_label = np.repeat(labelled, counts)
        targets[~has_label] = np.nan
        for index in range(self.number):
            first = index * self.rows_per_item
            if not has_label[first]:
                continue
            for row, true in enumerate(self.grades(index), start=first):
                read = coherent_reading(true, self.seed, row, self.prevalence) if self.readings else true
                targets[row] = one_hot_labels(read)
        return targets, np.repeat(names, counts)


def build_phantoms(
    directory: Path, content: PhantomContent, identity: str, *, workers: int = 1, progress: Progress | None = None
) -> None:
    """Render a new dataset of phantoms; if an earlier call was stopped, continue where it stopped.

    Args:
        directory: folder of the dataset; must not exist.
        content: what to render.
        identity: kept in the dataset as `identity.txt`; a stopped call is continued if its identity was the same.
        workers: number of processes; 1 renders in this process.
        progress: called with (knees or films done, knees or films in all).

    Raises:
        RecipeError: the folder exists, or another unfinished dataset is in its place.
    """
    size = content.rows_per_item
    writer = DatasetWriter(directory, content.number * size, identity)
    pending = set((writer.rows(PENDING) // size).tolist())
    step = FILMS_PER_TASK if content.films else ROIS_PER_TASK
    tasks = (range(start, min(start + step, content.number)) for start in range(0, content.number, step))
    open_tasks = [task for task in tasks if pending.intersection(task)]
    for task, items in parallel_map(partial(_render_task, content), open_tasks, workers):
        for index, knees in zip(task, items, strict=True):
            for slot in range(size):
                if slot < len(knees):
                    writer.put(size * index + slot, *knees[slot])
                else:
                    writer.leave_empty(size * index + slot)
            pending.discard(index)
        writer.flush()
        if progress:
            progress(content.number - len(pending), content.number)
    targets, split = content.labels()
    subject = np.array([f"P{content.seed}-{row // 2:06d}" for row in range(len(targets))])
    writer.close(targets, subject, split, np.full(len(targets), "phantom"))


def _render_task(content: PhantomContent, indices: range) -> list[list[RenderedKnee]]:
    return [content.render(index) for index in indices]


def build_phantom_dataset(
    directory: Path, number: int, prevalence: Prevalence, seed: int, *, extent_in_plateau_widths: float,
    workers: int = 1, progress: Progress | None = None,
) -> None:  # fmt: skip
    """Render `number` single knees, all of split "train"; see `build_phantoms`."""
    content = PhantomContent(number, prevalence, seed, extent_in_plateau_widths=extent_in_plateau_widths)
    build_phantoms(directory, content, _identity(content), workers=workers, progress=progress)


def build_film_dataset(
    directory: Path, number: int, prevalence: Prevalence, seed: int, *, extent_in_plateau_widths: float,
    pixel_spacing_mm: float = FILM_SPACING_MM, workers: int = 1, progress: Progress | None = None,
) -> None:  # fmt: skip
    """Crop the knees of `number` whole films, all of split "train"; see `build_phantoms`.

    A film without a knee adds no knee to the dataset, a bilateral film adds two.
    """
    content = PhantomContent(
        number, prevalence, seed, films=True, extent_in_plateau_widths=extent_in_plateau_widths,
        pixel_spacing_mm=pixel_spacing_mm,
    )  # fmt: skip
    build_phantoms(directory, content, _identity(content), workers=workers, progress=progress)


def _identity(content: PhantomContent) -> str:
    return f"phantoms, renderer {RENDERER}, {asdict(content)}"


@dataclass(frozen=True)
class PaperCohort:
    """Number of knees of each kind. The defaults are the paper's (OAI, 2:1:1). Persons have two knees each.

    Attributes:
        labelled: training knees with all seven grades.
        unlabelled: training knees without grades, of persons who are not in validation or test.
        validation: labelled knees.
        test: labelled knees.
        seed: of the population, whose grades have the prevalence of the paper's Table 1.

    Raises:
        UsageError: a number is negative or odd, or all are 0.
    """

    labelled: int = 11_624
    unlabelled: int = 21_764
    validation: int = 5_812
    test: int = 5_812
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = (self.labelled, self.unlabelled, self.validation, self.test)
        if min(sizes) < 0 or any(size % 2 for size in sizes) or not sum(sizes):
            raise UsageError(
                f"A cohort of {sizes} knees was requested. Use even numbers, at least one of them above 0: every "
                "person has two knees."
            )

    def __len__(self) -> int:
        """Number of knees."""
        return self.labelled + self.unlabelled + self.validation + self.test

    @property
    def identity(self) -> str:
        """Content of `identity.txt` in a dataset of this cohort."""
        return f"paper cohort {asdict(self)}"


def build_paper_cohort(
    directory: Path, cohort: PaperCohort, *, workers: int | None = None, progress: Progress | None = None
) -> None:
    """Render a cohort as large and as labelled as the paper's; labels are readings in all splits.

    See `build_phantoms`; `workers` is the number of all cores by default.
    """
    splits = (
        ("train", True, cohort.labelled), ("train", False, cohort.unlabelled), ("val", True, cohort.validation),
        ("test", True, cohort.test),
    )  # fmt: skip
    content = PhantomContent(len(cohort), "paper", cohort.seed, readings=True, splits=splits)
    build_phantoms(directory, content, cohort.identity, workers=workers or os.cpu_count() or 1, progress=progress)

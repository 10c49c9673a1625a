"""A phantom cohort shaped like the paper's, as a store: labelled and unlabelled training knees, validation, test.

Phantoms to learn from: a store filled with them, or a data set that draws them when asked.

Each knee is a function of (seed, index) alone, so a data set of any length costs nothing and can be spread over
workers; see `kneegrade.phantom`.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from kneegrade.anatomy.geometry import ROI_PLATEAU_WIDTHS, stretch_contrast
from kneegrade.errors import UsageError
from kneegrade.phantom import FilmOptions, Prevalence, coherent_reading, render_film, render_rois, sample_knee
from kneegrade.schema import ONE_HOT_LENGTH, TARGETS
from kneegrade.training.dataset import DATASET_PLATEAU_WIDTHS, DATASET_PX, PENDING, DatasetWriter, crop_knee, encode
from kneegrade.training.parallel import spread

FILM_STORE_MM = 0.35


def one_hot(grades: Mapping[str, int]) -> NDArray[np.float32]:
    """(29,) seven grades, by name, in the layout of the schema."""
    target = np.zeros(ONE_HOT_LENGTH, dtype=np.float32)
    for grade in TARGETS:
        target[grade.offset + grades[grade.name]] = 1
    return target


class PhantomRois(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Regions of synthetic knees, drawn when asked for.

    Item i is (region (1, S, S) float32 in [0, 1], level, lateral left, contrast stretched, as networks see it;
    landmarks (74, 2) float32 in its pixels; grades (29,) float32 one-hot). Random augmentation is left to the caller.

    Args:
        seed: of the population.
        number: length of the data set.
        prevalence: population of the grades.
        size_px: S.
        widths: plateau widths that a region spans.

    Example:
        >>> loader = torch.utils.data.DataLoader(PhantomRois(1, 4, size_px=64), batch_size=2)
        >>> [tuple(part.shape) for part in next(iter(loader))]
        [(2, 1, 64, 64), (2, 74, 2), (2, 29)]
    """

    def __init__(
        self, seed: int, number: int, prevalence: Prevalence = "natural", *, size_px: int = 320,
        widths: float = ROI_PLATEAU_WIDTHS,
    ) -> None:  # fmt: skip
        self.seed, self.number, self.prevalence = seed, number, prevalence
        self.size_px, self.widths = size_px, widths

    def __len__(self) -> int:
        """Number of knees."""
        return self.number

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw knee `index`."""
        if not 0 <= index < self.number:
            raise IndexError(index)
        knee = sample_knee(self.seed, index, self.prevalence)
        pixels, landmarks = render_rois([knee], self.size_px, self.widths)
        regions = pixels.unsqueeze(1)
        pixels = stretch_contrast(regions, torch.ones_like(regions, dtype=torch.bool))[0]
        return pixels, torch.from_numpy(landmarks[0]).float(), torch.from_numpy(one_hot(knee.grades))


def build_phantom_dataset(
    directory: Path, number: int, prevalence: Prevalence, seed: int, *, widths: float,
    progress: Callable[[int, int], None] | None = None,
) -> None:  # fmt: skip
    """Render `number` phantoms into the new store `directory`; all are of split "train".

    Raises:
        RecipeError: the folder exists already.
    """
    writer = DatasetWriter(directory, number)
    targets = np.zeros((number, ONE_HOT_LENGTH), dtype=np.float32)
    everywhere = np.ones((DATASET_PX, DATASET_PX), dtype=np.bool_)
    for index in range(number):
        knee = sample_knee(seed, index, prevalence)
        pixels, landmarks = render_rois([knee], DATASET_PX, widths)
        writer.put(index, encode(pixels[0].numpy(), everywhere), landmarks[0], np.ones(74, dtype=np.bool_))
        targets[index] = one_hot(knee.grades)
        if progress:
            progress(index + 1, number)
    subject = np.array([f"P{seed}-{index // 2:06d}" for index in range(number)])
    writer.close(targets, subject, np.full(number, "train"), np.full(number, "phantom"))


def build_film_dataset(
    directory: Path, number: int, prevalence: Prevalence, seed: int, *, widths: float,
    pixel_spacing_mm: float = FILM_STORE_MM, progress: Callable[[int, int], None] | None = None,
) -> None:  # fmt: skip
    """Cut the knees of `number` whole phantom films, all layouts and nuisances, into the new store `directory`.

    Films without a knee give nothing, bilateral ones two knees; all are of split "train".

    Args:
        directory: must not exist.
        number: of films.
        prevalence: population of the grades.
        seed: of the population.
        widths: plateau widths that a picture spans.
        pixel_spacing_mm: at which films are drawn; coarser than life, since the cut is coarse too.
        progress: called with (done, all).

    Raises:
        RecipeError: the folder exists already.
    """
    writer = DatasetWriter(directory, 2 * number)
    targets = np.zeros((2 * number, ONE_HOT_LENGTH), dtype=np.float32)
    for index in range(number):
        film = render_film(seed, index, FilmOptions(prevalence=prevalence, pixel_spacing_mm=pixel_spacing_mm))
        for slot, shown in enumerate(film.knees):
            writer.put(2 * index + slot, *crop_knee(film.pixels, shown.landmarks_px, widths))
            targets[2 * index + slot] = one_hot(shown.knee.grades)
        if progress:
            progress(index + 1, number)
    subject = np.array([f"P{seed}-{row // 2:06d}" for row in range(2 * number)])
    writer.close(targets, subject, np.full(2 * number, "train"), np.full(2 * number, "phantom"))


CHUNK = 64
PREVALENCE: Prevalence = "paper"
EVERYWHERE = np.ones(74, dtype=np.bool_)


@dataclass(frozen=True)
class PaperCohort:
    """How many knees of each kind; even numbers, since people have two. The defaults are the paper's (OAI, 2:1:1).

    Attributes:
        labelled: training knees with all seven grades.
        unlabelled: training knees without any; nobody of validation or test is among them.
        validation: labelled.
        test: labelled.
        seed: of the population, whose grades have the prevalence of the paper's Table 1.
    """

    labelled: int = 11_624
    unlabelled: int = 21_764
    validation: int = 5_812
    test: int = 5_812
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = (self.labelled, self.unlabelled, self.validation, self.test)
        if min(sizes) < 0 or any(size % 2 for size in sizes) or not sum(sizes):
            raise UsageError(f"A cohort of {sizes} knees was asked for; even numbers are expected.")

    def __len__(self) -> int:
        """Number of knees."""
        return self.labelled + self.unlabelled + self.validation + self.test

    @property
    def identity(self) -> str:
        """What a store of this cohort holds in `identity.txt`."""
        return f"paper cohort {asdict(self)}"

    def splits(self) -> NDArray[np.str_]:
        """(N,) split of every knee, in the order of the store."""
        return np.repeat(["train", "val", "test"], [self.labelled + self.unlabelled, self.validation, self.test])


def build_paper_cohort(
    directory: Path, cohort: PaperCohort, *, workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:  # fmt: skip
    """Render a cohort into the new store `directory`; a second call goes on where the first was stopped.

    Labels are readings (`coherent_reading`), in all splits.

    Args:
        directory: must not exist.
        cohort: what to draw.
        workers: processes; all cores by default.
        progress: called with (done, all).

    Raises:
        RecipeError: the folder exists already.
    """
    number = len(cohort)
    writer = DatasetWriter(directory, number, identity=cohort.identity)
    pending = set(writer.rows(PENDING).tolist())
    chunks = (range(start, min(start + CHUNK, number)) for start in range(0, number, CHUNK))
    left = [chunk for chunk in chunks if pending.intersection(chunk)]
    for chunk, pictures in spread(partial(_pictures, cohort.seed), left, workers or os.cpu_count() or 1):
        for row, (picture, landmarks) in zip(chunk, pictures, strict=True):
            writer.put(row, picture, landmarks, EVERYWHERE)
            pending.discard(row)
        writer.flush()
        if progress:
            progress(number - len(pending), number)
    subject = np.array([f"P{cohort.seed}-{index // 2:06d}" for index in range(number)])
    writer.close(_targets(cohort), subject, cohort.splits(), np.full(number, "phantom"))


def _pictures(seed: int, indices: range) -> list[tuple[NDArray[np.uint8], NDArray[np.float64]]]:
    """Store picture (384, 384) and landmarks (74, 2) of every knee."""
    inside = np.ones((DATASET_PX, DATASET_PX), dtype=np.bool_)
    drawn = (
        render_rois([sample_knee(seed, index, PREVALENCE)], DATASET_PX, DATASET_PLATEAU_WIDTHS) for index in indices
    )
    return [(encode(pixels[0].numpy(), inside), landmarks[0]) for pixels, landmarks in drawn]


def _targets(cohort: PaperCohort) -> NDArray[np.float32]:
    """(N, 29) one-hot readings, NaN for the unlabelled knees."""
    targets = np.full((len(cohort), ONE_HOT_LENGTH), np.nan, dtype=np.float32)
    for index in range(len(cohort)):
        if not cohort.labelled <= index < cohort.labelled + cohort.unlabelled:
            knee = sample_knee(cohort.seed, index, PREVALENCE)
            read = coherent_reading(knee.grades, cohort.seed, index, PREVALENCE)
            targets[index] = one_hot(read)
    return targets

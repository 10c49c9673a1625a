"""A phantom cohort shaped like the paper's, as a store: labelled and unlabelled training knees, validation, test."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kneegrade.errors import UsageError
from kneegrade.learning.phantoms import one_hot
from kneegrade.learning.spreading import spread
from kneegrade.learning.store import STORE_PX, STORE_WIDTHS, encode
from kneegrade.learning.store_writer import PENDING, StoreWriter
from kneegrade.phantom import Prevalence, coherent_reading, render_rois, sample_knee
from kneegrade.schema import ONE_HOT_LENGTH

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
    writer = StoreWriter(directory, number, identity=cohort.identity)
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
    inside = np.ones((STORE_PX, STORE_PX), dtype=np.bool_)
    drawn = (render_rois([sample_knee(seed, index, PREVALENCE)], STORE_PX, STORE_WIDTHS) for index in indices)
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

"""The schema of a landmark detector's recipe. Unknown keys are errors."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from kneegrade.training.config import Augmentation, Section


class NetworkTraining(Section):
    """Training of one of the detector's networks.

    Attributes:
        steps: number of optimiser steps; with 0 steps the network is not trained.
        batch_size: number of images in a batch.
        learning_rate: peak learning rate.
        weight_decay: weight decay.
        ema: decay of the exponential moving average of the weights.
    """

    steps: int = Field(ge=0)
    batch_size: int = Field(gt=1)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    ema: float = Field(0.995, gt=0, lt=1)


class DetectorRecipe(Section):
    """A landmark detector's run; `kind: detector` distinguishes it from a grader's recipe.

    Attributes:
        kind: "detector".
        name: name of the weights.
        licence: licence of the weights, written into their description.
        attribution: sources and authors of the training data, written into the description of the weights.
        datasets: folders of datasets with knees for the coarse and the fine landmark network.
        films: manifests of whole films with landmarks, for the knee localizer.
        film_views: number of training scenes made from each film.
        phantom_scenes: number of phantom films for the knee localizer.
        composed_scenes: number of scenes of one or two real knees on an empty film, for the knee localizer.
        start: weights file of the detector to start from; null: random initial weights.
        knee_localizer: training of the knee localizer.
        coarse: training of the coarse landmark network.
        fine: training of the fine landmark network.
        coarse_augmentation: augmentation for the coarse landmark network.
        fine_augmentation: augmentation for the fine landmark network.
        bf16: true: run the forward pass under bfloat16 autocast.
        seed: seed of initial weights, order of the images and augmentation.
    """

    kind: Literal["detector"]
    name: str
    licence: str | None = None
    attribution: tuple[str, ...] = ()
    datasets: tuple[Path, ...] = Field(min_length=1)
    films: tuple[Path, ...] = ()
    film_views: int = Field(20, ge=1)
    phantom_scenes: int = Field(3000, ge=0)
    composed_scenes: int = Field(5000, ge=0)
    start: Path | None = None
    knee_localizer: NetworkTraining
    coarse: NetworkTraining
    fine: NetworkTraining
    coarse_augmentation: Augmentation = Augmentation()
    fine_augmentation: Augmentation = Augmentation()
    bf16: bool = True
    seed: int = 0

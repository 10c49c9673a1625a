"""The schema of recipes: everything that a training run depends on, in one YAML file.

`load_recipe(path, ["train.epochs=5"])` reads a recipe and replaces single values. Unknown keys are errors.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kneegrade.errors import RecipeError
from kneegrade.network.model import Heads, ModelConfig, Pooling
from kneegrade.network.resnet import InputNormalization


class Section(BaseModel):
    """Base of the sections of a recipe: immutable, unknown keys forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """Knees of a grader's run.

    Attributes:
        datasets: directories written by `kneegrade dataset` or `kneegrade phantom --dataset`.
        calibration_share: share of the training subjects that is held out for calibration and model selection. null:
            the knees of split "val" are used instead, and all of "train" is trained on.
        labelled_share: share of the labelled training subjects whose labels are used; the others join the unlabelled
            knees. Subjects are stratified by severity, and a smaller share is a subset of a larger one.
        unlabelled: whether to train on knees without labels (with the coherence losses).
        test_split: split on which the finished network is scored; nothing is selected on it.
        split_seed: seed of calibration and labelled shares; independent of the run's seed, so that runs are comparable.
    """

    datasets: tuple[Path, ...] = Field(min_length=1)
    calibration_share: float | None = Field(0.06, gt=0, lt=0.5)
    labelled_share: float = Field(1.0, gt=0, le=1)
    unlabelled: bool = True
    test_split: str = "test"
    split_seed: int = 0


class Model(Section):
    """The grading network: the fields of `ModelConfig`, and its initial weights.

    Attributes:
        init: initial weights of the trunk, or null for random ones. A safetensors file, either the tensors of a trunk
            under torchvision's names or the `weights.safetensors` of a run.
        input_normalization: null means that in the description of a run's weights, or "none" for random weights. For a
            file of trunk tensors the recipe must state it (`kneegrade.training.initialization`).
    """

    trunk: Literal["resnet18", "resnet34", "resnet50"] = "resnet50"
    pooling: Pooling = "keypoints"
    stages: int = Field(3, ge=1, le=4)
    reduce: int | None = Field(None, gt=0)
    heads: Heads = "softmax"
    regression: bool = False
    roi_px: int = Field(320, ge=64, multiple_of=16)
    init: Path | None = None
    input_normalization: InputNormalization | None = None

    def config_with(self, input_normalization: InputNormalization) -> ModelConfig:
        """The configuration of the network with a given input normalization."""
        parts = self.model_dump(exclude={"init", "input_normalization"})
        return ModelConfig(**parts, input_normalization=input_normalization)


class Loss(Section):
    """The loss, Eq. 5 of the paper and its extensions.

    Attributes:
        lambda_cls: weight of the cross entropy.
        lambda_gmm: weight of the mixture's incoherence loss (Eq. 4).
        tau: temperature of Eq. 4.
        sigma: standard deviation of the noise that is added to the one-hot grades before the mixture is fitted.
        components: number K of components of the mixture.
        floor: smallest eigenvalue of the covariances; null: σ².
        lambda_joint: weight of exact coherence, −log e (`kneegrade.coherence.joint_table`).
        grades_from: grade tuples that coherence is based on: "labelled", those of the labelled training knees, as in
            the paper, or "packaged", the counts of 5,507 knees in the package.
        lambda_mse: weight of the regression heads' squared error, summed over grades.
        warmup_epochs: number of first epochs without coherence.
        prevalence_cap: largest ratio of two class weights of a grade; 1 means unweighted cross entropy.
    """

    lambda_cls: float = Field(1.0, ge=0)
    lambda_gmm: float = Field(1.0, ge=0)
    tau: float = Field(0.5, gt=0)
    sigma: float = Field(0.2, gt=0)
    components: int = Field(10, ge=1)
    floor: float | None = Field(None, gt=0)
    lambda_joint: float = Field(0.0, ge=0)
    grades_from: Literal["labelled", "packaged"] = "labelled"
    lambda_mse: float = Field(0.0, ge=0)
    warmup_epochs: int = Field(1, ge=0)
    prevalence_cap: float = Field(10.0, ge=1)

    @property
    def coherence(self) -> bool:
        """Whether any coherence loss has a positive weight."""
        return self.lambda_gmm > 0 or self.lambda_joint > 0


class Distillation(Section):
    """Soft targets from earlier networks (`kneegrade.training.distillation`).

    Attributes:
        teachers: weights of graders; the geometric mean of their predictions is used.
        share: weight of the teachers in a target; the reading has the rest.
        sources: sources whose knees get soft targets. Exact truth, as phantoms have, needs no teacher.
    """

    teachers: tuple[Path, ...] = Field(min_length=1)
    share: float = Field(0.5, gt=0, le=1)
    sources: tuple[str, ...] = Field(min_length=1)


class Augmentation(Section):
    """Random augmentation of a crop and its landmarks. Pixels are those of a 320 px crop, as in the paper.

    `log_gamma` and `shade` bound natural logarithms: of an exponent on grey values, and of a smooth field that they are
    multiplied by. `noise` and `blur_px` are the largest standard deviations, `landmark_jitter_px` is a standard
    deviation, `landmark_dropout` a probability.
    """

    translation_px: float = Field(10.0, ge=0)
    rotation_deg: float = Field(5.0, ge=0)
    scale: float = Field(0.05, ge=0, lt=1)
    log_gamma: float = Field(0.0, ge=0)
    noise: float = Field(0.0, ge=0)
    blur_px: float = Field(0.0, ge=0)
    shade: float = Field(0.0, ge=0)
    landmark_jitter_px: float = Field(0.0, ge=0)
    landmark_dropout: float = Field(0.0, ge=0, lt=1)


class Train(Section):
    """Optimiser and loop of a grader's run; the defaults are the paper's.

    Attributes:
        batch_size: labelled knees in a batch. Several processes divide a batch among them.
        unlabelled_batch_size: unlabelled knees in a batch, in addition, where coherence is trained on them. The paper
            gives one number, 48, for the batch.
        steps_per_epoch: optimiser steps in an epoch; null: one pass over the labelled knees.
        learning_rate: peak learning rate of the trunk.
        frozen_stages: if positive, the trunk's stem and as many stages keep their weights, but not the running
            statistics of their normalisation. A pretrained trunk changes little there; a step costs a quarter less.
        head_rate: learning rate of the heads as a multiple of the trunk's.
        schedule: "paper" halves the rate after epochs 10 and 30 of 60 (after a sixth and a half of any other number);
            "cosine" warms up over the first 3 % and falls to zero.
        clip_norm: largest norm of the gradient; null for no clipping.
        ema: decay of the exponential moving average of the weights; null for none.
        seed: of initial weights, order of the knees and augmentation.
        evaluate_epochs: epochs between two evaluations on the calibration knees.
    """

    epochs: int = Field(60, ge=1)
    batch_size: int = Field(48, ge=2)
    unlabelled_batch_size: int = Field(48, ge=1)
    steps_per_epoch: int | None = Field(None, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    frozen_stages: int = Field(0, ge=0, le=3)
    head_rate: float = Field(1.0, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    optimiser: Literal["adam", "adamw"] = "adam"
    schedule: Literal["paper", "cosine"] = "paper"
    clip_norm: float | None = Field(None, gt=0)
    ema: float | None = Field(None, gt=0, lt=1)
    bf16: bool = True
    seed: int = 0
    checkpoint_minutes: float = Field(5.0, gt=0)
    evaluate_epochs: int = Field(1, ge=1)


class Recipe(Section):
    """A grader's run.

    `name` is that of the weights and of the row in result tables. `licence`, `attribution` and `learnt_from` (a
    sentence on the training data, for reports) are written into the description of the weights.
    """

    name: str
    licence: str | None = None
    attribution: tuple[str, ...] = ()
    learnt_from: str | None = None
    data: Data
    model: Model = Model()
    loss: Loss = Loss()
    augmentation: Augmentation = Augmentation()
    train: Train = Train()
    distillation: Distillation | None = None

    @model_validator(mode="after")
    def _regression_heads_have_a_loss(self) -> "Recipe":
        if self.model.regression != (self.loss.lambda_mse > 0):
            raise ValueError("model.regression and a positive loss.lambda_mse require each other")
        return self


class NetworkTraining(Section):
    """Training of one of the detector's networks: steps, batch, peak learning rate, moving average."""

    steps: int = Field(ge=0)
    batch_size: int = Field(gt=1)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    ema: float = Field(0.995, gt=0, lt=1)


class DetectorRecipe(Section):
    """A landmark detector's run; `kind: detector` distinguishes it from a grader's recipe.

    Attributes:
        datasets: knees for the coarse and the fine landmark network.
        films: manifests of whole films with landmarks, for the knee localizer.
        film_views: number of scenes made of each film.
        phantom_scenes: number of phantom films for the knee localizer.
        composed_scenes: number of scenes of one or two real knees on an empty film, for the knee localizer.
        start: weights of a detector to start from, or null for random initial weights.
        knee_localizer: training of the knee localizer; a network of 0 steps is not trained. `coarse` and `fine` are
            the two landmark networks.
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


RENAMED_KEYS: dict[type[Section], tuple[tuple[str, str, str], ...]] = {  # schema → (section, old key, new key)
    Recipe: (("data", "stores", "datasets"), ("", "teaching", "distillation")),
    DetectorRecipe: (("", "stores", "datasets"), ("", "finder", "knee_localizer")),
}


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> "Recipe | DetectorRecipe":
    """The recipe in a YAML file, a `DetectorRecipe` if it contains `kind: detector`.

    `overrides`, `section.key=value`, replace single values.

    Raises:
        RecipeError: the file is missing or is not YAML, or a key or value does not fit the schema.
    """
    try:
        tree: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"The recipe {path} cannot be read as YAML: {type(error).__name__}.") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"The recipe {path} is not a mapping of sections; recipes/ has examples.")
    for setting in overrides:
        override(tree, setting)
    schema: type[Recipe | DetectorRecipe] = DetectorRecipe if tree.get("kind") == "detector" else Recipe
    for section, old, new in RENAMED_KEYS[schema]:
        mapping = tree.get(section) if section else tree
        if isinstance(mapping, dict) and old in mapping:
            prefix = f"{section}." if section else ""
            raise RecipeError(f"{path.name}: {prefix}{old} is now {prefix}{new}.")
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        errors = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RecipeError(f"The recipe {path.name} does not fit its schema: {errors}.") from error


def override(tree: dict[str, Any], setting: str) -> None:
    """Set one value of nested mappings, from `section.key=value` with the value in YAML.

    Raises:
        RecipeError: the setting is not of that form, a section is a value, or the value is not YAML.
    """
    keys, equals, value = setting.partition("=")
    if not equals:
        raise RecipeError(f"{setting!r} is not of the form section.key=value.")
    *parents, last = keys.split(".")
    for key in parents:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise RecipeError(f"{setting!r}: {key} is a value, not a section.")
    try:
        tree[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"{setting!r}: the value is not YAML.") from error

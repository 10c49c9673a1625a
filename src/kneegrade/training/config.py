"""The schema of a recipe: everything that a training run depends on, in one YAML file.

Unknown keys are errors. `load_recipe(path, ["train.epochs=5"])` overrides single values.
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
    """A part of a recipe; frozen, and strict about keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """Which knees are learnt from.

    Attributes:
        stores: folders made by `kneegrade store` or `kneegrade phantom --store`.
        calibration_share: share of training subjects kept out of training for calibration and for choosing; null: the
            knees of split "val" serve, and all of "train" is trained on.
        labelled_share: share of the labelled training knees whose labels are used; the others join the unlabelled
            ones. By subject, alike in severity, and a smaller share lies within a larger one.
        unlabelled: whether knees without labels are learnt from (by coherence).
        test_split: what the finished network is scored on, nothing chosen on it.
        split_seed: of calibration and labelled shares; apart from the run's, so that runs can be compared.
    """

    stores: tuple[Path, ...] = Field(min_length=1)
    calibration_share: float | None = Field(0.06, gt=0, lt=0.5)
    labelled_share: float = Field(1.0, gt=0, le=1)
    unlabelled: bool = True
    test_split: str = "test"
    split_seed: int = 0


class Model(Section):
    """The network (`ModelConfig`), and `init`: where its trunk starts, or null for a random start.

    `init` is a safetensors file, either of torchvision-named trunk tensors or a run's `weights.safetensors`.
    `input_normalization` null takes what the description beside a run's weights says, and "none" for a random start; a
    file of trunk tensors has no description, so the recipe must say what its tensors were trained with
    (`kneegrade.training.train_grader`).
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
        """What the network is made of, once it is known what its trunk does to the input."""
        parts = self.model_dump(exclude={"init", "input_normalization"})
        return ModelConfig(**parts, input_normalization=input_normalization)


class Loss(Section):
    """Eq. 5 and its parts, and what goes past it.

    Attributes:
        lambda_cls: weight of the cross entropy.
        lambda_gmm: weight of the mixture's incoherence loss (Eq. 4).
        tau: temperature of Eq. 4.
        sigma: of the noise on the one-hot grades that the mixture is fitted on, K = `components`.
        floor: least eigenvalue of its covariances; null: σ².
        lambda_joint: weight of exact coherence, −log e (see `kneegrade.coherence.joint_table`).
        grades_from: whose joint grades coherence is made of: the labelled training knees, as in the paper, or the
            packaged counts of 5,507 knees.
        lambda_mse: weight of the regression heads' squared error, summed over grades.
        warmup_epochs: first epochs without coherence.
        prevalence_cap: caps the class weights; 1 means unweighted cross entropy.
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
        """Whether any coherence is learnt."""
        return self.lambda_gmm > 0 or self.lambda_joint > 0


class Distillation(Section):
    """Earlier networks' part in the labels of training knees (`kneegrade.training.distillation`).

    Attributes:
        teachers: weights of graders; the geometric mean of what they claim counts.
        share: of a label that the teachers decide.
        sources: cohorts that are taught. Exact truth, as phantoms have, needs no teacher.
    """

    teachers: tuple[Path, ...] = Field(min_length=1)
    share: float = Field(0.5, gt=0, le=1)
    sources: tuple[str, ...] = Field(min_length=1)


class Augmentation(Section):
    """Random changes of a region and its landmarks; pixels are those of a 320 px region, as in the paper.

    `log_gamma` and `shade` are natural logarithms: of an exponent on grey values, and of a smooth field they are
    multiplied with; `noise` and `blur_px` are the largest standard deviations.
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
    """The optimiser and the loop; defaults are the paper's.

    `schedule` "paper" halves the rate after epochs 10 and 30 of 60 (after a sixth and a half of any other number);
    "cosine" warms up over the first 3 % and falls to zero. A batch holds `batch_size` labelled knees and, where
    coherence learns from them, `unlabelled_batch_size` without labels: the paper's 48 says nothing of the latter. An
    epoch is a pass over the labelled knees, or `steps_per_epoch`. Over several processes a batch is shared out.
    `frozen_stages` keeps the trunk's stem and as many stages as they were (0: nothing is frozen), but for the running
    statistics of their normalisation: a well-begun trunk learns little there, and a step is a quarter cheaper.
    """

    epochs: int = Field(60, ge=1)
    batch_size: int = Field(48, ge=2)
    unlabelled_batch_size: int = Field(48, ge=1)
    steps_per_epoch: int | None = Field(None, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    frozen_stages: int = Field(0, ge=0, le=3)
    head_rate: float = Field(1.0, gt=0, description="the heads' learning rate as a multiple of the trunk's")
    weight_decay: float = Field(1e-2, ge=0)
    optimiser: Literal["adam", "adamw"] = "adam"
    schedule: Literal["paper", "cosine"] = "paper"
    clip_norm: float | None = Field(None, gt=0)
    ema: float | None = Field(None, gt=0, lt=1)
    bf16: bool = True
    seed: int = 0
    checkpoint_minutes: float = Field(5.0, gt=0)
    evaluate_epochs: int = Field(1, ge=1, description="epochs between looks at the calibration knees")


class Recipe(Section):
    """A whole run.

    `licence`, `attribution` and `learnt_from`, a sentence for reports, go into the description of the weights; `name`
    is its row in tables.
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
    teaching: Distillation | None = None

    @model_validator(mode="after")
    def _regression_is_learnt(self) -> "Recipe":
        if self.model.regression != (self.loss.lambda_mse > 0):
            raise ValueError("model.regression and a positive loss.lambda_mse go together")
        return self


class NetworkTraining(Section):
    """Steps, batch, rate and moving average of one of the three networks."""

    steps: int = Field(ge=0)
    batch_size: int = Field(gt=1)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    ema: float = Field(0.995, gt=0, lt=1)


class DetectorRecipe(Section):
    """A detector's run; `kind` tells it from a grader's recipe.

    Attributes:
        stores: knees that the two locators learn from.
        films: manifests of whole films with landmarks, which the finder learns from.
        film_views: how many scenes are made of each film.
        phantom_scenes: phantom films for the finder.
        composed_scenes: scenes of the stores' real knees, alone or in pairs on an empty film, for the finder.
        start: safetensors weights of a detector to go on from, or null for a random start.
    """

    kind: Literal["detector"]
    name: str
    licence: str | None = None
    attribution: tuple[str, ...] = ()
    stores: tuple[Path, ...] = Field(min_length=1)
    films: tuple[Path, ...] = ()
    film_views: int = Field(20, ge=1)
    phantom_scenes: int = Field(3000, ge=0)
    composed_scenes: int = Field(5000, ge=0)
    start: Path | None = None
    finder: NetworkTraining
    coarse: NetworkTraining
    fine: NetworkTraining
    coarse_augmentation: Augmentation = Augmentation()
    fine_augmentation: Augmentation = Augmentation()
    bf16: bool = True
    seed: int = 0


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> "Recipe | DetectorRecipe":
    """The recipe in the YAML file `path`, a detector's where `kind: detector` stands in it.

    Args:
        path: the YAML file.
        overrides: `section.key=value` strings that replace single values.

    Raises:
        RecipeError: the file is missing, is not YAML, or a key or value is not in the schema.
    """
    try:
        tree: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"The recipe {path} cannot be read: {type(error).__name__}.") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"The recipe {path} is not a mapping of sections.")
    for setting in overrides:
        override(tree, setting)
    try:
        return (DetectorRecipe if tree.get("kind") == "detector" else Recipe).model_validate(tree)
    except ValidationError as error:
        raise RecipeError(f"The recipe {path.name} does not fit its schema: {complaints(error)}.") from error


def complaints(error: ValidationError) -> str:
    """What a schema has against a tree, in one line."""
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())


def override(tree: dict[str, Any], setting: str) -> None:
    """Set one value of a tree, as `section.key=value` (YAML) says.

    Raises:
        RecipeError: it is not of that form, goes through a value, or its value is not YAML.
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

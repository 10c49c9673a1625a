"""The schema of a grader's recipe: everything that a training run depends on. Unknown keys are errors.

`training.recipe_file` reads recipes from YAML. A landmark detector's recipe: `training.detector_recipe`.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kneegrade.network.input_normalization import InputNormalization
from kneegrade.network.model_config import Heads, ModelConfig, Pooling


class Section(BaseModel):
    """Base of the sections of a recipe: immutable, unknown keys forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """Knees of a grader's run.

    Attributes:
        datasets: folders written by `kneegrade dataset` or `kneegrade phantom --dataset`.
        calibration_share: share of the training subjects that is held out for calibration and model selection. null:
            the knees of split "val" are held out instead, and training uses all knees of split "train".
        labelled_share: share of the labelled training subjects whose labels are used; the others join the unlabelled
            knees. Subjects are stratified by severity, and a smaller share is a subset of a larger one.
        unlabelled: true: also train on knees without labels, with the coherence losses.
        test_split: split on which the finished network is scored; it is not used for model selection.
        split_seed: seed of the calibration and labelled shares; independent of the run's seed, so that runs with
            different seeds use the same subjects.
    """

    datasets: tuple[Path, ...] = Field(min_length=1)
    calibration_share: float | None = Field(0.06, gt=0, lt=0.5)
    labelled_share: float = Field(1.0, gt=0, le=1)
    unlabelled: bool = True
    test_split: str = "test"
    split_seed: int = 0


class Model(Section):
    """The grading network and its initial weights.

    The keys are the fields of `kneegrade.network.model.ModelConfig`, and `init`.

    Attributes:
        trunk: "resnet18", "resnet34", "resnet50", "efficientnet_lite0" or "efficientnet_lite2".
        pooling: where the feature map is read. "keypoints": at the 74 landmarks. "global": its mean over the crop.
            "keypoints+global": both. "siamese": the means of a lateral patch and of a mirrored medial patch.
        stages: number of stages of the trunk; 3 ends at stride 16 (layer3 of a ResNet), 4 at stride 32 (layer4). An
            EfficientNet-Lite needs 3 or 4.
        reduce: number of channels after a linear reduction with ReLU; null: the heads read all channels. An
            EfficientNet-Lite with "keypoints+global" pooling needs a number.
        heads: "softmax", or "ordinal" for conditional logits (CORN).
        regression: true: each grade has a second, linear head that predicts it as a number.
        roi_px: side of the network's input in pixels.
        init: safetensors file with the initial weights of the trunk: tensors with the names of torchvision (ResNet) or
            timm (EfficientNet-Lite), or the `weights.safetensors` of a run. null: random initial weights.
        input_normalization: normalization of the grey values, "none", "imagenet", "symmetric" or "per_image". null:
            that of the run whose weights are in `init`, or "none" for random initial weights. It must be given if
            `init` is a file of trunk tensors.
        mask_outside: true: pixels outside the film are left out of the mean and of the normalization of an image.
    """

    trunk: Literal["resnet18", "resnet34", "resnet50", "efficientnet_lite0", "efficientnet_lite2"] = "resnet50"
    pooling: Pooling = "keypoints"
    stages: int = Field(3, ge=1, le=4)
    reduce: int | None = Field(None, gt=0)
    heads: Heads = "softmax"
    regression: bool = False
    roi_px: int = Field(320, ge=64, multiple_of=16)
    init: Path | None = None
    input_normalization: InputNormalization | None = None
    mask_outside: bool = False

    @model_validator(mode="after")
    def _network_exists(self) -> "Model":
        self.config_with(self.input_normalization or "none")
        return self

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
        sigma: standard deviation σ of the noise that is added to the one-hot grades before the mixture is fitted.
        components: number K of components of the mixture.
        floor: smallest eigenvalue of the covariances; null: σ².
        lambda_joint: weight of the exact coherence loss (`kneegrade.coherence.joint_table`).
        grades_from: origin of the grade tuples for the coherence losses. "labelled": the labelled training knees, as in
            the paper. "packaged": the counts of 5,507 OAI knees in the package.
        lambda_mse: weight of the regression heads' squared error, summed over grades.
        warmup_epochs: number of epochs at the start without the coherence losses.
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
        teachers: weights files of graders; the geometric mean of their predictions is the teacher's prediction.
        share: weight of the teacher's prediction in a soft target; the label has the remaining weight.
        sources: values of the manifest's column `source`; knees of these sources get soft targets.
    """

    teachers: tuple[Path, ...] = Field(min_length=1)
    share: float = Field(0.5, gt=0, le=1)
    sources: tuple[str, ...] = Field(min_length=1)


class Augmentation(Section):
    """Random augmentation of a crop and its landmarks. Pixels are those of a 320 px crop, as in the paper.

    Attributes:
        translation_px: largest shift along each axis, in pixels.
        rotation_deg: largest rotation, in degrees.
        scale: largest relative change of size.
        anisotropy: largest relative difference of the sizes along x and y.
        log_gamma: largest absolute natural logarithm of the exponent (gamma) that is applied to the grey values.
        noise: largest standard deviation of Gaussian noise on the grey values, which lie between 0 and 1.
        blur_px: largest standard deviation of a Gaussian blur, in pixels.
        shade: largest absolute natural logarithm of the smooth field that the grey values are multiplied by.
        landmark_jitter_px: standard deviation of the noise on the landmarks, in pixels.
        landmark_dropout: probability that a landmark is hidden.
        styles: probability that a crop gets a processing style (`kneegrade.imaging.styles`).
        style_strength: strength of the styles; 0 changes nothing, 1 uses the full ranges.
    """

    translation_px: float = Field(10.0, ge=0)
    rotation_deg: float = Field(5.0, ge=0)
    scale: float = Field(0.05, ge=0, lt=1)
    anisotropy: float = Field(0.0, ge=0, lt=0.5)
    log_gamma: float = Field(0.0, ge=0)
    noise: float = Field(0.0, ge=0)
    blur_px: float = Field(0.0, ge=0)
    shade: float = Field(0.0, ge=0)
    landmark_jitter_px: float = Field(0.0, ge=0)
    landmark_dropout: float = Field(0.0, ge=0, lt=1)
    styles: float = Field(0.0, ge=0, le=1)
    style_strength: float = Field(1.0, ge=0, le=1)


class Train(Section):
    """Optimiser and training loop of a grader's run; the defaults are the paper's.

    Attributes:
        epochs: number of epochs.
        batch_size: number of labelled knees in a batch. Several processes share a batch.
        unlabelled_batch_size: number of unlabelled knees that are added to a batch if coherence losses are used. The
            paper gives one number, 48, for the batch.
        steps_per_epoch: number of optimiser steps in an epoch; null: one pass over the labelled knees.
        learning_rate: peak learning rate of the trunk.
        frozen_stages: number of stages of the trunk whose weights are frozen, together with the stem; 0 freezes
            nothing. Of a ResNet these are layer1, layer2 and layer3, at most as many as `model.stages`; of an
            EfficientNet-Lite the first of its seven groups of blocks, so 3 reaches stride 8. The running statistics of
            their batch normalization are still updated.
        head_rate: learning rate of the heads as a multiple of the trunk's.
        weight_decay: weight decay.
        optimiser: "adam" or "adamw".
        schedule: "paper" halves the rate after epochs 10 and 30 of 60 (after a sixth and a half of any other number);
            "cosine" warms up over the first 3 % and falls to zero.
        clip_norm: largest norm of the gradient; null: no clipping.
        ema: decay of the exponential moving average of the weights; null: no average.
        bf16: true: run the forward pass under bfloat16 autocast.
        seed: seed of initial weights, order of the knees and augmentation.
        checkpoint_minutes: longest time between two checkpoints, in minutes.
        evaluate_epochs: number of epochs between two evaluations on the calibration knees.
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

    Attributes:
        name: name of the weights, and of the row in result tables.
        licence: licence of the weights, written into their description.
        attribution: sources and authors of the training data, written into the description of the weights.
        learnt_from: one sentence about the training data, written into the description of the weights and into reports.
        data: datasets and splits.
        model: the network and its initial weights.
        loss: weights and parameters of the losses.
        augmentation: random augmentation.
        train: optimiser and training loop.
        distillation: soft targets from earlier networks; null: the labels alone.
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

    @model_validator(mode="after")
    def _frozen_stages_exist(self) -> "Recipe":
        if self.train.frozen_stages > self.model.stages:
            raise ValueError(f"train.frozen_stages is {self.train.frozen_stages}; the trunk has {self.model.stages}")
        return self

"""How adaptation to unlabelled films goes: its settings, and the changes that the student sees."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field, ValidationError

from kneegrade.errors import RecipeError
from kneegrade.learning.recipe import Augmentation, Section, complaints, override

STRONG = Augmentation(
    translation_px=12, rotation_deg=8, scale=0.08, log_gamma=0.4, noise=0.04, blur_px=2, shade=0.25,
    landmark_jitter_px=2, landmark_dropout=0.1,
)  # fmt: skip


class Adaptation(Section):
    """How adaptation goes; `--set KEY=VALUE` of `kneegrade adapt`.

    Attributes:
        steps: at most.
        batch_size: knees a step.
        learning_rate: of AdamW, constant.
        lambda_consistency: λ_c.
        lambda_gmm: of the incoherence loss.
        tau: its temperature.
        ema: the teacher's decay.
        guard_steps: steps between looks at the labelled knees.
        clip_norm: of the gradient.
        seed: of batches and changes.
    """

    steps: int = Field(200, ge=1)
    batch_size: int = Field(16, ge=2)
    learning_rate: float = Field(2e-5, gt=0)
    lambda_consistency: float = Field(1.0, ge=0)
    lambda_gmm: float = Field(0.1, ge=0)
    tau: float = Field(0.5, gt=0)
    ema: float = Field(0.98, gt=0, lt=1)
    guard_steps: int = Field(25, ge=1)
    clip_norm: float = Field(5.0, gt=0)
    seed: int = 0


def load_adaptation(overrides: Sequence[str] = ()) -> Adaptation:
    """The settings, single ones replaced by `key=value`.

    Raises:
        RecipeError: an unknown key, or a value out of range.
    """
    tree: dict[str, Any] = {}
    for setting in overrides:
        override(tree, setting)
    try:
        return Adaptation.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(f"These settings cannot be used: {complaints(error)}.") from error

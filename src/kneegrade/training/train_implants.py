"""Training of the implant network of quality control, on phantoms and real knees with and without metal.

Real knees with metal are not labelled in the available data. Therefore metal of phantoms is drawn into real images,
where it would lie in that knee, and every real image is shown without and with it. If all metal were in phantoms, the
network could tell "no metal" from "real".
"""

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kneegrade.phantom.phantom_cohort import ROI_SIZE_PX
from kneegrade.training.trainer import LoopSettings, Tensors, TrainingTask, train
from kneegrade.uncertainty import ImplantNetwork
from kneegrade.uncertainty.implant_network import IMPLANT_PX

EPOCHS, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 16, 32, 3e-3, 1e-2
MAX_SHIFT = 0.08  # of the image's side
MIN_DARKENING = 0.75  # metal takes the top of the contrast range, so the rest of the knee is darker, at most by this
MIN_BRIGHTNESS = 0.85

Array = NDArray[np.float64]


def implant_bars(phantoms: pd.DataFrame) -> list[Array]:
    """For every phantom with metal: (n, 5) ends x, y, x, y of the axes of its bars, and their half widths.

    In pixels of a 144 px image, by the similarity that maps the knee's outline (mm) to its landmarks.

    Args:
        phantoms: table of a phantom cohort with `outline_mm`, `landmarks_px` and `nuisance`.
    """
    found = []
    for outline, landmarks, nuisance in zip(
        phantoms["outline_mm"], phantoms["landmarks_px"], phantoms["nuisance"], strict=True
    ):
        implant = json.loads(nuisance)["implant"]
        if implant is None:
            continue
        mm = np.column_stack([np.reshape(outline, (-1, 2)), np.ones(len(outline) // 2)])
        to_px = np.linalg.lstsq(mm, np.reshape(landmarks, (-1, 2)), rcond=None)[0] * IMPLANT_PX / ROI_SIZE_PX
        axes = np.array([[bar["start"], bar["end"]] for bar in implant["bars"]]) @ to_px[:2] + to_px[2]
        widths = np.array([bar["half_width"] for bar in implant["bars"]]) * np.hypot(*to_px[0])
        found.append(np.column_stack([axes.reshape(-1, 4), widths]))
    return found


def draw_implant(picture: NDArray[np.uint8], bars: Array, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(144, 144) image with bars drawn into it, bright with soft edges, and the rest darkened.

    Args:
        picture: (144, 144).
        bars: (n, 5) from `implant_bars`.
        rng: draws brightness and darkening.
    """
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]].astype(np.float64)
    drawn = picture / 255 * rng.uniform(MIN_DARKENING, 1)
    for x0, y0, x1, y1, half_width in bars:
        across, down = x1 - x0, y1 - y0
        along = ((x - x0) * across + (y - y0) * down) / max(across**2 + down**2, 1e-6)
        along = along.clip(0, 1)
        distance = np.hypot(x - x0 - along * across, y - y0 - along * down)
        cover = (half_width + 0.5 - distance).clip(0, 1)
        bright = np.maximum(drawn, rng.uniform(MIN_BRIGHTNESS, 1))
        drawn = drawn * (1 - cover) + bright * cover
    return np.asarray((drawn * 255).round().astype(np.uint8))


def draw_implants(pictures: NDArray[np.uint8], bars: Sequence[Array], rng: np.random.Generator) -> NDArray[np.uint8]:
    """(N, 144, 144): every image with the metal of a randomly chosen phantom."""
    chosen = rng.integers(len(bars), size=len(pictures))
    return np.stack([draw_implant(picture, bars[pick], rng) for picture, pick in zip(pictures, chosen, strict=True)])


def fit_implant_network(pictures: NDArray[np.uint8], metal: NDArray[np.bool_], seed: int = 0) -> ImplantNetwork:
    """A trained implant network in evaluation mode, its parameters rounded to bfloat16 as in a weights file.

    Both classes have the same total weight. Trained on the CPU; 3,000 images take three minutes.

    Args:
        pictures: (N, 144, 144), N ≥ 32.
        metal: (N,) whether an image shows metal; both classes must occur.
        seed: of initial weights, order and augmentation.
    """
    task = ImplantTask(pictures, metal, seed)
    train(task)
    with torch.no_grad():
        for parameter in task.network.parameters():
            parameter.copy_(parameter.bfloat16())
    return task.network


class ImplantTask(TrainingTask):
    """The implant network; see `fit_implant_network` for the arguments. Not resumable: batches are drawn in order."""

    name = identity = "implant"
    network: ImplantNetwork

    def __init__(self, pictures: NDArray[np.uint8], metal: NDArray[np.bool_], seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = ImplantNetwork()
        self.pictures, self.truth = torch.from_numpy(pictures).unsqueeze(1), torch.from_numpy(metal).float()
        share = self.truth.mean()
        self.weight = torch.where(self.truth > 0, 0.5 / share, 0.5 / (1 - share))
        self.settings = LoopSettings(
            epochs=EPOCHS,
            steps_per_epoch=len(pictures) // BATCH_SIZE,
            learning_rate=LEARNING_RATE,
            schedule="one_cycle",
            weight_decay=WEIGHT_DECAY,
            cpu=True,
        )

    def batch(self, epoch: int, step: int) -> tuple[Tensors, Tensors]:
        """((images (B, 1, 144, 144),), (truth (B,), weights (B,))); every epoch has its own order."""
        if step == 0:
            number = self.settings.steps_per_epoch
            order = torch.randperm(len(self.pictures), generator=self.generator)
            self.order = order[: number * BATCH_SIZE].chunk(number)
        rows = self.order[step]
        images = _augment(self.pictures[rows].float() / 255, self.generator)
        return (images,), (self.truth[rows], self.weight[rows])

    def losses(self, output: Tensor, labels: Tensors, epoch: int) -> dict[str, Tensor]:
        """Weighted binary cross entropy."""
        truth, weight = labels
        return {"loss": functional.binary_cross_entropy_with_logits(output, truth, weight)}


def _augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Images shifted by whole pixels and perhaps mirrored, all in the same way, each with its own gamma."""
    most = round(MAX_SHIFT * IMPLANT_PX)
    down, right = torch.randint(0, 2 * most + 1, (2,), generator=generator).tolist()
    padded = functional.pad(pictures, (most,) * 4, mode="replicate")
    pictures = padded[..., down : down + IMPLANT_PX, right : right + IMPLANT_PX]
    gamma = torch.exp(0.8 * torch.rand(len(pictures), 1, 1, 1, generator=generator) - 0.4)
    mirrored = torch.rand(1, generator=generator) < 0.5
    return (pictures.flip(-1) if mirrored else pictures) ** gamma

"""How the metal network of the quality gate is taught: phantoms with and without, real knees without and with.

Nobody has marked metal in the real knees at hand, so it is drawn into them: every real picture is shown as it is and
with the metal of a phantom, where it would lie in that knee. Else "real" alone would tell "no metal".
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
from kneegrade.uncertainty import ImplantNetwork
from kneegrade.uncertainty.implant_network import IMPLANT_PX

EPOCHS, BATCH, RATE, DECAY = 16, 32, 3e-3, 1e-2
MOST_SHIFT = 0.08  # of the picture's side
DARKEST = 0.75  # metal takes the top of the contrast, so the rest of a knee with some is darker by this at most
LEAST_BRIGHT = 0.85

Array = NDArray[np.float64]


def implant_bars(phantoms: pd.DataFrame) -> list[Array]:
    """Of every knee with metal in a phantoms' table: (n, 5) axis' ends x, y, x, y and half width of its pieces.

    In pixels of a picture of 144 px, by the similarity that takes the knee's outline (mm) to its landmarks.
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
    """(144, 144): a picture with bars drawn in, bright with soft edges, and the rest darkened.

    Args:
        picture: (144, 144).
        bars: (n, 5) from `implant_bars`.
        rng: draws brightness and darkening.
    """
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]].astype(np.float64)
    drawn = picture / 255 * rng.uniform(DARKEST, 1)
    for x0, y0, x1, y1, half_width in bars:
        across, down = x1 - x0, y1 - y0
        along = ((x - x0) * across + (y - y0) * down) / max(across**2 + down**2, 1e-6)
        along = along.clip(0, 1)
        distance = np.hypot(x - x0 - along * across, y - y0 - along * down)
        cover = (half_width + 0.5 - distance).clip(0, 1)
        bright = np.maximum(drawn, rng.uniform(LEAST_BRIGHT, 1))
        drawn = drawn * (1 - cover) + bright * cover
    return np.asarray((drawn * 255).round().astype(np.uint8))


def fit_implant_network(pictures: NDArray[np.uint8], metal: NDArray[np.bool_], seed: int = 0) -> ImplantNetwork:
    """A network taught to tell metal, in evaluation mode, its numbers as a weights file keeps them.

    Both kinds count alike. Pictures are shifted, mirrored, and darkened or brightened at random. Three minutes for
    3,000 of them.

    Args:
        pictures: (N, 144, 144), N ≥ 32.
        metal: (N,) what they show; both kinds.
        seed: of the start, the order and the changes.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ImplantNetwork().train()
    held, truth = torch.from_numpy(pictures).unsqueeze(1), torch.from_numpy(metal).float()
    weight = torch.where(truth > 0, 0.5 / truth.mean(), 0.5 / (1 - truth.mean()))
    batches = len(held) // BATCH
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=EPOCHS * batches)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(held), generator=generator)[: batches * BATCH].chunk(batches):
            logits = network(_changed(held[rows].float() / 255, generator))
            loss = functional.binary_cross_entropy_with_logits(logits, truth[rows], weight[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.bfloat16())
    return network.eval()


def _changed(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures moved by whole pixels, together mirrored or not, each with a gamma of its own."""
    most = round(MOST_SHIFT * IMPLANT_PX)
    down, right = torch.randint(0, 2 * most + 1, (2,), generator=generator).tolist()
    padded = functional.pad(pictures, (most,) * 4, mode="replicate")
    pictures = padded[..., down : down + IMPLANT_PX, right : right + IMPLANT_PX]
    gamma = torch.exp(0.8 * torch.rand(len(pictures), 1, 1, 1, generator=generator) - 0.4)
    mirrored = torch.rand(1, generator=generator) < 0.5
    return (pictures.flip(-1) if mirrored else pictures) ** gamma


def draw_implants(pictures: NDArray[np.uint8], bars: Sequence[Array], rng: np.random.Generator) -> NDArray[np.uint8]:
    """(N, 144, 144): every picture with the metal of some phantom."""
    chosen = rng.integers(len(bars), size=len(pictures))
    return np.stack([draw_implant(picture, bars[pick], rng) for picture, pick in zip(pictures, chosen, strict=True)])

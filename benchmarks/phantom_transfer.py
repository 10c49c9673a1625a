"""How far phantoms carry: a network that saw phantoms only, scored on real knees.

    kneegrade phantom --store --number 5000 --prevalence uniform --seed 101 --output PHANTOMS
    python benchmarks/phantom_transfer.py PHANTOMS --chen CHEN_STORE [--split val]

A ResNet-18 (whole trunk, global average pooling, random start) learns the seven grades of phantoms and grades the
real crops of CHEN_STORE (`kneegrade store` of the Chen 2018 manifest), which it never saw. Prints, as JSON, the area
under the curve for KL ≥ 2 with its 95 % interval (bootstrap over people), KL's quadratic kappa, and the same on
phantoms held out.
Training crops steer the phantom; `--split val` is for the end. The network is kept in `--network FILE` if given.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from kneegrade.evaluation import agreement
from kneegrade.network.resnet import Trunk
from kneegrade.schema import ONE_HOT_LENGTH, TARGETS
from kneegrade.training.augmentation import augment_images, crop_matrices, identity_params, make_params
from kneegrade.training.config import Augmentation
from kneegrade.training.dataset import KneeDataset, load_datasets

BATCH, SIDE_PX = 48, 160
HELD_OUT = 300  # phantoms
APPEARANCE = Augmentation(translation_px=16, rotation_deg=8, scale=0.1, log_gamma=0.5, noise=0.03)


class Globally(nn.Module):
    """A trunk, the mean of its map and one linear head of all grades."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.trunk = Trunk("resnet18", stages=4)
        self.head = nn.Linear(self.trunk.channels, outputs)

    def forward(self, regions: Tensor) -> Tensor:
        """(B, 1, S, S) → (B, outputs)."""
        return self.head(self.trunk(regions).mean((2, 3)))


def regions_of(store: KneeDataset, frames: np.ndarray, rows: np.ndarray, key: int | None) -> Tensor:
    """Regions (B, 1, S, S) of some knees, changed at random under `key`, or as they are if it is None."""
    if key is None:
        changes = identity_params(len(rows))
    else:
        changes = make_params(len(rows), APPEARANCE, torch.Generator().manual_seed(key))
    matrices = crop_matrices(torch.from_numpy(frames[rows]), changes, SIDE_PX)
    return augment_images(torch.from_numpy(store.images[rows]), matrices, changes, SIDE_PX)


def train(network: nn.Module, store: KneeDataset, rows: np.ndarray, epochs: int, loss_of, seed: int = 0) -> None:
    """Fit the network to `rows` of a store; one cycle of AdamW."""
    frames = store.frames(SIDE_PX)
    rng = np.random.default_rng(seed)
    steps = epochs * (len(rows) // BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.2)
    network.train()
    for step in range(steps):
        if step % (steps // epochs) == 0:
            order = rng.permutation(rows)
        part = order[step % (steps // epochs) * BATCH :][:BATCH]
        regions = regions_of(store, frames, part, int(rng.integers(2**31))).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            output = network(regions)
        loss = loss_of(output.float(), torch.from_numpy(store.targets[part]))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.3f}", flush=True)


@torch.no_grad()
def predict(network: nn.Module, store: KneeDataset, rows: np.ndarray) -> Tensor:
    """Outputs (N, …) for `rows`, unchanged."""
    network.eval()
    frames = store.frames(SIDE_PX)
    parts = []
    for start in range(0, len(rows), 64):
        regions = regions_of(store, frames, rows[start : start + 64], None)
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(network(regions).float())
    return torch.cat(parts)


def grades_loss(output: Tensor, targets: Tensor) -> Tensor:
    """Sum over the grades of the cross entropy, KL counting three times."""
    losses = [functional.cross_entropy(output[:, t.one_hot], targets[:, t.one_hot]) for t in TARGETS]
    return losses[0] * 3 + sum(losses[1:])


def area(truth: np.ndarray, score: np.ndarray, subject: np.ndarray, rounds: int = 500) -> list[float]:
    """Area under the curve and its 95 % interval by resampling people."""
    rng = np.random.default_rng(0)
    people, member = np.unique(subject, return_inverse=True)
    draws = []
    for _ in range(rounds):
        weight = np.bincount(rng.integers(len(people), size=len(people)), minlength=len(people))[member]
        draws.append(roc_auc_score(truth, score, sample_weight=weight))
    low, high = np.percentile(draws, [2.5, 97.5])
    return [round(float(value), 4) for value in (roc_auc_score(truth, score), low, high)]


def scores(network: nn.Module, store: KneeDataset, rows: np.ndarray) -> dict[str, object]:
    """How well KL is told on `rows`."""
    kl = TARGETS[0]
    probabilities = predict(network, store, rows)[:, kl.one_hot].softmax(1).numpy()
    truth = store.targets[rows][:, kl.one_hot].argmax(1)
    at_least_two = probabilities[:, 2:].sum(1)
    guess = np.rint(probabilities @ np.arange(5)).astype(int)
    return {
        "knees": len(rows),
        "auc_kl2": area(truth >= 2, at_least_two, store.subject[rows]),
        "kl_expected_grade": agreement(truth, guess, 5),
        "auc_kl2_by_grade": {
            f"{low} against {high}": round(float(roc_auc_score((truth == high)[pair], at_least_two[pair])), 3)
            for low, high in ((0, 2), (1, 2), (0, 3), (0, 4))
            if (pair := (truth == low) | (truth == high)).any()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phantoms", type=Path, nargs="+")
    parser.add_argument("--chen", type=Path, required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--network", type=Path)
    options = parser.parse_args()
    phantoms = load_datasets(tuple(options.phantoms))
    torch.manual_seed(0)
    network = Globally(ONE_HOT_LENGTH).to(memory_format=torch.channels_last)
    if options.network and options.network.is_file():
        network.load_state_dict(torch.load(options.network, weights_only=True))
    else:
        train(network, phantoms, np.arange(len(phantoms) - HELD_OUT), options.epochs, grades_loss)
        if options.network:
            torch.save(network.state_dict(), options.network)
    result = {"phantoms": scores(network, phantoms, np.arange(len(phantoms))[-HELD_OUT:])}
    real = load_datasets((options.chen,))
    result["real"] = scores(network, real, np.flatnonzero(real.split == options.split))
    print(json.dumps({"split": options.split, "trained_on": len(phantoms) - HELD_OUT, **result}, indent=1))


if __name__ == "__main__":
    main()

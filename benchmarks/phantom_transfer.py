"""Transfer from phantoms to real knees: a network trained only on phantoms, evaluated on real crops.

    kneegrade phantom --dataset --number 5000 --prevalence uniform --seed 101 --output PHANTOMS
    python benchmarks/phantom_transfer.py PHANTOMS --chen DATASET [--split val]

A ResNet-18 (all stages, global average pooling, random initialization) is trained on the seven grades of phantoms and
evaluated on the real crops of DATASET (`kneegrade dataset` of the Chen 2018 manifest). Prints JSON: the area under the
ROC curve for KL ≥ 2 with its 95 % interval (bootstrap over people), metrics of KL, and the same on held-out phantoms.

Use the training split while developing the phantom, and `--split val` only for the final result. `--network FILE` saves
the network, or loads it if the file exists.
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


class GlobalNetwork(nn.Module):
    """A trunk, global average pooling and one linear head for all outputs."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.trunk = Trunk("resnet18", stages=4)
        self.head = nn.Linear(self.trunk.levels[-1].channels, outputs)

    def forward(self, crops: Tensor) -> Tensor:
        """(B, 1, S, S) → (B, outputs)."""
        return self.head(self.trunk(crops).mean((2, 3)))


def crops_of(dataset: KneeDataset, frames: np.ndarray, rows: np.ndarray, key: int | None) -> Tensor:
    """(B, 1, S, S) crops of the knees `rows`, augmented with the seed `key`, or unchanged if it is None."""
    if key is None:
        params = identity_params(len(rows))
    else:
        params = make_params(len(rows), APPEARANCE, torch.Generator().manual_seed(key))
    matrices = crop_matrices(torch.from_numpy(frames[rows]), params, SIDE_PX)
    return augment_images(torch.from_numpy(dataset.images[rows]), matrices, params, SIDE_PX)


def train(network: nn.Module, dataset: KneeDataset, rows: np.ndarray, epochs: int, loss_of, seed: int = 0) -> None:
    """Trains the network on `rows` of a dataset with AdamW and a one-cycle schedule."""
    frames = dataset.frames(SIDE_PX)
    rng = np.random.default_rng(seed)
    steps = epochs * (len(rows) // BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.2)
    network.train()
    for step in range(steps):
        if step % (steps // epochs) == 0:
            order = rng.permutation(rows)
        part = order[step % (steps // epochs) * BATCH :][:BATCH]
        crops = crops_of(dataset, frames, part, int(rng.integers(2**31))).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            output = network(crops)
        loss = loss_of(output.float(), torch.from_numpy(dataset.targets[part]))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.3f}", flush=True)


@torch.no_grad()
def predict(network: nn.Module, dataset: KneeDataset, rows: np.ndarray) -> Tensor:
    """(N, …) outputs for `rows` without augmentation."""
    network.eval()
    frames = dataset.frames(SIDE_PX)
    parts = []
    for start in range(0, len(rows), 64):
        crops = crops_of(dataset, frames, rows[start : start + 64], None)
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(network(crops).float())
    return torch.cat(parts)


def grades_loss(output: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy summed over the grades; KL has weight 3."""
    losses = [functional.cross_entropy(output[:, t.one_hot], targets[:, t.one_hot]) for t in TARGETS]
    return losses[0] * 3 + sum(losses[1:])


def auc_with_interval(truth: np.ndarray, score: np.ndarray, subject: np.ndarray, rounds: int = 500) -> list[float]:
    """Area under the ROC curve with its 95 % bootstrap interval over people."""
    rng = np.random.default_rng(0)
    people, member = np.unique(subject, return_inverse=True)
    draws = []
    for _ in range(rounds):
        weight = np.bincount(rng.integers(len(people), size=len(people)), minlength=len(people))[member]
        draws.append(roc_auc_score(truth, score, sample_weight=weight))
    low, high = np.percentile(draws, [2.5, 97.5])
    return [round(float(value), 4) for value in (roc_auc_score(truth, score), low, high)]


def scores(network: nn.Module, dataset: KneeDataset, rows: np.ndarray) -> dict[str, object]:
    """Metrics of KL on `rows`."""
    kl = TARGETS[0]
    probabilities = predict(network, dataset, rows)[:, kl.one_hot].softmax(1).numpy()
    truth = dataset.targets[rows][:, kl.one_hot].argmax(1)
    at_least_two = probabilities[:, 2:].sum(1)
    predicted = np.rint(probabilities @ np.arange(5)).astype(int)
    return {
        "knees": len(rows),
        "auc_kl2": auc_with_interval(truth >= 2, at_least_two, dataset.subject[rows]),
        "kl_expected_grade": agreement(truth, predicted, 5),
        "auc_kl2_by_grade": {
            f"{low} against {high}": round(float(roc_auc_score((truth == high)[pair], at_least_two[pair])), 3)
            for low, high in ((0, 2), (1, 2), (0, 3), (0, 4))
            if (pair := (truth == low) | (truth == high)).any()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phantoms", type=Path, nargs="+", help="datasets of phantoms")
    parser.add_argument("--chen", type=Path, required=True, help="dataset of the Chen 2018 crops")
    parser.add_argument("--split", default="train", help="split of the real crops")
    parser.add_argument("--epochs", type=int, default=5, help="training epochs")
    parser.add_argument("--network", type=Path, help="file to save the network to, or to load it from")
    options = parser.parse_args()
    phantoms = load_datasets(tuple(options.phantoms))
    torch.manual_seed(0)
    network = GlobalNetwork(ONE_HOT_LENGTH).to(memory_format=torch.channels_last)
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

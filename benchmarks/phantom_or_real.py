"""How well a network can distinguish phantoms from real knees, and by which features of the image.

    python benchmarks/phantom_or_real.py PHANTOM_DATASET --chen DATASET [--map FILE.png]

A small ResNet-18 is trained to classify crops of phantoms and of real training knees (the same crop geometry, contrast
stretched; each phantom gets the film border of a real crop). It is trained once for each view of the image: unchanged,
only coarse brightness, only fine detail, only the middle grey levels, and only the joint. The area under the ROC curve
on held-out people and phantoms measures how much each view reveals (0.5 = nothing). `--map` writes a map of the change
of the output of the first network when a patch of a phantom is hidden.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from phantom_transfer import BATCH, SIDE_PX, GlobalNetwork, crops_of
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional

from kneegrade.phantom.texture import blurred
from kneegrade.training.dataset import KneeDataset, load_datasets

STEPS, HELD_OUT = 160, 0.2
SMALL_PX = 112

View = Callable[[Tensor], Tensor]


def smooth(crops: Tensor, sigma: float) -> Tensor:
    """(B, 1, S, S) crops after a Gaussian blur."""
    return blurred(crops[:, 0], [sigma] * len(crops)).unsqueeze(1)


def normalized_detail(crops: Tensor) -> Tensor:
    """Fine detail on middle grey, normalized to equal strength in all images."""
    detail = crops - smooth(crops, 3.0)
    return 0.5 + 0.15 * detail / detail.std((1, 2, 3), keepdim=True).clamp(min=1e-4)


VIEWS: dict[str, View] = {
    "all": lambda x: x,
    "coarse brightness (blur 5 % of the side)": lambda x: smooth(x, 0.05 * SIDE_PX),
    "fine detail, equal strength": normalized_detail,
    "middle grey levels": lambda x: x.clamp(0.3, 0.85),
    "the joint only (middle third)": lambda x: x[..., SIDE_PX // 3 : 2 * SIDE_PX // 3, :],
}


def mixed(phantoms: KneeDataset, real: KneeDataset) -> KneeDataset:
    """Both datasets as one, real knees first; each phantom gets the film border of a real crop."""
    images = phantoms.images.copy()
    donors = np.random.default_rng(0).integers(len(real), size=len(images))
    for row, donor in enumerate(donors):
        images[row][real.images[donor] == 0] = 0
    parts = {
        name: np.concatenate([getattr(real, name), getattr(phantoms, name)])
        for name in ("landmarks_px", "visible", "targets", "subject", "split", "source")
    }
    return KneeDataset(images=np.concatenate([real.images, images]), **parts)


def held_out(dataset: KneeDataset) -> np.ndarray:
    """(N,) bool: the knees of a random fifth of the people."""
    people, member = np.unique(dataset.subject, return_inverse=True)
    return (np.random.default_rng(1).random(len(people)) < HELD_OUT)[member]


def separability(dataset: KneeDataset, view: View) -> tuple[float, GlobalNetwork, np.ndarray]:
    """Area under the ROC curve on held-out knees, the network, and the rows of these knees."""
    is_phantom, test = dataset.source == "phantom", held_out(dataset)
    frames, rng = dataset.frames(SIDE_PX), np.random.default_rng(2)
    torch.manual_seed(0)
    network = GlobalNetwork(1).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=STEPS)
    pools = [np.flatnonzero(~test & (is_phantom == kind)) for kind in (False, True)]

    def inputs(rows: np.ndarray, key: int | None) -> Tensor:
        small = functional.interpolate(view(crops_of(dataset, frames, rows, key)), SMALL_PX, mode="area")
        return small.contiguous(memory_format=torch.channels_last)

    for _ in range(STEPS):
        rows = np.concatenate([rng.choice(pool, BATCH // 2) for pool in pools])
        crops = inputs(rows, int(rng.integers(2**31)))
        with torch.autocast("cpu", torch.bfloat16):
            output = network(crops)[:, 0]
        loss = functional.binary_cross_entropy_with_logits(output.float(), torch.from_numpy(is_phantom[rows]).float())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    rows = np.flatnonzero(test)
    network.eval()
    with torch.no_grad():
        score = torch.cat([network(inputs(part, None))[:, 0] for part in np.array_split(rows, len(rows) // 64 + 1)])
    return float(roc_auc_score(is_phantom[rows], score.numpy())), network, rows


@torch.no_grad()
def occlusion_map(dataset: KneeDataset, network: GlobalNetwork, rows: np.ndarray, cells: int = 14) -> np.ndarray:
    """(cells, cells) mean change of the phantom score when a patch is replaced by the mean grey of the image."""
    crops = functional.interpolate(crops_of(dataset, dataset.frames(SIDE_PX), rows, None), SMALL_PX, mode="area")
    unchanged, step = network(crops)[:, 0], SMALL_PX // cells
    result = np.zeros((cells, cells))
    for y in range(cells):
        for x in range(cells):
            hidden = crops.clone()
            hidden[:, :, y * step : (y + 1) * step, x * step : (x + 1) * step] = crops.mean((2, 3), keepdim=True)
            result[y, x] = float((unchanged - network(hidden)[:, 0]).mean())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phantoms", type=Path, help="dataset of phantoms")
    parser.add_argument("--chen", type=Path, required=True, help="dataset of the Chen 2018 crops")
    parser.add_argument("--map", type=Path, help="PNG file for the occlusion map")
    parser.add_argument("--views", type=int, default=len(VIEWS), help="number of views, the first ones")
    options = parser.parse_args()
    real, phantoms = load_datasets((options.chen,)), load_datasets((options.phantoms,))
    rows = np.random.default_rng(3).permutation(np.flatnonzero(real.split == "train"))[: len(phantoms)]
    chosen = {name: getattr(real, name)[np.sort(rows)] for name in ("images", "landmarks_px", "visible", "targets")}
    chosen |= {name: getattr(real, name)[np.sort(rows)] for name in ("subject", "split", "source")}
    dataset = mixed(phantoms, replace(real, **chosen))
    result = {}
    for number, (name, view) in enumerate(list(VIEWS.items())[: options.views]):
        result[name], network, tested = separability(dataset, view)
        print(name, round(result[name], 3), flush=True)
        if number == 0 and options.map:
            rows = tested[dataset.source[tested] == "phantom"][:100]
            change = occlusion_map(dataset, network, rows)
            grey = np.uint8(255 * (change - change.min()) / np.ptp(change))
            Image.fromarray(grey).resize((448, 448), Image.Resampling.NEAREST).save(options.map)
    print(json.dumps({name: round(value, 3) for name, value in result.items()}, indent=1))


if __name__ == "__main__":
    main()

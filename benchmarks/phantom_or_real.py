"""Can a network tell phantoms from real knees, and by what?

    python benchmarks/phantom_or_real.py PHANTOM_STORE --chen CHEN_STORE [--map FILE.png]

Crops of phantoms and of real training knees (the same region, contrast stretched; each phantom is given the border of
a real crop) go to a small ResNet-18 that learns to tell them apart, once for each view of the picture: as it is, only
its coarse brightness, only its fine detail, without either end of the grey scale, and the joint alone. The area under
the curve on people and phantoms held out says how much each view gives away (0.5 = nothing). `--map` draws where hiding
a patch changes the answer of the network that sees all.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from phantom_transfer import BATCH, SIDE_PX, Globally, regions_of
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional

from kneegrade.phantom.texture import blurred
from kneegrade.training.dataset import KneeDataset, load_datasets

STEPS, HELD_OUT = 160, 0.2
SMALL_PX = 112

View = Callable[[Tensor], Tensor]


def smooth(regions: Tensor, sigma: float) -> Tensor:
    """Regions (B, 1, S, S) blurred."""
    return blurred(regions[:, 0], [sigma] * len(regions)).unsqueeze(1)


def levelled(regions: Tensor) -> Tensor:
    """Fine detail on mid-grey, its strength made equal in all pictures."""
    detail = regions - smooth(regions, 3.0)
    return 0.5 + 0.15 * detail / detail.std((1, 2, 3), keepdim=True).clamp(min=1e-4)


VIEWS: dict[str, View] = {
    "all": lambda x: x,
    "coarse brightness (blur 5 % of the side)": lambda x: smooth(x, 0.05 * SIDE_PX),
    "fine detail, equal strength": levelled,
    "middle grey levels": lambda x: x.clamp(0.3, 0.85),
    "the joint alone (middle third)": lambda x: x[..., SIDE_PX // 3 : 2 * SIDE_PX // 3, :],
}


def mixed(phantoms: KneeDataset, real: KneeDataset) -> KneeDataset:
    """Both stores in one, real knees first; each phantom wears the border of a real crop."""
    images = phantoms.images.copy()
    donors = np.random.default_rng(0).integers(len(real), size=len(images))
    for row, donor in enumerate(donors):
        images[row][real.images[donor] == 0] = 0
    parts = {
        name: np.concatenate([getattr(real, name), getattr(phantoms, name)])
        for name in ("landmarks_px", "visible", "targets", "subject", "split", "source")
    }
    return KneeDataset(images=np.concatenate([real.images, images]), **parts)


def held_out(store: KneeDataset) -> np.ndarray:
    """(N,) bool, one person in five."""
    people, member = np.unique(store.subject, return_inverse=True)
    return (np.random.default_rng(1).random(len(people)) < HELD_OUT)[member]


def told_apart(store: KneeDataset, view: View) -> tuple[float, Globally, np.ndarray]:
    """Area under the curve on those held out, the network, and their rows."""
    is_phantom, test = store.source == "phantom", held_out(store)
    frames, rng = store.frames(SIDE_PX), np.random.default_rng(2)
    torch.manual_seed(0)
    network = Globally(1).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=STEPS)
    pools = [np.flatnonzero(~test & (is_phantom == kind)) for kind in (False, True)]

    def seen(rows: np.ndarray, key: int | None) -> Tensor:
        small = functional.interpolate(view(regions_of(store, frames, rows, key)), SMALL_PX, mode="area")
        return small.contiguous(memory_format=torch.channels_last)

    for _ in range(STEPS):
        rows = np.concatenate([rng.choice(pool, BATCH // 2) for pool in pools])
        regions = seen(rows, int(rng.integers(2**31)))
        with torch.autocast("cpu", torch.bfloat16):
            output = network(regions)[:, 0]
        loss = functional.binary_cross_entropy_with_logits(output.float(), torch.from_numpy(is_phantom[rows]).float())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    rows = np.flatnonzero(test)
    network.eval()
    with torch.no_grad():
        score = torch.cat([network(seen(part, None))[:, 0] for part in np.array_split(rows, len(rows) // 64 + 1)])
    return float(roc_auc_score(is_phantom[rows], score.numpy())), network, rows


@torch.no_grad()
def hiding_map(store: KneeDataset, network: Globally, rows: np.ndarray, cells: int = 14) -> np.ndarray:
    """(cells, cells) mean change of the phantom's score when a patch is made the picture's mean grey."""
    regions = functional.interpolate(regions_of(store, store.frames(SIDE_PX), rows, None), SMALL_PX, mode="area")
    plain, step = network(regions)[:, 0], SMALL_PX // cells
    result = np.zeros((cells, cells))
    for y in range(cells):
        for x in range(cells):
            hidden = regions.clone()
            hidden[:, :, y * step : (y + 1) * step, x * step : (x + 1) * step] = regions.mean((2, 3), keepdim=True)
            result[y, x] = float((plain - network(hidden)[:, 0]).mean())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phantoms", type=Path)
    parser.add_argument("--chen", type=Path, required=True)
    parser.add_argument("--map", type=Path)
    parser.add_argument("--views", type=int, default=len(VIEWS))
    options = parser.parse_args()
    real, phantoms = load_datasets((options.chen,)), load_datasets((options.phantoms,))
    rows = np.random.default_rng(3).permutation(np.flatnonzero(real.split == "train"))[: len(phantoms)]
    chosen = {name: getattr(real, name)[np.sort(rows)] for name in ("images", "landmarks_px", "visible", "targets")}
    chosen |= {name: getattr(real, name)[np.sort(rows)] for name in ("subject", "split", "source")}
    store = mixed(phantoms, replace(real, **chosen))
    result = {}
    for number, (name, view) in enumerate(list(VIEWS.items())[: options.views]):
        result[name], network, tested = told_apart(store, view)
        print(name, round(result[name], 3), flush=True)
        if number == 0 and options.map:
            rows = tested[store.source[tested] == "phantom"][:100]
            change = hiding_map(store, network, rows)
            grey = np.uint8(255 * (change - change.min()) / np.ptp(change))
            Image.fromarray(grey).resize((448, 448), Image.Resampling.NEAREST).save(options.map)
    print(json.dumps({name: round(value, 3) for name, value in result.items()}, indent=1))


if __name__ == "__main__":
    main()

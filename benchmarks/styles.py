"""What each family of processing styles costs the grader, and pictures of the families.

    python benchmarks/styles.py DATASET [--split val] [--number 400] [--families NAME ...] [--sheet FILE.png]

DATASET is a folder written by `kneegrade dataset`. For each family, drawn for every knee at strength 1, the table has
the ranges of its parameters, the loss of OARSI kappa (mean of six quadratic weighted kappas against the labels, the
most probable grade of each), the kappa with the grades of the pictures without style, the mean change of expected KL,
and the time of `apply_styles` in ms per crop of 224 px. "all for training" are styles as training draws them, "all
unseen" are styles of the families that training never draws. `--sheet` writes a picture of some knees in every family;
`--number 0` makes the sheet alone.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from site_metrics import expected_kl
from sklearn.metrics import cohen_kappa_score
from torch import Tensor

from kneegrade.anatomy.geometry import stretch_contrast
from kneegrade.imaging.styles import (
    FAMILIES,
    UNSEEN_FAMILIES,
    StyleParams,
    apply_styles,
    make_style_params,
)
from kneegrade.network import load_network
from kneegrade.schema import TARGETS
from kneegrade.training.augmentation import augment_covered_images, identity_params
from kneegrade.training.batches import CropBatches
from kneegrade.training.dataset import KneeDataset, load_datasets
from kneegrade.uncertainty import Postprocessor
from kneegrade.weights import load_weights, shipped_path

BATCH_SIZE, SHEET_KNEES, SHEET_PX, TIMED_PX = 16, 8, 200, 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--number", type=int, default=400, help="number of knees, the first of a random order (seed 0)")
    parser.add_argument("--families", nargs="*", default=[*FAMILIES, "all for training", "all unseen"])
    parser.add_argument("--weights", type=Path, help="weights of a grader; default: the shipped weights")
    parser.add_argument("--sheet", type=Path, help="PNG file for pictures of some knees in every family")
    arguments = parser.parse_args()
    dataset = load_datasets((arguments.dataset,))
    rows = np.random.default_rng(0).permutation(np.flatnonzero(dataset.split == arguments.split))
    if arguments.sheet:
        write_sheet(arguments.sheet, CropBatches(dataset, 320), rows[:SHEET_KNEES], arguments.families)
    rows = rows[: arguments.number]
    if not len(rows):
        return
    grader = StyledGrader(arguments.weights or shipped_path("grader"), dataset)
    labels = grades_of(dataset.targets[rows])
    clean = grader.probabilities(rows, None)
    kappa = oarsi_kappa(labels, grades_of(clean))
    print(f"{len(rows)} knees, OARSI kappa without style {kappa:.3f}\n")
    print("| family | range at strength 1 | loss of OARSI kappa | kappa with clean | change of KL | ms a crop |")
    print("|---|---|---|---|---|---|")
    for name in arguments.families:
        styled = grader.probabilities(rows, name)
        loss = kappa - oarsi_kappa(labels, grades_of(styled))
        own = oarsi_kappa(grades_of(clean), grades_of(styled))
        change = float(np.mean(expected_kl(styled) - expected_kl(clean)))
        cost = f"{milliseconds(name):.1f}"
        print(f"| {name} | {ranges(name)} | {loss:+.3f} | {own:.3f} | {change:+.2f} | {cost} |", flush=True)


class StyledGrader:
    """Calibrated probabilities of a grader's weights for knees of a dataset in a family of styles."""

    def __init__(self, weights: Path, dataset: KneeDataset) -> None:
        loaded = load_weights(weights, "grader")
        self.postprocess, network = Postprocessor.of(loaded), load_network(loaded)
        self.network = network.optimized_for_inference("cpu")
        self.crops = CropBatches(dataset, network.config.roi_px)

    @torch.no_grad()
    def probabilities(self, rows: NDArray[np.int64], name: str | None) -> NDArray[np.float32]:
        """(N, 29) probabilities; the styles depend on the family alone."""
        generator, logits = torch.Generator().manual_seed(0), []
        for start in range(0, len(rows), BATCH_SIZE):
            part = rows[start : start + BATCH_SIZE]
            batch = self.crops.batch(part, identity_params(len(part)))
            roi, inside = batch.roi, batch.inside
            if name is not None:
                roi, inside = in_style(roi, coverage(self.crops, part), draw(name, len(part), generator))
            logits.append(self.network(roi, batch.landmarks_px, batch.visible, inside).logits)
        joined = {t.name: torch.cat([part[t.name] for part in logits]) for t in TARGETS}
        return self.postprocess(joined).on_study_scale.probabilities


def draw(name: str, batch: int, generator: torch.Generator) -> StyleParams:
    """Styles of one family, or of all families that training uses or does not use."""
    if name == "all for training":
        return make_style_params(batch, generator)
    families = UNSEEN_FAMILIES if name == "all unseen" else (name,)
    return make_style_params(batch, generator, families=families, family_probability=0.5)


def coverage(crops: CropBatches, rows: NDArray[np.int64]) -> Tensor:
    """(B, 1, S, S) bool, True on the film."""
    pictures, frames = torch.as_tensor(crops.images[rows]), crops.frames[torch.from_numpy(rows)]
    return augment_covered_images(pictures, frames, identity_params(len(rows)), crops.size_px)[1]


def in_style(crops: Tensor, covered: Tensor, params: StyleParams) -> tuple[Tensor, Tensor]:
    """Crops (B, 1, S, S) in their styles with stretched contrast, and (B, 1, S, S) bool, True on the film."""
    styled, inside = apply_styles(crops, covered, params)
    return stretch_contrast(styled, inside), inside


def grades_of(probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
    """(N, 6) most probable OARSI grades."""
    return np.stack([probabilities[:, t.one_hot].argmax(1) for t in TARGETS[1:]], axis=1)


def oarsi_kappa(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    pairs = zip(first.T, second.T, strict=True)
    return float(np.mean([cohen_kappa_score(a, b, weights="quadratic", labels=range(4)) for a, b in pairs]))


def milliseconds(name: str) -> float:
    """Time of `apply_styles` per crop, one thread."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    crops = torch.rand(16, 1, TIMED_PX, TIMED_PX, generator=generator)
    covered, times = torch.ones_like(crops, dtype=torch.bool), []
    for _ in range(4):
        params = draw(name, len(crops), generator)
        start = time.process_time()
        apply_styles(crops, covered, params)
        times.append(time.process_time() - start)
    return min(times) / len(crops) * 1000


def ranges(name: str) -> str:
    if name not in FAMILIES:
        return ""
    return ", ".join(f"{key} {limits.low:g} … {limits.high:g}" for key, limits in FAMILIES[name].ranges.items())


def write_sheet(path: Path, crops: CropBatches, rows: NDArray[np.int64], names: list[str]) -> None:
    """Writes a picture with one row per family and one column per knee; the first row has no style."""
    roi, covered = crops.batch(rows, identity_params(len(rows))).roi, coverage(crops, rows)
    font, generator = ImageFont.load_default(14), torch.Generator().manual_seed(1)
    sheet = Image.new("L", (len(rows) * SHEET_PX, (len(names) + 1) * SHEET_PX))
    for row, name in enumerate(["no style", *names]):
        styled = in_style(roi, covered, draw(name, len(rows), generator))[0] if row else roi
        for column, picture in enumerate((styled[:, 0] * 255).byte().numpy()):
            tile = Image.fromarray(picture).resize((SHEET_PX - 2, SHEET_PX - 2))
            sheet.paste(tile, (column * SHEET_PX, row * SHEET_PX))
        ImageDraw.Draw(sheet).text((4, row * SHEET_PX + 2), name, 255, font, stroke_width=2, stroke_fill=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


if __name__ == "__main__":
    main()

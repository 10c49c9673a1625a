"""A contact sheet of phantoms by Kellgren–Lawrence grade, optionally beside real knees.

    python benchmarks/contact_sheet.py FILE.png [--seed 3] [--chen DATASET]

One row per grade. On the left are phantoms, rendered as crops as the network receives them; on the right training crops
of DATASET.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from kneegrade.anatomy.geometry import sample_affine, stretch_contrast
from kneegrade.phantom import render_rois, sample_knee
from kneegrade.training.dataset import load_datasets

SIDE_PX, SHOWN_PX, COLUMNS, GAP_PX = 320, 160, 6, 12


def phantoms(seed: int) -> list[list[np.ndarray]]:
    """Per grade the first phantoms of a population with uniform KL."""
    rows: list[list[np.ndarray]] = [[] for _ in range(5)]
    index = 0
    while min(len(row) for row in rows) < COLUMNS:
        knee = sample_knee(seed, index, "uniform")
        row = rows[knee.grades["kl"]]
        if len(row) < COLUMNS:
            image = render_rois([knee], SIDE_PX, extent_in_plateau_widths=1.25)[0].unsqueeze(1)
            row.append(stretch_contrast(image, torch.ones_like(image, dtype=torch.bool))[0, 0].numpy())
        index += 1
    return rows


def real(directory: Path, seed: int) -> list[list[np.ndarray]]:
    """Per grade some random training crops."""
    dataset = load_datasets((directory,))
    kl, rng = dataset.targets[:, :5].argmax(1), np.random.default_rng(seed)
    rows = []
    for grade in range(5):
        chosen = rng.choice(np.flatnonzero((kl == grade) & (dataset.split == "train")), COLUMNS, replace=False)
        frames = torch.from_numpy(dataset.frames(SIDE_PX, 1.25)[chosen])
        cut, _ = sample_affine(torch.from_numpy(dataset.images[chosen]).unsqueeze(1).float(), frames, SIDE_PX)
        rows.append(list(stretch_contrast((cut - 1).clamp(min=0) / 254, cut > 0.5)[:, 0].numpy()))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="PNG file to write")
    parser.add_argument("--seed", type=int, default=3, help="of the phantoms and the choice of crops")
    parser.add_argument("--chen", type=Path, help="dataset of the Chen 2018 crops")
    options = parser.parse_args()
    halves = [phantoms(options.seed)] + ([real(options.chen, options.seed)] if options.chen else [])
    width = len(halves) * (COLUMNS * SHOWN_PX + GAP_PX) - GAP_PX
    sheet = Image.new("L", (width, 5 * SHOWN_PX), 255)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for number, half in enumerate(halves):
        for grade, row in enumerate(half):
            for column, image in enumerate(row):
                x, y = number * (COLUMNS * SHOWN_PX + GAP_PX) + column * SHOWN_PX, grade * SHOWN_PX
                tile = Image.fromarray(np.uint8(255 * image)).resize((SHOWN_PX, SHOWN_PX), Image.Resampling.LANCZOS)
                sheet.paste(tile, (x, y))
            draw.text((number * (COLUMNS * SHOWN_PX + GAP_PX) + 6, grade * SHOWN_PX + 4), f"KL {grade}", 255, font,
                      stroke_width=2, stroke_fill=0)  # fmt: skip
    sheet.quantize(64).save(options.output, optimize=True)


if __name__ == "__main__":
    main()

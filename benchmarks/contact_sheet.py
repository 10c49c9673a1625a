"""A contact sheet of phantoms by Kellgren–Lawrence grade, real knees beside them if there are any.

    python benchmarks/contact_sheet.py FILE.png [--seed 3] [--chen CHEN_STORE]

A row per grade; phantoms on the left, drawn alone as networks see them, and on the right training crops of CHEN_STORE.
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
    """Per grade the first knees of the population."""
    rows: list[list[np.ndarray]] = [[] for _ in range(5)]
    index = 0
    while min(len(row) for row in rows) < COLUMNS:
        knee = sample_knee(seed, index, "uniform")
        row = rows[knee.grades["kl"]]
        if len(row) < COLUMNS:
            picture = render_rois([knee], SIDE_PX, widths=1.25)[0].unsqueeze(1)
            row.append(stretch_contrast(picture, torch.ones_like(picture, dtype=torch.bool))[0, 0].numpy())
        index += 1
    return rows


def real(directory: Path, seed: int) -> list[list[np.ndarray]]:
    """Per grade some training crops."""
    store = load_datasets((directory,))
    kl, rng = store.targets[:, :5].argmax(1), np.random.default_rng(seed)
    rows = []
    for grade in range(5):
        chosen = rng.choice(np.flatnonzero((kl == grade) & (store.split == "train")), COLUMNS, replace=False)
        frames = torch.from_numpy(store.frames(SIDE_PX, 1.25)[chosen])
        cut, _ = sample_affine(torch.from_numpy(store.images[chosen]).unsqueeze(1).float(), frames, SIDE_PX)
        rows.append(list(stretch_contrast((cut - 1).clamp(min=0) / 254, cut > 0.5)[:, 0].numpy()))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--chen", type=Path)
    options = parser.parse_args()
    halves = [phantoms(options.seed)] + ([real(options.chen, options.seed)] if options.chen else [])
    width = len(halves) * (COLUMNS * SHOWN_PX + GAP_PX) - GAP_PX
    sheet = Image.new("L", (width, 5 * SHOWN_PX), 255)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for number, half in enumerate(halves):
        for grade, row in enumerate(half):
            for column, picture in enumerate(row):
                x, y = number * (COLUMNS * SHOWN_PX + GAP_PX) + column * SHOWN_PX, grade * SHOWN_PX
                image = Image.fromarray(np.uint8(255 * picture)).resize((SHOWN_PX, SHOWN_PX), Image.Resampling.LANCZOS)
                sheet.paste(image, (x, y))
            draw.text((number * (COLUMNS * SHOWN_PX + GAP_PX) + 6, grade * SHOWN_PX + 4), f"KL {grade}", 255, font,
                      stroke_width=2, stroke_fill=0)  # fmt: skip
    sheet.quantize(64).save(options.output, optimize=True)


if __name__ == "__main__":
    main()

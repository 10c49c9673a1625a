"""A training store filled with phantoms: each knee is a function of (seed, index) alone."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kneegrade.anatomy.landmarks import TIBIA_PLATEAU_LATERAL, TIBIA_PLATEAU_MEDIAL
from kneegrade.anatomy.roi import cut_region, roi_frame
from kneegrade.errors import RecipeError
from kneegrade.learning.store import STORE_PX, encode
from kneegrade.phantom import PhantomKnee, Prevalence, render_roi, sample_knee
from kneegrade.schema import TARGETS

ROOM = 1.2  # the rendered square is this much wider than the stored one, so that levelling it cuts no corner


def build_phantom_store(
    directory: Path, number: int, prevalence: Prevalence, seed: int, *, widths: float,
    progress: Callable[[int, int], None] | None = None,
) -> None:  # fmt: skip
    """Render `number` phantoms into the new store `directory`; all are of split "train".

    Raises:
        RecipeError: the folder exists already.
    """
    if directory.exists():
        raise RecipeError(f"{directory} exists already; remove it or name another folder.")
    partial = directory.with_name(directory.name + ".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    images = np.lib.format.open_memmap(
        partial / "images.npy", mode="w+", dtype=np.uint8, shape=(number, STORE_PX, STORE_PX)
    )
    points = np.zeros((number, 74, 2), dtype=np.float32)
    targets = np.zeros((number, sum(t.classes for t in TARGETS)), dtype=np.float32)
    for index in range(number):
        knee = sample_knee(seed, index, prevalence)
        images[index], points[index] = _render(knee, widths)
        for target in TARGETS:
            targets[index, target.offset + knee.grades[target.name]] = 1
        if progress:
            progress(index + 1, number)
    images.flush()
    names = np.array([f"phantom-{seed}-{index}" for index in range(number)])
    np.savez(
        partial / "knees.npz", rows=np.arange(number), landmarks_px=points,
        visible=np.ones((number, 74), dtype=np.bool_), targets=targets,
        subject=names, split=np.full(number, "train"), source=np.full(number, "phantom"),
    )  # fmt: skip
    os.replace(partial, directory)


def _render(knee: PhantomKnee, widths: float) -> tuple[np.ndarray, np.ndarray]:
    width = float(np.hypot(*(knee.outline_mm[TIBIA_PLATEAU_MEDIAL] - knee.outline_mm[TIBIA_PLATEAU_LATERAL])))
    pixels, landmarks = render_roi(knee, round(STORE_PX * ROOM), widths * width * ROOM)
    frame = roi_frame(landmarks, STORE_PX, widths)
    region, inside = (part[0, 0].numpy() for part in cut_region(pixels, frame))
    return encode(region, inside), frame.to_roi(landmarks)

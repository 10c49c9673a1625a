"""Examples for the implant network: pictures of sound knees of several sites, with and without drawn metal.

An example is made in the order in which a film is: the knee, perhaps with metal; objects beside it; the processing
style of a hospital; the contrast stretch of the pipeline. Both classes go the same way, so that nothing but metal tells
them apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from kneegrade.anatomy.geometry import Pose, frame_at, pose_of, stretch_contrast
from kneegrade.imaging.styles import TRAINING_FAMILIES, apply_styles, make_style_params
from kneegrade.progress import Progress
from kneegrade.training.metal.drawn_metal import MIN_VISIBLE_MM2, draw_metal, knee_mm
from kneegrade.training.metal.film_objects import draw_film_objects
from kneegrade.training.metal.metal_shapes import sample_metal
from kneegrade.uncertainty.implant_network import IMPLANT_PX, implant_inputs

EXAMPLE_PX = 3 * IMPLANT_PX // 2  # in which metal and objects are drawn
BATCH_SIZE = 32
STYLED, FAMILY_PROBABILITY = 0.75, 0.2  # of the examples; of a further family in a style
MAX_SHIFT, MAX_TURN_DEG, SCALES = 0.05, 8.0, (0.93, 1.1)  # of the crop, which landmarks place with errors
TRIES = 6  # to draw metal that is visible


@dataclass(frozen=True, eq=False)
class KneePictures:
    """Level pictures of the knees of one site, lateral on the left.

    Attributes:
        images: (N, H, W) uint8, 0 outside the film.
        landmarks_px: (N, 74, 2) in pixels of `images`.
        site: name of the site.
    """

    images: NDArray[np.uint8]
    landmarks_px: NDArray[np.floating]
    site: str

    def __len__(self) -> int:
        """Number of knees."""
        return len(self.images)

    def part(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "KneePictures":
        """The knees of an index array or a mask (N,)."""
        return KneePictures(self.images[rows], self.landmarks_px[rows], self.site)


@dataclass(frozen=True, eq=False)
class ImplantExamples:
    """Inputs of the implant network.

    Attributes:
        inputs: (M, 144, 144) uint8, see `implant_input`.
        metal: (M,) bool.
        site: (M,) str.
    """

    inputs: NDArray[np.uint8]
    metal: NDArray[np.bool_]
    site: NDArray[np.str_]

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.inputs)

    def without(self, site: str) -> "ImplantExamples":
        """The examples of all other sites."""
        kept = self.site != site
        return ImplantExamples(self.inputs[kept], self.metal[kept], self.site[kept])


def concatenate_examples(parts: Sequence[ImplantExamples]) -> ImplantExamples:
    """The examples of several parts, in their order."""
    return ImplantExamples(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("inputs", "metal", "site")))


def plain_inputs(knees: KneePictures) -> NDArray[np.uint8]:
    """(N, 144, 144) inputs of the implant network as the pipeline makes them, without any change of the picture."""
    inputs = []
    for start in range(0, len(knees), BATCH_SIZE):
        cropped = [crop_example(knees, row, None) for row in range(start, min(start + BATCH_SIZE, len(knees)))]
        rois, inside = (torch.from_numpy(np.stack([crop[i] for crop in cropped])).unsqueeze(1) for i in (0, 1))
        inputs.append(implant_inputs(stretch_contrast(rois, inside), inside))
    return np.concatenate(inputs)


def make_examples(
    knees: KneePictures, number: int, seed: int, *, metal: bool | None = None, kind: str | None = None,
    progress: Progress | None = None,
) -> ImplantExamples:  # fmt: skip
    """Examples of the knees of one site; every second one has metal.

    Args:
        knees: without drawn metal.
        number: M of examples; every knee is used about equally often.
        seed: every example is a function of seed and number.
        metal: None for every second; True or False if all or none shall have drawn metal, whatever the knees have.
        kind: of the metal, see `drawn_metal.KINDS`; all kinds by default.
        progress: called with (examples done, examples in all).
    """
    order = np.random.default_rng(seed)
    rows = np.concatenate([order.permutation(len(knees)) for _ in range(-(-number // len(knees)))])[:number]
    has_metal = np.arange(number) % 2 == 0 if metal is None else np.full(number, metal)
    parts = []
    for start in range(0, number, BATCH_SIZE):
        own = range(start, min(start + BATCH_SIZE, number))
        drawn = [
            draw_example(knees, rows[i], bool(has_metal[i]), np.random.default_rng([seed, i]), kind=kind) for i in own
        ]
        rois, inside = (torch.from_numpy(np.stack([each[i] for each in drawn])).unsqueeze(1) for i in (0, 1))
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, start]).generate_state(1)[0]))
        parts.append(styled_inputs(rois, inside, generator))
        if progress:
            progress(own.stop, number)
    return ImplantExamples(np.concatenate(parts), has_metal, np.full(number, knees.site))


def styled_inputs(rois: torch.Tensor, inside: torch.Tensor, generator: torch.Generator) -> NDArray[np.uint8]:
    """(B, 144, 144) inputs of crops (B, 1, S, S) in random processing styles, stretched as in the pipeline."""
    params = make_style_params(
        len(rois), generator, families=TRAINING_FAMILIES, probability=STYLED, family_probability=FAMILY_PROBABILITY
    )
    styled, covered = apply_styles(rois, inside, params)
    return implant_inputs(stretch_contrast(styled, covered), covered)


def draw_example(
    knees: KneePictures, row: int, metal: bool, rng: np.random.Generator, *, kind: str | None = None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Crop (216, 216) in [0, 1] of one knee with drawn objects and perhaps metal, and its coverage."""
    crop, inside, points = crop_example(knees, row, rng)
    if inside.any():
        low, high = np.quantile(crop[inside], (0.01, 0.99))
        crop = np.clip((crop - low) / max(high - low, 1e-4), 0, 1).astype(np.float32) * inside
    points_mm, px_per_mm = knee_mm(points)
    if metal:
        for _ in range(TRIES):
            drawn, _ = draw_metal(crop, sample_metal(points_mm, rng, kind), px_per_mm, rng)
            if ((drawn - crop) * inside).sum() / px_per_mm**2 >= MIN_VISIBLE_MM2:
                break
        crop = drawn
    scale = np.float32(crop[inside].max(initial=1e-4))
    crop = draw_film_objects(crop / scale, points_mm, px_per_mm, rng)
    return np.clip(crop, 0, 1).astype(np.float32) * inside, inside


def crop_example(
    knees: KneePictures, row: int, rng: np.random.Generator | None
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]:
    """Crop (216, 216) in [0, 1], coverage and landmarks (74, 2) in its pixels; placed with errors if `rng` is given."""
    landmarks = knees.landmarks_px[row].astype(np.float64)
    pose = pose_of(landmarks)
    frame = frame_at(pose if rng is None else _displaced(pose, rng), EXAMPLE_PX)
    image, matrix = knees.images[row], frame.matrix
    shifted = matrix[:, 2] + 0.5 - matrix[:, :2].sum(1) / 2  # Pillow counts from the corner of the first pixel
    coefficients = (*matrix[0, :2].tolist(), float(shifted[0]), *matrix[1, :2].tolist(), float(shifted[1]))
    size = (EXAMPLE_PX, EXAMPLE_PX)
    sampled, covered = (
        np.asarray(
            Image.fromarray(part).transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
        )
        for part in (image, np.where(image > 0, np.uint8(255), np.uint8(0)))
    )
    inside = covered == 255
    crop = (sampled.astype(np.float32) - 1).clip(0) / np.float32(254) * inside
    return crop, inside, frame.to_roi(landmarks)


def _displaced(pose: Pose, rng: np.random.Generator) -> Pose:
    """The pose with random errors of position, size and angle."""
    x, y = np.array(pose.centre) + rng.uniform(-MAX_SHIFT, MAX_SHIFT, 2) * pose.width
    turn = np.deg2rad(rng.uniform(-MAX_TURN_DEG, MAX_TURN_DEG))
    down = np.array(pose.down) @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    width = pose.width * rng.uniform(*SCALES)
    return Pose((float(x), float(y)), float(width), (float(down[0]), float(down[1])), pose.mirrored)


def phantom_pictures(table: pd.DataFrame, rois: NDArray[np.uint8], rows: NDArray[np.bool_]) -> KneePictures:
    """The pictures of some phantoms of a cohort written by `kneegrade phantom --rois`."""
    landmarks = np.stack([np.reshape(points, (-1, 2)) for points in table.loc[rows, "landmarks_px"]])
    return KneePictures(np.maximum(rois[rows], 1), landmarks, "phantom")

"""A store: the knees of a cohort cut once, with a margin for augmentation, ready to be sampled in batches.

A folder with `images.npy` (N, 384, 384) uint8 and `knees.npz`. Pixel value 0 is reserved for "outside the film";
the film itself is written as 1 … 255. Each picture is level with the plateau, lateral on its left. How many plateau
widths it spans is the store's affair: what a network sees is cut from it by the landmarks.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.knee import points_inside
from kneegrade.anatomy.landmarks import ARTICULAR
from kneegrade.anatomy.roi import ROI_WIDTHS, cut_region, roi_frame
from kneegrade.errors import RecipeError, UnreadableFileError

STORE_PX = 384
STORE_WIDTHS = 1.5
MEMORY_SHARE = 0.4  # of main memory that the pictures of one store may take


@dataclass(frozen=True, eq=False)
class Store:
    """The knees of one or several cohorts.

    Attributes:
        images: (N, 384, 384) uint8, memory-mapped or not; 0 = outside the film.
        landmarks_px: (N, 74, 2) float32 in pixels of `images`; NaN where unknown.
        visible: (N, 74) bool, the landmark is known and inside the film.
        trust: (N,) float32 in (0, 1], how far the landmarks are believed (1 where drawn or marked by hand).
        targets: (N, 29) float32 distributions over grades; NaN where a grade was never read.
        subject: (N,) str.
        split: (N,) str.
        source: (N,) str.
    """

    images: NDArray[np.uint8]
    landmarks_px: NDArray[np.float32]
    visible: NDArray[np.bool_]
    trust: NDArray[np.float32]
    targets: NDArray[np.float32]
    subject: NDArray[np.str_]
    split: NDArray[np.str_]
    source: NDArray[np.str_]

    def __len__(self) -> int:
        """Number of knees."""
        return len(self.targets)

    def frames(self, size_px: int, widths: float = ROI_WIDTHS) -> NDArray[np.float32]:
        """(N, 2, 3) matrices from pixels of a region of `widths` plateau widths to pixels of `images`."""
        return np.stack([roi_frame(p.astype(np.float64), size_px, widths).matrix for p in self.landmarks_px]).astype(
            np.float32
        )


def cut_knee(
    pixels: NDArray[np.float32], landmarks_px: NDArray[np.float64], widths: float
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
    """What `StoreWriter.put` wants of one knee: its picture, its landmarks there, and which of them lie on the film.

    Args:
        pixels: (H, W) float32 in [0, 1], the film.
        landmarks_px: (74, 2) in pixels of the film.
        widths: plateau widths that the picture spans.

    Raises:
        UnreadableFileError: an articular landmark is not finite.
    """
    if not np.isfinite(landmarks_px[list(ARTICULAR)]).all():
        raise UnreadableFileError("An articular landmark of this knee is not finite.", code="landmarks")
    frame = roi_frame(landmarks_px, STORE_PX, widths)
    region, inside = (part[0, 0].numpy() for part in cut_region(pixels, frame))
    visible = points_inside(landmarks_px, pixels.shape)
    return encode(region, inside), frame.to_roi(landmarks_px).astype(np.float32), visible


def encode(region: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Grey values [0, 1] as 1 … 255, and 0 where `inside` is False."""
    return np.where(inside, np.clip(np.rint(region * 254) + 1, 1, 255), 0).astype(np.uint8)


def load_stores(directories: tuple[Path, ...]) -> Store:
    """All knees of several stores, pictures in memory (147 kB a knee) or, of one store that does not fit, mapped."""
    parts = []
    for directory in directories:
        if not (directory / "knees.npz").is_file():
            raise RecipeError(f"{directory} is not a store; `kneegrade store` makes one from a manifest.")
        knees = np.load(directory / "knees.npz")
        rows = knees["rows"]
        images = np.load(directory / "images.npy", mmap_mode="r")
        if len(directories) > 1 or len(rows) < len(images) or images.nbytes < MEMORY_SHARE * _memory():
            images = images[rows]
        trust = knees["trust"][rows] if "trust" in knees else np.ones(len(rows), dtype=np.float32)  # older stores
        parts.append((images, *(trust if key == "trust" else knees[key][rows] for key in _ARRAYS)))
    if len(parts) == 1:
        return Store(*parts[0])
    store = Store(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    _check_people(store)
    return store


def _check_people(store: Store) -> None:
    """Refuse stores that put one person into two splits: the OAI's and Chen 2018's have the same people."""
    people = np.unique(np.stack([store.subject, store.split]), axis=1)
    names, counts = np.unique(people[0], return_counts=True)
    if (counts > 1).any():
        raise RecipeError(
            f"{int((counts > 1).sum())} people are in more than one split of these stores, the first is "
            f"{names[counts > 1][0]}; make their manifests with the same split."
        )


def _memory() -> int:
    """Bytes of main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


_ARRAYS = ("landmarks_px", "visible", "trust", "targets", "subject", "split", "source")

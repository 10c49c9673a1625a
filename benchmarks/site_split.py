"""Groups of copied images, and the division of a labelled site into knees to look at and knees to score once.

Shared by the benchmarks; `python benchmarks/sites.py split` writes the table.

The images of Gornale and Patravali 2020 contain copies, most of them mirrored. Two images are copies if their 64×36
thumbnails, or one thumbnail and the mirror image of the other, correlate by more than 0.99. A group of copies is
treated as one person.
"""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"})
THUMBNAIL = (64, 36)  # width, height
COPY_CORRELATION = 0.99
LOOK_SHARE = 1 / 3
BATCH = 500


def site_table(root: Path) -> pd.DataFrame:
    """One row per image: `path` (absolute), `kl`, `group` (name of its first image) and `part` ("look" or "score").

    The same files give the same table on every machine: the division depends on file names and copies alone.

    Args:
        root: folder with one folder of images per KL grade, `0` … `4`.

    Raises:
        SystemExit: there is no such image.
    """
    files = sorted(p for p in root.glob("[0-4]/*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise SystemExit(f"There is no image in the folders 0 to 4 of {root}; unpack the archive of the site there.")
    grades = np.array([int(p.parent.name) for p in files])
    names = np.array([p.relative_to(root).as_posix() for p in files])
    groups = copy_groups(np.stack([thumbnail(p) for p in files]))
    look = looked_at(groups, grades, names)
    return pd.DataFrame(
        {
            "path": [str(p.resolve()) for p in files],
            "kl": grades,
            "group": names[groups],
            "part": np.where(look, "look", "score"),
        }
    )


def grey_image(path: Path) -> NDArray[np.float32]:
    """(H, W) grey levels 0 … 255 of an image of 8 or 16 bits; 16 bits are scaled by the largest value of the image."""
    with Image.open(path) as image:
        grey = np.asarray(image if image.mode.startswith("I") else image.convert("L"), dtype=np.float32)
    return grey * (255 / max(float(grey.max()), 1.0)) if grey.max() > 255 else grey


def thumbnail(path: Path) -> NDArray[np.float32]:
    """(36, 64) grey levels."""
    return np.asarray(Image.fromarray(grey_image(path)).resize(THUMBNAIL, Image.Resampling.BOX))


def copy_groups(thumbnails: NDArray[np.float32]) -> NDArray[np.int64]:
    """(N,) index of the first member of each image's group of copies; copies of copies are in one group.

    Args:
        thumbnails: (N, h, w) grey levels.
    """
    plain, mirrored = standardized(thumbnails), standardized(thumbnails[:, :, ::-1])
    pairs = []
    for first in range(0, len(plain), BATCH):
        block = plain[first : first + BATCH]
        rows, columns = np.nonzero(np.maximum(block @ plain.T, block @ mirrored.T) > COPY_CORRELATION)
        pairs.append((rows + first, columns))
    rows, columns = (np.concatenate(side) for side in zip(*pairs, strict=True))
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(plain), len(plain)))
    _, labels = connected_components(graph, directed=False)
    _, first_member = np.unique(labels, return_index=True)
    return first_member[labels]


def standardized(thumbnails: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, h·w) with mean 0 and length 1, so that a dot product is a correlation."""
    flat = thumbnails.reshape(len(thumbnails), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def looked_at(groups: NDArray[np.int64], grades: NDArray[np.int64], names: NDArray[np.str_]) -> NDArray[np.bool_]:
    """(N,) bool, the third of the images that may be looked at. Groups stay together; every grade has its third.

    The groups of a grade (the lowest of a group) are taken in the order of a hash of their first image's name, as long
    as the number of images of that grade stays within a third.

    Args:
        groups: (N,) from `copy_groups`.
        grades: (N,) KL grades.
        names: (N,) names of the images.
    """
    look = np.zeros(len(groups), dtype=np.bool_)
    first, sizes = np.unique(groups, return_counts=True)
    grade = np.array([grades[groups == g].min() for g in first])
    order = np.argsort([hashlib.sha256(str(names[g]).encode()).hexdigest() for g in first])
    for kl in np.unique(grade):
        own = order[grade[order] == kl]
        within = np.cumsum(sizes[own]) <= round(sizes[own].sum() * LOOK_SHARE)
        look |= np.isin(groups, first[own[within]])
    return look

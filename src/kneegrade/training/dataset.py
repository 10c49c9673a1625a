"""`DatasetWriter`: a store in the making, which appears whole and survives being stopped.

A store: the knees of a cohort cut once, with a margin for augmentation, ready to be sampled in batches.

A folder with `images.npy` (N, 384, 384) uint8 and `knees.npz`. Pixel value 0 is reserved for "outside the film";
the film itself is written as 1 … 255. Each picture is level with the plateau, lateral on its left. How many plateau
widths it spans is the store's affair: what a network sees is cut from it by the landmarks.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.geometry import ROI_PLATEAU_WIDTHS, extract_crop, roi_frame
from kneegrade.anatomy.knee import points_inside
from kneegrade.anatomy.landmark_scheme import ARTICULAR
from kneegrade.errors import RecipeError, UnreadableFileError

DATASET_PX = 384
DATASET_PLATEAU_WIDTHS = 1.5
MEMORY_SHARE = 0.4  # of main memory that the pictures of one store may take


@dataclass(frozen=True, eq=False)
class KneeDataset:
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

    def frames(self, size_px: int, widths: float = ROI_PLATEAU_WIDTHS) -> NDArray[np.float32]:
        """(N, 2, 3) matrices from pixels of a region of `widths` plateau widths to pixels of `images`."""
        return np.stack([roi_frame(p.astype(np.float64), size_px, widths).matrix for p in self.landmarks_px]).astype(
            np.float32
        )


def crop_knee(
    pixels: NDArray[np.float32], landmarks_px: NDArray[np.float64], widths: float
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
    """What `DatasetWriter.put` wants of one knee: its picture, its landmarks there, and which of them lie on the film.

    Args:
        pixels: (H, W) float32 in [0, 1], the film.
        landmarks_px: (74, 2) in pixels of the film.
        widths: plateau widths that the picture spans.

    Raises:
        UnreadableFileError: an articular landmark is not finite.
    """
    if not np.isfinite(landmarks_px[list(ARTICULAR)]).all():
        raise UnreadableFileError("An articular landmark of this knee is not finite.", code="landmarks")
    frame = roi_frame(landmarks_px, DATASET_PX, widths)
    region, inside = (part[0, 0].numpy() for part in extract_crop(pixels, frame))
    visible = points_inside(landmarks_px, pixels.shape)
    return encode(region, inside), frame.to_roi(landmarks_px).astype(np.float32), visible


def encode(region: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Grey values [0, 1] as 1 … 255, and 0 where `inside` is False."""
    return np.where(inside, np.clip(np.rint(region * 254) + 1, 1, 255), 0).astype(np.uint8)


def load_datasets(directories: tuple[Path, ...]) -> KneeDataset:
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
        return KneeDataset(*parts[0])
    store = KneeDataset(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    _check_people(store)
    return store


def _check_people(store: KneeDataset) -> None:
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


PENDING, PUT, SKIPPED = 0, 1, 2
LEFT_OUT = "left_out.txt"


class DatasetWriter:
    """Fills the new store `directory` knee by knee; it appears whole when closed.

    Args:
        directory: must not exist.
        number: of knees at most.
        identity: what is written into it, kept in the store as `identity.txt`; the knees that a stopped writer of the
            same identity had finished are kept, those that were left out are tried again.

    Raises:
        RecipeError: the folder exists already, or another unfinished store stands in its place.
    """

    def __init__(self, directory: Path, number: int, identity: str | None = None) -> None:
        if directory.exists():
            raise RecipeError(f"{directory} exists already; remove it or name another folder.")
        self.directory, self.partial = directory, directory.with_name(directory.name + ".tmp")
        marker = self.partial / "identity.txt"
        self._kept = identity is not None and marker.is_file() and marker.read_text(encoding="utf-8") == identity
        if identity is not None and marker.is_file() and not self._kept:
            raise RecipeError(
                f"{self.partial} is an unfinished store of other knees; remove it or name another folder."
            )
        if not self._kept:
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)
        self.images: NDArray[np.uint8] = self._array("images", np.uint8, (number, DATASET_PX, DATASET_PX))
        self.landmarks_px: NDArray[np.float32] = self._array("landmarks_px", np.float32, (number, 74, 2))
        self.visible: NDArray[np.bool_] = self._array("visible", np.bool_, (number, 74))
        self.trust: NDArray[np.float32] = self._array("trust", np.float32, (number,))
        self.state: NDArray[np.uint8] = self._array("state", np.uint8, (number,))
        self.state[self.state == SKIPPED] = PENDING
        (self.partial / LEFT_OUT).unlink(missing_ok=True)
        if identity is not None:
            marker.write_text(identity, encoding="utf-8")

    def _array(self, name: str, kind: type, shape: tuple[int, ...]) -> Any:
        mode = "r+" if self._kept else "w+"
        return np.lib.format.open_memmap(self.partial / f"{name}.npy", mode=mode, dtype=kind, shape=shape)

    def put(
        self, row: int, image: NDArray[np.uint8], landmarks_px: NDArray[np.floating], visible: NDArray[np.bool_],
        trust: float = 1.0,
    ) -> None:  # fmt: skip
        """Write one knee; see `KneeDataset` for the arrays."""
        self.images[row], self.landmarks_px[row], self.visible[row] = image, landmarks_px, visible
        self.trust[row], self.state[row] = trust, PUT

    def skip(self, row: int, reason: str) -> None:
        """Leave one knee out; the reason is kept for `close`."""
        with (self.partial / LEFT_OUT).open("a", encoding="utf-8") as file:
            file.write(reason.replace("\n", " ") + "\n")
        self.state[row] = SKIPPED

    def rows(self, state: int = PUT) -> NDArray[np.int64]:
        """Rows in a state: PUT, SKIPPED or PENDING."""
        return np.flatnonzero(self.state == state)

    def flush(self) -> None:
        """Make sure that what was put so far outlives this process; which knees that are is written last."""
        for array in (self.images, self.landmarks_px, self.visible, self.trust, self.state):
            cast("np.memmap[Any, Any]", array).flush()

    def close(
        self,
        targets: NDArray[np.float32],
        subject: NDArray[np.str_],
        split: NDArray[np.str_],
        source: NDArray[np.str_],
    ) -> list[str]:
        """Add what is known of all rows and let the store appear with those that were put; why others were not.

        The reasons stay in the store as `left_out.txt`.

        Raises:
            RecipeError: not one knee was put; what is there stays for another try.
        """
        rows = self.rows()
        left_out = self.partial / LEFT_OUT
        reasons = left_out.read_text(encoding="utf-8").splitlines() if left_out.is_file() else []
        if not len(rows):
            raise RecipeError(f"Not one of {len(self.state)} knees could be cut; the first: {(reasons or ['none'])[0]}")
        self.flush()
        if len(rows) < len(self.images):
            self._compact(rows)
        np.savez(
            self.partial / "knees.npz", rows=np.arange(len(rows)), manifest_rows=rows,
            landmarks_px=self.landmarks_px[rows], visible=self.visible[rows], trust=self.trust[rows],
            targets=targets[rows], subject=subject[rows], split=split[rows], source=source[rows],
        )  # fmt: skip
        for name in ("landmarks_px.npy", "visible.npy", "trust.npy", "state.npy"):
            (self.partial / name).unlink(missing_ok=True)
        os.replace(self.partial, self.directory)
        return reasons

    def _compact(self, rows: NDArray[np.int64]) -> None:
        """Leave only the pictures of `rows` on disk, so that a store can be mapped as it is."""
        compact = self.partial / "compact.npy"
        shape = (len(rows), DATASET_PX, DATASET_PX)
        pictures = np.lib.format.open_memmap(compact, mode="w+", dtype=np.uint8, shape=shape)
        for first in range(0, len(rows), 256):
            pictures[first : first + 256] = self.images[rows[first : first + 256]]
        pictures.flush()
        os.replace(compact, self.partial / "images.npy")

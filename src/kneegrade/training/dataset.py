"""The knee dataset on disk: level crops of the knees of a cohort, with landmarks and labels.

A dataset is a folder with two files, `images.npy` and `knees.npz`:

- `images.npy`: (N, 384, 384) uint8. Each picture shows one knee, level with the tibial plateau, lateral on the left.
  Pixel value 0 means "outside the film"; the grey values of the film are 1 … 255. A picture is larger than the crop
  that a network reads, which leaves a margin for augmentation. Its extent in plateau widths may differ from dataset to
  dataset: the crop for the network is placed by the landmarks.
- `knees.npz`: `landmarks_px`, `visible`, `trust` (the landmark weight), `targets`, `subject`, `split` and `source`, see
  `KneeDataset`; `rows`, the rows of `images.npy`; and `manifest_rows`, the rows of the manifest.

`DatasetWriter` writes `identity.txt` (what the dataset was made from) and `left_out.txt` (which knees it lacks, and
why) as well.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.geometry import ROI_PLATEAU_WIDTHS, extract_crop, roi_frame
from kneegrade.anatomy.knee import points_inside
from kneegrade.anatomy.landmark_scheme import ARTICULAR, NUM_LANDMARKS
from kneegrade.errors import RecipeError, UnreadableFileError
from kneegrade.files import new_array, write_text

DATASET_PX = 384
DATASET_PLATEAU_WIDTHS = 1.5
MAX_MEMORY_SHARE = 0.4  # of main memory for the pictures of one dataset; larger ones are memory-mapped
ARRAYS_FILE, IMAGES_FILE = "knees.npz", "images.npy"
LEFT_OUT_FILE, IDENTITY_FILE = "left_out.txt", "identity.txt"
ARRAY_KEYS = ("landmarks_px", "visible", "trust", "targets", "subject", "split", "source")  # fields of `KneeDataset`
WEIGHT_KEY = "trust"  # the key of `landmark_weight` in `knees.npz`


@dataclass(frozen=True, eq=False)
class KneeDataset:
    """The knees of one or several datasets.

    Attributes:
        images: (N, 384, 384) uint8, in memory or memory-mapped; 0 = outside the film.
        landmarks_px: (N, 74, 2) float32 (x, y) in pixels of `images`; NaN where unknown.
        visible: (N, 74) bool, True where the landmark is known and lies on the film.
        landmark_weight: (N,) float32 in (0, 1], weight of the landmarks in training: 1 for landmarks that were drawn or
            marked by hand, else the confidence of the detector.
        targets: (N, 29) float32 distributions over grades; NaN where a grade was not read.
        subject: (N,) str, identifier of the person.
        split: (N,) str, "train", "val" or "test".
        source: (N,) str, name of the cohort.
    """

    images: NDArray[np.uint8]
    landmarks_px: NDArray[np.float32]
    visible: NDArray[np.bool_]
    landmark_weight: NDArray[np.float32]
    targets: NDArray[np.float32]
    subject: NDArray[np.str_]
    split: NDArray[np.str_]
    source: NDArray[np.str_]

    def __len__(self) -> int:
        """Number of knees."""
        return len(self.targets)

    def frames(self, size_px: int, extent_in_plateau_widths: float = ROI_PLATEAU_WIDTHS) -> NDArray[np.float32]:
        """(N, 2, 3) matrices from pixels (x, y, 1) of a crop to pixels (x, y) of `images`.

        Args:
            size_px: side of the crop in its own pixels.
            extent_in_plateau_widths: side of the crop in plateau widths.
        """
        landmarks = (points.astype(np.float64) for points in self.landmarks_px)
        return np.stack([roi_frame(points, size_px, extent_in_plateau_widths).matrix for points in landmarks]).astype(
            np.float32
        )


def crop_knee(
    pixels: NDArray[np.float32], landmarks_px: NDArray[np.float64], extent_in_plateau_widths: float
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
    """Picture (384, 384), landmarks (74, 2) in its pixels and visibility (74,) of one knee, for `DatasetWriter.put`.

    Args:
        pixels: (H, W) float32 in [0, 1], the film.
        landmarks_px: (74, 2) in pixels of the film.
        extent_in_plateau_widths: side of the picture in plateau widths.

    Raises:
        UnreadableFileError: an articular landmark is not finite.
    """
    if not np.isfinite(landmarks_px[list(ARTICULAR)]).all():
        raise UnreadableFileError("An articular landmark of this knee is unknown (NaN).", code="landmarks")
    frame = roi_frame(landmarks_px, DATASET_PX, extent_in_plateau_widths)
    crop, inside = (part[0, 0].numpy() for part in extract_crop(pixels, frame))
    visible = points_inside(landmarks_px, pixels.shape)
    return encode(crop, inside), frame.to_roi(landmarks_px).astype(np.float32), visible


def encode(crop: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Grey values [0, 1] as 1 … 255, and 0 where `inside` (on the film) is False."""
    return np.where(inside, np.clip(np.rint(crop * 254) + 1, 1, 255), 0).astype(np.uint8)


def load_datasets(directories: tuple[Path, ...]) -> KneeDataset:
    """The knees of one or several datasets.

    Pictures are read into memory (147 kB per knee); a single dataset that does not fit is memory-mapped.

    Raises:
        RecipeError: a folder is no dataset, a dataset is damaged, or a person is in different splits of the datasets.
    """
    parts = []
    for directory in directories:
        if not is_dataset(directory):
            raise RecipeError(f"{directory} is not a dataset; make one from a manifest with `kneegrade dataset`.")
        try:
            with np.load(directory / ARRAYS_FILE) as arrays:
                knees = dict(arrays)
            images = np.load(directory / IMAGES_FILE, mmap_mode="r")
            rows = knees["rows"]
        except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
            raise RecipeError(f"The dataset {directory} is damaged; make it again with `kneegrade dataset`.") from error
        if len(directories) > 1 or len(rows) < len(images) or images.nbytes < MAX_MEMORY_SHARE * _memory_bytes():
            images = images[rows]
        # Early datasets hold no landmark weights; all their landmarks were drawn or marked by hand.
        weight = knees[WEIGHT_KEY][rows] if WEIGHT_KEY in knees else np.ones(len(rows), dtype=np.float32)
        parts.append((images, *(weight if key == WEIGHT_KEY else knees[key][rows] for key in ARRAY_KEYS)))
    if len(parts) == 1:
        return KneeDataset(*parts[0])
    dataset = KneeDataset(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    _check_splits_of_people(dataset)
    return dataset


def is_dataset(directory: Path) -> bool:
    """Whether a folder holds a finished dataset."""
    return (directory / ARRAYS_FILE).is_file()


def manifest_rows(directory: Path) -> NDArray[np.int64]:
    """(N,) row of the manifest that each knee of the dataset in `directory` was made from."""
    with np.load(directory / ARRAYS_FILE) as knees:  # in early datasets `rows` are those of the manifest
        rows: NDArray[np.int64] = knees["manifest_rows" if "manifest_rows" in knees else "rows"]
    return rows


def _check_splits_of_people(dataset: KneeDataset) -> None:
    """Refuse datasets that put one person into two splits; OAI and Chen 2018, for example, have the same people."""
    people = np.unique(np.stack([dataset.subject, dataset.split]), axis=1)
    names, counts = np.unique(people[0], return_counts=True)
    if (counts > 1).any():
        raise RecipeError(
            f"{int((counts > 1).sum())} subjects are in more than one split of these datasets (first: "
            f"{names[counts > 1][0]}). Use the same split of the subjects in the manifests of all datasets."
        )


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


PENDING, PUT, SKIPPED, EMPTY = 0, 1, 2, 3  # states of a row of a `DatasetWriter`


class DatasetWriter:
    """Writes a new dataset knee by knee; the folder appears under its name when the dataset is complete.

    Until then the knees are in `<directory>.tmp`. A new writer with the same `identity` continues there: knees that
    were put are kept, knees that were left out are tried again.

    Args:
        directory: must not exist.
        number: maximum number of knees.
        identity: describes everything that the content depends on; kept in the dataset as `identity.txt`.

    Raises:
        RecipeError: the folder exists, or `<directory>.tmp` is an unfinished dataset with another identity.
    """

    def __init__(self, directory: Path, number: int, identity: str) -> None:
        if directory.exists():
            raise RecipeError(f"{directory} already exists; remove it or choose another folder.")
        self.directory, self.partial = directory, directory.with_name(directory.name + ".tmp")
        marker = self.partial / IDENTITY_FILE
        self._resumed = marker.is_file()
        if self._resumed and marker.read_text(encoding="utf-8") != identity:
            raise RecipeError(
                f"{self.partial} is an unfinished dataset of other knees; remove it or choose another folder."
            )
        if not self._resumed:
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)
        self.images: NDArray[np.uint8] = self._array("images", np.uint8, (number, DATASET_PX, DATASET_PX))
        self.landmarks_px: NDArray[np.float32] = self._array("landmarks_px", np.float32, (number, NUM_LANDMARKS, 2))
        self.visible: NDArray[np.bool_] = self._array("visible", np.bool_, (number, NUM_LANDMARKS))
        self.landmark_weight: NDArray[np.float32] = self._array("trust", np.float32, (number,))
        self.state: NDArray[np.uint8] = self._array("state", np.uint8, (number,))
        self.state[self.state == SKIPPED] = PENDING
        (self.partial / LEFT_OUT_FILE).unlink(missing_ok=True)
        write_text(marker, identity)

    def _array(self, name: str, dtype: type, shape: tuple[int, ...]) -> Any:
        path = self.partial / f"{name}.npy"
        return np.lib.format.open_memmap(path, mode="r+") if self._resumed else new_array(path, dtype, shape)

    def put(
        self, row: int, image: NDArray[np.uint8], landmarks_px: NDArray[np.floating], visible: NDArray[np.bool_],
        landmark_weight: float = 1.0,
    ) -> None:  # fmt: skip
        """Write one knee; see `KneeDataset` for the arrays."""
        self.images[row], self.landmarks_px[row], self.visible[row] = image, landmarks_px, visible
        self.landmark_weight[row], self.state[row] = landmark_weight, PUT

    def skip(self, row: int, reason: str) -> None:
        """Leave one knee out; `close` returns the reason."""
        with (self.partial / LEFT_OUT_FILE).open("a", encoding="utf-8") as file:
            file.write(reason.replace("\n", " ") + "\n")
        self.state[row] = SKIPPED

    def leave_empty(self, row: int) -> None:
        """Mark a row for which there is no knee, for example the second knee of a film that shows one."""
        self.state[row] = EMPTY

    def rows(self, state: int = PUT) -> NDArray[np.int64]:
        """Rows in one state: PENDING, PUT, SKIPPED or EMPTY."""
        return np.flatnonzero(self.state == state)

    def flush(self) -> None:
        """Write all knees put so far to disk. The states are written last, so that no unwritten knee counts as put."""
        for array in (self.images, self.landmarks_px, self.visible, self.landmark_weight, self.state):
            cast("np.memmap[Any, Any]", array).flush()

    def close(
        self,
        targets: NDArray[np.float32],
        subject: NDArray[np.str_],
        split: NDArray[np.str_],
        source: NDArray[np.str_],
    ) -> list[str]:
        """Complete the dataset with the knees that were put; the reasons why the others were left out.

        Args:
            targets: (number, 29), as the others for all rows; see `KneeDataset`.
            subject: (number,).
            split: (number,).
            source: (number,).

        Raises:
            RecipeError: no knee was put; the partial folder stays, so that the next call can try again.
        """
        rows = self.rows()
        left_out = self.partial / LEFT_OUT_FILE
        reasons = left_out.read_text(encoding="utf-8").splitlines() if left_out.is_file() else []
        if not len(rows):
            first = reasons[0] if reasons else "no reason given"
            raise RecipeError(f"None of the {len(self.state)} knees could be cropped; the first: {first}")
        self.flush()
        if len(rows) < len(self.images):
            self._compact(rows)
        np.savez(
            self.partial / ARRAYS_FILE, rows=np.arange(len(rows)), manifest_rows=rows,
            landmarks_px=self.landmarks_px[rows], visible=self.visible[rows], trust=self.landmark_weight[rows],
            targets=targets[rows], subject=subject[rows], split=split[rows], source=source[rows],
        )  # fmt: skip
        for name in ("landmarks_px.npy", "visible.npy", "trust.npy", "state.npy"):
            (self.partial / name).unlink(missing_ok=True)
        os.replace(self.partial, self.directory)
        return reasons

    def _compact(self, rows: NDArray[np.int64]) -> None:
        """Keep only the pictures of `rows` on disk, so that the file can be memory-mapped as it is."""
        compact = self.partial / "compact.npy"
        shape = (len(rows), DATASET_PX, DATASET_PX)
        pictures = new_array(compact, np.uint8, shape)
        for first in range(0, len(rows), 256):
            pictures[first : first + 256] = self.images[rows[first : first + 256]]
        pictures.flush()
        os.replace(compact, self.partial / IMAGES_FILE)

"""`StoreWriter`: a store in the making, which appears whole and survives being stopped."""

import os
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from kneegrade.errors import RecipeError
from kneegrade.learning.store import STORE_PX

PENDING, PUT, SKIPPED = 0, 1, 2
LEFT_OUT = "left_out.txt"


class StoreWriter:
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
        self.images: NDArray[np.uint8] = self._array("images", np.uint8, (number, STORE_PX, STORE_PX))
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
        """Write one knee; see `Store` for the arrays."""
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
        shape = (len(rows), STORE_PX, STORE_PX)
        pictures = np.lib.format.open_memmap(compact, mode="w+", dtype=np.uint8, shape=shape)
        for first in range(0, len(rows), 256):
            pictures[first : first + 256] = self.images[rows[first : first + 256]]
        pictures.flush()
        os.replace(compact, self.partial / "images.npy")

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


class StoreWriter:
    """Fills the new store `directory` knee by knee; it appears whole when closed.

    Args:
        directory: must not exist.
        number: of knees at most.
        identity: what is written into it, kept in the store as `identity.txt`; the knees that a stopped writer of the
            same identity had finished are kept.

    Raises:
        RecipeError: the folder exists already.
    """

    def __init__(self, directory: Path, number: int, identity: str | None = None) -> None:
        if directory.exists():
            raise RecipeError(f"{directory} exists already; remove it or name another folder.")
        self.directory, self.partial = directory, directory.with_name(directory.name + ".tmp")
        marker = self.partial / "identity.txt"
        self._kept = identity is not None and marker.is_file() and marker.read_text(encoding="utf-8") == identity
        if not self._kept:
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)
        self.images: NDArray[np.uint8] = self._array("images", np.uint8, (number, STORE_PX, STORE_PX))
        self.landmarks_px: NDArray[np.float32] = self._array("landmarks_px", np.float32, (number, 74, 2))
        self.visible: NDArray[np.bool_] = self._array("visible", np.bool_, (number, 74))
        self.trust: NDArray[np.float32] = self._array("trust", np.float32, (number,))
        self.state: NDArray[np.uint8] = self._array("state", np.uint8, (number,))
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
        with (self.partial / "left_out.txt").open("a", encoding="utf-8") as file:
            file.write(reason.replace("\n", " ") + "\n")
        self.state[row] = SKIPPED

    def rows(self, state: int = PUT) -> NDArray[np.int64]:
        """Rows in a state: PUT, SKIPPED or PENDING."""
        return np.flatnonzero(self.state == state)

    def flush(self) -> None:
        """Make sure that what was put so far outlives this process."""
        for array in (self.images, self.landmarks_px, self.visible, self.trust, self.state):
            cast("np.memmap[Any, Any]", array).flush()

    def close(
        self,
        targets: NDArray[np.float32],
        subject: NDArray[np.str_],
        split: NDArray[np.str_],
        source: NDArray[np.str_],
    ) -> list[str]:
        """Add what is known of all rows and let the store appear with those that were put; why others were not."""
        self.flush()
        np.savez(
            self.partial / "knees.npz", rows=self.rows(), landmarks_px=self.landmarks_px, visible=self.visible,
            trust=self.trust, targets=targets, subject=subject, split=split, source=source,
        )  # fmt: skip
        left_out = self.partial / "left_out.txt"
        reasons = left_out.read_text(encoding="utf-8").splitlines() if left_out.is_file() else []
        for name in ("landmarks_px.npy", "visible.npy", "trust.npy", "state.npy", "left_out.txt"):
            (self.partial / name).unlink(missing_ok=True)
        os.replace(self.partial, self.directory)
        return reasons

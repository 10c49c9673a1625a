"""Pixels of films for the page: 16-bit grey as it was graded, decoded once and kept for a while."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from kneegrade.clinical.clinical_film import read_as_graded
from kneegrade.errors import UnsupportedFileError
from kneegrade.imaging.sources import sha256_of
from kneegrade.server.reading.reading_film import FilmContent, FilmResults

KEPT_BYTES: Final = 256 << 20  # of decoded films: about twelve of ten megapixels


@dataclass(frozen=True)
class FilmPixels:
    """Grey values of a film, bone bright.

    Attributes:
        rows: height.
        columns: width.
        grey: uint16, little-endian, row by row.
    """

    rows: int
    columns: int
    grey: bytes = field(repr=False)


class PixelCache:
    """The pixels of the films that were opened last. Safe to use from several threads."""

    def __init__(self, limit_bytes: int = KEPT_BYTES) -> None:
        self._limit, self._kept = limit_bytes, OrderedDict[str, FilmPixels]()
        self._lock, self._decoding = threading.Lock(), dict[str, threading.Lock]()

    def of(self, film: FilmResults, content: FilmContent) -> FilmPixels:
        """The pixels of a film.

        Raises:
            UnsupportedFileError: the file is not the one that was graded.
            KneeGradeError: the file cannot be read.
        """
        with self._lock:
            own = self._decoding.setdefault(film.key, threading.Lock())
        with own:  # a second request for the same film waits for the first one
            with self._lock:
                if film.key in self._kept:
                    self._kept.move_to_end(film.key)
                    return self._kept[film.key]
            pixels = _decoded(film, content)
            with self._lock:
                self._kept[film.key] = pixels
                while len(self._kept) > 1 and sum(len(one.grey) for one in self._kept.values()) > self._limit:
                    self._kept.popitem(last=False)
            return pixels


def _decoded(film: FilmResults, content: FilmContent) -> FilmPixels:
    if film.sha256 is not None and sha256_of(content.content) != film.sha256:
        raise UnsupportedFileError(
            "The file changed after it was graded, so its results do not belong to it. Grade it again.",
            code="file_changed",
        )
    pixels = read_as_graded(content.content, film.graded).pixels
    grey = np.clip(pixels, 0, 1)
    grey *= 65535
    np.rint(grey, out=grey)
    rows, columns = pixels.shape
    return FilmPixels(rows, columns, grey.astype("<u2").tobytes())

"""Promise 1: no file brings kneegrade down, and no damage turns, mirrors or inverts a film without a warning."""

import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from attack_tools import SEED, say, tries
from mutations import corpus, mutations, own_dicom

from kneegrade.errors import KneeGradeError
from kneegrade.imaging import Limits, Radiograph, find_sources, read_radiograph

LIMITS = Limits(child_seconds=10)


def outcome_of(data: bytes) -> tuple[str, Radiograph | None]:
    """The code of the error or "read", and the radiograph; any other exception, or a warning, is a fault."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            radiograph = read_radiograph(data, limits=LIMITS)
    except KneeGradeError as error:
        assert "\n" not in error.message
        assert "Nobody" not in error.message
        return error.code, None
    assert radiograph.pixels.dtype == np.float32
    assert np.isfinite(radiograph.pixels).all()
    assert 0 <= radiograph.pixels.min() <= radiograph.pixels.max() <= 1
    return "read", radiograph


def try_all(found: Iterable[tuple[str, str, bytes]], read=outcome_of) -> tuple[Counter[str], list[str]]:
    """Counts of outcomes, and the faults: exceptions that are no `KneeGradeError`, and answers after 10 s."""
    counts: Counter[str] = Counter()
    faults = []
    for number, (name, kind, data) in enumerate(found):
        start = time.monotonic()
        try:
            code, _ = read(data)
        except Exception as error:
            code = type(error).__name__
            faults.append(f"{number} {name} {kind}: {error!r}")
        if code == "time" or time.monotonic() - start > 12:
            faults.append(f"{number} {name} {kind}: no answer within 10 s")
        counts[code] += 1
    return counts, faults


def test_damaged_files_are_read_or_refused() -> None:
    count = tries(20_000, 300)
    counts, faults = try_all(mutations(corpus(), SEED, count))
    say(1, f"{count} damaged files of {len(corpus())}: {dict(counts.most_common())}; {len(faults)} faults")
    assert faults == []


def test_an_exception_that_is_no_error_of_kneegrade_would_be_seen() -> None:
    def faulty(data: bytes) -> tuple[str, None]:
        raise IndexError if len(data) % 2 else ValueError

    _, faults = try_all(mutations(corpus(), SEED, 10), faulty)
    assert len(faults) == 10

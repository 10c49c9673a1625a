"""Polarity and quality checks on public films, skipped when the data are not available.

Set KNEEGRADE_REAL_DATA to the folder with `chen2018_kneeKL299_train_val.zip` (and `wani2021_knee_films_half.zip`).
"""

import os
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from kneegrade.imaging import Radiograph, check_crop, check_film, looks_inverted, normalise, polarity_score

FOLDER = Path(os.environ.get("KNEEGRADE_REAL_DATA", "/nonexistent"))
CHEN = FOLDER / "chen2018_kneeKL299_train_val.zip"
WANI = FOLDER / "wani2021_knee_films_half.zip"
needs_chen = pytest.mark.skipif(not CHEN.exists(), reason="KNEEGRADE_REAL_DATA does not contain the Chen 2018 crops")
needs_wani = pytest.mark.skipif(not WANI.exists(), reason="KNEEGRADE_REAL_DATA does not contain the Wani 2021 films")

# number of negatives among the validation crops, counted by visual inspection
NEGATIVES = 14


def films(archive: Path, part: str = "", every: int = 1) -> Iterator[tuple[str, np.ndarray]]:
    with zipfile.ZipFile(archive) as members:
        names = sorted(name for name in members.namelist() if name.startswith(part) and name.endswith(".jpg"))
        for name in names[::every]:
            yield name, np.asarray(Image.open(BytesIO(members.read(name))).convert("L"))


@needs_chen
def test_negatives_among_the_validation_crops_are_detected_with_a_wide_margin() -> None:
    scores = np.array([polarity_score(crop) for _, crop in films(CHEN, "val/")])
    assert (scores < 0).sum() == NEGATIVES
    assert np.abs(scores).min() > 0.5


@needs_chen
def test_a_crop_and_its_negative_are_distinguished_and_give_the_same_pixels() -> None:
    for name, crop in films(CHEN, "train/", every=20):
        assert looks_inverted(crop) != looks_inverted(255 - crop), name
        np.testing.assert_allclose(normalise(crop)[0], normalise(255 - crop)[0], atol=1e-5)


@needs_chen
def test_quality_checks_reject_almost_no_crop_and_most_blurred_crops() -> None:
    rejected, blurred, total = 0, 0, 0
    for _, crop in films(CHEN, "train/", every=20):
        resized = np.asarray(Image.fromarray(crop).resize((224, 224), Image.Resampling.BILINEAR))
        pixels, _ = normalise(resized)
        rejected += bool(check_crop(pixels)) or bool(check_film(Radiograph(normalise(crop)[0])))
        blurred += "blur" in [finding.code for finding in check_crop(ndimage.gaussian_filter(pixels, 3.5))]
        total += 1
    assert rejected / total <= 0.005
    assert blurred / total >= 0.9


@needs_wani
def test_whole_films_are_positives_without_findings() -> None:
    for name, film in films(WANI):
        pixels, findings = normalise(film)
        assert findings == (), name
        assert looks_inverted(255 - film), name
        assert check_film(Radiograph(pixels)) == (), name

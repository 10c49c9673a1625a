import base64
from dataclasses import replace
from io import BytesIO

import numpy as np
from PIL import Image

from kneegrade.reporting.html_pages import picture_of


def test_picture_is_accurate_and_leaves_out_points_that_were_not_read(report):
    evidence = report.radiographs[0].knees[0].evidence
    ramp = np.tile(np.linspace(20, 230, 320).astype(np.uint8), (320, 1))
    picture = picture_of(replace(evidence, roi=ramp))
    image = Image.open(BytesIO(base64.b64decode(picture.uri.split(",")[1])))
    assert image.size == (320, 320)
    assert np.abs(np.asarray(image, dtype=float) - ramp).max() <= 4
    assert len(picture.points) + picture.unread == 74
    assert len(picture.points) == evidence.landmark_visible.sum()
    assert picture.outlines[0].startswith("M")
    assert "nan" not in picture.outlines[0]


def test_picture_of_noise_stays_small(report, rng):
    evidence = report.radiographs[0].knees[0].evidence
    uri = picture_of(replace(evidence, roi=rng.integers(0, 256, (224, 224), dtype=np.uint8))).uri
    assert len(base64.b64decode(uri.split(",")[1])) <= 25_000

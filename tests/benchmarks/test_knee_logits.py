"""The network alone, on pictures with known landmarks."""

from pathlib import Path

import numpy as np
import pytest

from kneegrade import Grader
from kneegrade.grader import detect_knees
from kneegrade.imaging import read_radiograph

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_tight_crop_gets_the_probabilities_of_the_pipeline():
    """Its crop reaches beyond the film, which the shipped network is told by a mask."""
    from knee_logits import Picture, graded

    grader = Grader("cpu", quality_control=False)
    film = read_radiograph(EXAMPLES / "single_right.dcm")
    (knee,) = detect_knees("film", film, grader.detector).knees
    left, right = np.rint(knee.landmarks_px[:, 0].min() - 5).astype(int), np.rint(knee.landmarks_px[:, 0].max() + 6)
    tight = film.pixels[:, left : int(right)]
    (own,) = detect_knees("tight", read_radiograph(tight, laterality="R"), grader.detector).knees
    assert grader.network.config.mask_outside
    assert not own.inside.all()
    (reported,) = grader.grade(tight, side="R").radiographs[0].knees
    expected = np.concatenate([result.probabilities for result in reported.grades.values()])
    found = graded(grader, [Picture(tight, own.landmarks_px)]).probabilities[0]
    assert found == pytest.approx(expected, abs=1e-2)

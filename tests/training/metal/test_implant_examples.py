import numpy as np
import pytest
import torch

from kneegrade.phantom import render_rois, sample_knee
from kneegrade.training.metal import film_objects
from kneegrade.training.metal.drawn_metal import knee_mm
from kneegrade.training.metal.film_objects import draw_film_objects
from kneegrade.training.metal.implant_examples import (
    KneePictures,
    concatenate_examples,
    crop_example,
    draw_example,
    make_examples,
    plain_inputs,
)


@pytest.fixture(scope="module")
def knees():
    """Six phantoms in pictures of 1.5 plateau widths whose lowest rows are outside the film."""
    pixels, landmarks = render_rois([sample_knee(5, i) for i in range(6)], 192, 1.5)
    images = (pixels.numpy() * 254 + 1).round().astype(np.uint8)
    images[:, 150:] = 0
    return KneePictures(images, landmarks, "phantoms")


def test_a_crop_shows_the_knee_at_its_landmarks_and_what_is_off_the_film_is_not_covered(knees):
    crop, inside, points = crop_example(knees, 0, None)
    assert crop.shape == inside.shape == (216, 216)
    assert np.hypot(*(points[63] - points[47])) == pytest.approx(216 / 1.2, rel=0.01)
    scale = 1.5 / 1.2 * 216 / 192
    assert not inside[-1].any()
    assert inside[:, 108].sum() == pytest.approx((150 - 192 / 2) * scale + 108, abs=12)
    assert (crop[~inside] == 0).all()


def test_metal_changes_the_knee_and_the_classes_share_everything_else(knees):
    plain, covered = draw_example(knees, 1, False, np.random.default_rng(4))
    metal, same = draw_example(knees, 1, True, np.random.default_rng(4))
    np.testing.assert_array_equal(covered, same)
    assert np.abs(metal - plain).max() > 0.1


def test_examples_are_a_function_of_the_seed_and_every_second_one_has_metal(knees):
    examples = make_examples(knees, 9, 2)
    np.testing.assert_array_equal(examples.metal, [True, False] * 4 + [True])
    assert set(examples.site) == {"phantoms"}
    np.testing.assert_array_equal(make_examples(knees, 9, 2).inputs, examples.inputs)
    assert (make_examples(knees, 9, 3).inputs != examples.inputs).any()
    both = concatenate_examples([examples, examples])
    assert len(both) == 18
    assert len(both.without("phantoms")) == 0


def test_plain_inputs_mark_what_is_off_the_film_with_zero(knees):
    inputs = plain_inputs(knees)
    assert inputs.shape == (6, 144, 144)
    assert (inputs[:, -1] == 0).all()
    assert inputs[:, 72, 72].min() > 0
    inside = inputs[0][inputs[0] > 0]
    assert (inside.min(), inside.max()) == (1, 255)  # stretched


def test_film_objects_stay_away_from_most_bones(monkeypatch, knees):
    """Balls only: they cover soft tissue and background, not the middle of the joint."""
    monkeypatch.setattr(film_objects, "BALL", 1.0)
    monkeypatch.setattr(film_objects, "MARKERS", 0.0)
    monkeypatch.setattr(film_objects, "COLLIMATION", 0.0)
    monkeypatch.setattr(film_objects, "OBJECTS", ())
    _, _, points = crop_example(knees, 2, None)
    points_mm, px_per_mm = knee_mm(points)
    grey = np.full((216, 216), 0.3, dtype=np.float32)
    for seed in range(20):
        drawn = draw_film_objects(grey, points_mm, px_per_mm, np.random.default_rng(seed))
        assert drawn[80:140, 60:156].max() == pytest.approx(0.3, abs=0.01)


def test_no_global_random_state_is_used(knees):
    state = torch.random.get_rng_state()
    make_examples(knees, 3, 0)
    assert torch.equal(state, torch.random.get_rng_state())

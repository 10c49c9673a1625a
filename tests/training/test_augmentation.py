import math

import pytest
import torch

from kneegrade.anatomy.geometry import stretch_contrast
from kneegrade.imaging.styles import apply_styles
from kneegrade.training.augmentation import (
    augment_covered_images,
    augment_images,
    augment_landmarks,
    crop_matrices,
    identity_params,
    make_params,
)
from kneegrade.training.config import Augmentation
from kneegrade.training.dataset import load_datasets

STRONG = Augmentation(translation_px=20, rotation_deg=15, scale=0.2, log_gamma=0.3, noise=0.05, landmark_dropout=0.2)


def batch(directory):
    dataset = load_datasets((directory,))
    frames = torch.from_numpy(dataset.frames(224))
    return (
        torch.from_numpy(dataset.images),
        torch.from_numpy(dataset.landmarks_px),
        torch.from_numpy(dataset.visible),
        frames,
    )


def test_the_same_seed_draws_the_same_parameters():
    first, second = (make_params(4, STRONG, torch.Generator().manual_seed(7)) for _ in range(2))
    for name in ("shift", "angle_rad", "scale", "gamma", "noise", "jitter", "dropped"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name))


def test_identity_parameters_leave_the_frame():
    frames = torch.rand(3, 2, 3)
    torch.testing.assert_close(crop_matrices(frames, identity_params(3), 224), frames)


def test_landmarks_move_with_the_pixels(phantom_dataset):
    """The matrix of the crop maps its landmarks back to those of the dataset image."""
    images, landmarks, visible, frames = batch(phantom_dataset)
    geometry = STRONG.model_copy(update={"log_gamma": 0.0, "noise": 0.0, "landmark_dropout": 0.0})
    params = make_params(len(images), geometry, torch.Generator().manual_seed(1))
    matrices = crop_matrices(frames, params, 224)
    points, seen = augment_landmarks(landmarks, visible, matrices, params, 224)
    back = (matrices[:, :, :2] @ points.transpose(1, 2)).transpose(1, 2) + matrices[:, None, :, 2]
    torch.testing.assert_close(back[seen], landmarks[seen], atol=1e-2, rtol=0)
    assert seen.float().mean() > 0.5
    assert ((points[seen] >= 0) & (points[seen] <= 223)).all()


def test_dropped_landmarks_are_not_visible(phantom_dataset):
    _, landmarks, visible, frames = batch(phantom_dataset)
    params = make_params(len(frames), STRONG, torch.Generator().manual_seed(1))
    _, seen = augment_landmarks(landmarks, visible, crop_matrices(frames, params, 224), params, 224)
    assert not (seen & params.dropped).any()


def test_crops_are_in_range_and_reproducible(phantom_dataset):
    images, _, _, frames = batch(phantom_dataset)
    params = make_params(len(images), STRONG, torch.Generator().manual_seed(3))
    matrices = crop_matrices(frames, params, 224)
    first, second = (augment_images(images, matrices, params, 224) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert first.min() == 0
    assert first.max() == 1


def test_styles_and_anisotropy_leave_the_other_parameters():
    """They are drawn last, so that a recipe without them draws what it drew before they existed."""
    plain = make_params(6, STRONG, torch.Generator().manual_seed(7))
    more = STRONG.model_copy(update={"anisotropy": 0.05, "styles": 0.5})
    styled = make_params(6, more, torch.Generator().manual_seed(7))
    for name in ("shift", "angle_rad", "scale", "gamma", "noise", "blur", "shade", "jitter", "dropped"):
        assert torch.equal(getattr(plain, name), getattr(styled, name))
    assert plain.noise_seed == styled.noise_seed
    assert plain.styles is None
    assert (plain.anisotropy == 1).all()


def test_the_default_draws_no_more_numbers_than_its_fields_hold():
    generator, reference = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    make_params(5, Augmentation(), generator)
    for shape in ((5, 2), (5,), (5,), (5,), (5,)):
        torch.rand(*shape, generator=reference)
    torch.randint(2**31, (1,), generator=reference)
    torch.randn(5, 74, 2, generator=reference)
    for shape in ((5, 74), (5,), (5, 1, 4, 4)):
        torch.rand(*shape, generator=reference)
    assert torch.equal(torch.rand(9, generator=generator), torch.rand(9, generator=reference))


def test_isotropic_matrices_are_rotations_times_a_factor_to_the_last_bit():
    frames, params = torch.rand(3, 2, 3), make_params(3, STRONG, torch.Generator().manual_seed(2))
    cos, sin = params.angle_rad.cos() * params.scale, params.angle_rad.sin() * params.scale
    rotation = torch.stack([cos, -sin, sin, cos], dim=1).reshape(-1, 2, 2)
    offset = (223 / 2) + params.shift * 224 - rotation.sum(2) * (223 / 2)
    linear = frames[:, :, :2]
    expected = torch.cat([linear @ rotation, linear @ offset.unsqueeze(2) + frames[:, :, 2:]], dim=2)
    assert torch.equal(crop_matrices(frames, params, 224), expected)


def test_anisotropy_changes_the_ratio_of_the_sides_and_not_the_area():
    frames = torch.eye(2, 3).expand(50, 2, 3)
    recipe = Augmentation(translation_px=0, rotation_deg=0, scale=0, anisotropy=0.05)
    params = make_params(50, recipe, torch.Generator().manual_seed(1))
    linear = crop_matrices(frames, params, 224)[:, :, :2]
    ratio = linear[:, 0, 0] / linear[:, 1, 1]
    torch.testing.assert_close(ratio, params.anisotropy)
    assert 0.95 <= ratio.min() < 0.96 < 1.04 < ratio.max() <= 1.05
    torch.testing.assert_close(torch.linalg.det(linear), torch.ones(50))


def test_a_style_is_applied_after_the_contrast_stretch_and_before_a_second_one(phantom_dataset):
    images, _, _, frames = batch(phantom_dataset)
    recipe = Augmentation(translation_px=0, rotation_deg=0, scale=0, styles=0.5)
    params = make_params(len(images), recipe, torch.Generator().manual_seed(3))
    plain, covered = augment_covered_images(images, frames, identity_params(len(images)), 224)
    expected, left = apply_styles(plain, covered, params.styles)
    crops, inside = augment_covered_images(images, frames, params, 224)
    styled = params.styles.styled
    assert 0 < styled.sum() < len(styled)
    assert torch.equal(crops[~styled], plain[~styled])
    torch.testing.assert_close(crops[styled], stretch_contrast(expected, left)[styled])
    assert torch.equal(inside, left)


def test_styles_of_strength_0_hardly_change_a_crop(phantom_dataset):
    images, _, _, frames = batch(phantom_dataset)
    recipe = Augmentation(translation_px=0, rotation_deg=0, scale=0, styles=1, style_strength=0)
    params = make_params(len(images), recipe, torch.Generator().manual_seed(3))
    plain = augment_images(images, frames, identity_params(len(images)), 224)
    assert (augment_images(images, frames, params, 224) - plain).abs().max() < 0.03


def test_rotation_can_be_large(phantom_dataset):
    """At ± 25 degrees all articular landmarks of a crop stay in it or are marked as hidden."""
    _, landmarks, visible, frames = batch(phantom_dataset)
    recipe = Augmentation(rotation_deg=25, anisotropy=0.05)
    params = make_params(len(frames), recipe, torch.Generator().manual_seed(1))
    assert params.angle_rad.abs().max() > math.radians(20)
    points, seen = augment_landmarks(landmarks, visible, crop_matrices(frames, params, 224), params, 224)
    inside = ((points >= 0) & (points <= 223)).all(-1)
    assert torch.equal(seen, visible & inside)


@pytest.mark.parametrize("size_px", [144, 384])
def test_styles_fit_crops_of_any_size(phantom_dataset, size_px):
    dataset = load_datasets((phantom_dataset,))
    params = make_params(4, Augmentation(styles=1), torch.Generator().manual_seed(0))
    matrices = crop_matrices(torch.from_numpy(dataset.frames(size_px))[:4], params, size_px)
    crops = augment_images(torch.from_numpy(dataset.images[:4]), matrices, params, size_px)
    assert crops.shape == (4, 1, size_px, size_px)
    assert crops.isfinite().all()

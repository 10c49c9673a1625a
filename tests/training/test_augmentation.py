import torch

from kneegrade.training.augmentation import (
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

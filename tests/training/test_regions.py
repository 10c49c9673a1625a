import numpy as np
import pytest
import torch

from kneegrade.training.augmentation import identity_params, make_params
from kneegrade.training.batches import CropBatches, averaged_down
from kneegrade.training.config import Augmentation
from kneegrade.training.dataset import crop_knee, load_datasets

ROWS = np.array([0, 5, 11])


def test_averaging_down_by_hand():
    picture = np.full((1, 4, 4), 10, dtype=np.uint8)
    picture[0, :2, :2] = [[10, 20], [30, 40]]
    picture[0, 2, 3] = 0
    assert averaged_down(picture, 2)[0].tolist() == [[25, 10], [10, 0]]
    assert averaged_down(picture, 1) is picture


@pytest.mark.parametrize("size", [64, 128, 224])
def test_landmarks_stay_on_what_they_mark_whatever_the_size(phantom_store, size):
    """A region's landmarks are those of the store seen through the frame, though the picture was averaged down."""
    store = load_datasets((phantom_store,))
    batch = CropBatches(store, size).batch(ROWS, identity_params(3))
    frames = torch.from_numpy(store.frames(size)[ROWS])
    back = (frames[:, :, :2] @ batch.landmarks_px.transpose(1, 2)).transpose(1, 2) + frames[:, None, :, 2]
    expected = torch.from_numpy(store.landmarks_px[ROWS])
    seen = batch.visible
    torch.testing.assert_close(back[seen], expected[seen], atol=2e-3, rtol=0)


def test_small_regions_show_what_large_ones_show(phantom_store):
    store = load_datasets((phantom_store,))
    small, large = (CropBatches(store, size).batch(ROWS, identity_params(3)).roi for size in (64, 256))
    shrunk = torch.nn.functional.avg_pool2d(large, 4)
    assert (small - shrunk).abs().mean() < 0.03
    assert np.corrcoef(small.flatten(), shrunk.flatten())[0, 1] > 0.98


def test_a_batch_is_its_knees_one_by_one(phantom_store):
    regions = CropBatches(load_datasets((phantom_store,)), 96)
    together = regions.batch(ROWS, identity_params(3))
    for i, row in enumerate(ROWS):
        alone = regions.batch(np.array([row]), identity_params(1))
        torch.testing.assert_close(alone.roi[0], together.roi[i])
        torch.testing.assert_close(alone.landmarks_px[0], together.landmarks_px[i])


def test_a_film_and_its_mirror_image_give_the_same_region():
    """Landmarks run from lateral to medial in every knee, so side and mirroring leave no trace."""
    generator = np.random.default_rng(0)
    pixels = generator.random((300, 280)).astype(np.float32)
    angle = np.linspace(0, 1, 37)
    femur = np.stack([80 + 120 * angle, 130 - 20 * np.sin(angle * 9)], axis=1)
    tibia = np.stack([80 + 120 * angle, 160 + 20 * np.cos(angle * 7)], axis=1)
    landmarks = np.concatenate([femur, tibia])
    mirrored = np.stack([pixels.shape[1] - 1 - landmarks[:, 0], landmarks[:, 1]], axis=1)
    straight = crop_knee(pixels, landmarks, 1.2)
    turned = crop_knee(np.ascontiguousarray(pixels[:, ::-1]), mirrored, 1.2)
    np.testing.assert_allclose(turned[0].astype(int), straight[0].astype(int), atol=1)
    np.testing.assert_allclose(turned[1], straight[1], atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_cuts_what_the_cpu_cuts(phantom_store):
    store = load_datasets((phantom_store,))
    changes = make_params(3, Augmentation(log_gamma=0.3), torch.Generator().manual_seed(0))
    cpu, gpu = (CropBatches(store, 128, device).batch(ROWS, changes) for device in ("cpu", "cuda"))
    torch.testing.assert_close(gpu.roi.cpu(), cpu.roi, atol=2e-3, rtol=0)
    torch.testing.assert_close(gpu.landmarks_px.cpu(), cpu.landmarks_px, atol=1e-3, rtol=0)

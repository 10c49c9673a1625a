import numpy as np
import pytest
import torch

from kneegrade.training.augmentation import identity_params, make_params
from kneegrade.training.batches import CropBatches, downsample
from kneegrade.training.config import Augmentation
from kneegrade.training.dataset import load_datasets

ROWS = np.array([0, 5, 11])


@pytest.fixture(scope="module")
def dataset(phantom_dataset):
    return load_datasets((phantom_dataset,))


def test_downsample_against_hand_computed_values():
    picture = np.full((1, 4, 4), 10, dtype=np.uint8)
    picture[0, :2, :2] = [[10, 20], [30, 40]]
    picture[0, 2, 3] = 0
    assert downsample(picture, 2)[0].tolist() == [[25, 10], [10, 0]]
    assert downsample(picture, 1) is picture


@pytest.mark.parametrize("size", [64, 128, 224])
def test_landmarks_of_a_crop_map_back_to_those_of_the_dataset(dataset, size):
    """Also where the picture was downsampled before it was cropped."""
    batch = CropBatches(dataset, size).batch(ROWS, identity_params(3))
    frames = torch.from_numpy(dataset.frames(size)[ROWS])
    back = (frames[:, :, :2] @ batch.landmarks_px.transpose(1, 2)).transpose(1, 2) + frames[:, None, :, 2]
    expected = torch.from_numpy(dataset.landmarks_px[ROWS])
    visible = batch.visible
    torch.testing.assert_close(back[visible], expected[visible], atol=2e-3, rtol=0)


def test_small_and_large_crops_show_the_same(dataset):
    small, large = (CropBatches(dataset, size).batch(ROWS, identity_params(3)).roi for size in (64, 256))
    shrunk = torch.nn.functional.avg_pool2d(large, 4)
    assert (small - shrunk).abs().mean() < 0.03
    assert np.corrcoef(small.flatten(), shrunk.flatten())[0, 1] > 0.98


def test_batched_result_equals_per_item_result(dataset):
    crops = CropBatches(dataset, 96)
    together = crops.batch(ROWS, identity_params(3))
    for i, row in enumerate(ROWS):
        alone = crops.batch(np.array([row]), identity_params(1))
        torch.testing.assert_close(alone.roi[0], together.roi[i])
        torch.testing.assert_close(alone.landmarks_px[0], together.landmarks_px[i])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_and_cpu_give_the_same_crops(dataset):
    params = make_params(3, Augmentation(log_gamma=0.3), torch.Generator().manual_seed(0))
    cpu, gpu = (CropBatches(dataset, 128, device).batch(ROWS, params) for device in ("cpu", "cuda"))
    torch.testing.assert_close(gpu.roi.cpu(), cpu.roi, atol=2e-3, rtol=0)
    torch.testing.assert_close(gpu.landmarks_px.cpu(), cpu.landmarks_px, atol=1e-3, rtol=0)


def test_landmarks_outside_the_collimation_are_hidden(dataset):
    """A landmark stays visible where the collimated crop has film under it, and only there."""
    recipe = Augmentation(translation_px=0, rotation_deg=0, scale=0, styles=1)
    params = make_params(3, recipe, torch.Generator().manual_seed(0))
    params.styles.drawn["collimation"][:] = True
    params.styles.values["collimation"]["ends"][:] = 0.3
    crops = CropBatches(dataset, 224)
    plain, collimated = crops.batch(ROWS, identity_params(3)), crops.batch(ROWS, params)
    lost = plain.visible & ~collimated.visible
    middle = (plain.landmarks_px[..., 1] - 111.5).abs()
    assert lost.any()
    assert middle[lost].min() > 224 * 0.15
    assert middle[collimated.visible].max() < 224 * 0.25

import pytest
import torch
from torch.utils.data import DataLoader

from kneegrade.learning.phantoms import PhantomRois, one_hot
from kneegrade.phantom import sample_knee
from kneegrade.schema import TARGETS


def test_items_depend_on_their_number_alone_whoever_draws_them():
    data = PhantomRois(4, 5, "uniform", size_px=64)
    plain = [data[index] for index in range(5)]
    by_workers = DataLoader(data, batch_size=2, num_workers=1, multiprocessing_context="spawn")
    regions = torch.cat([batch[0] for batch in by_workers])
    torch.testing.assert_close(regions, torch.stack([item[0] for item in plain]), atol=1e-5, rtol=0)
    longer = PhantomRois(4, 500, "uniform", size_px=64)
    for part, other in zip(longer[3], plain[3], strict=True):
        torch.testing.assert_close(part, other)


def test_an_item_is_region_landmarks_and_grades():
    region, landmarks, grades = PhantomRois(4, 3, size_px=96, widths=1.2)[2]
    knee = sample_knee(4, 2)
    assert region.shape == (1, 96, 96)
    assert 0 <= float(region.min()) < float(region.max()) <= 1
    assert float(landmarks[63, 0] - landmarks[47, 0]) == pytest.approx(80)
    for target in TARGETS:
        assert int(grades[target.one_hot].argmax()) == knee.grades[target.name]
    assert (one_hot(knee) == grades.numpy()).all()


def test_beyond_the_end_is_an_index_error():
    data = PhantomRois(4, 3, size_px=64)
    assert len(list(data)) == 3
    with pytest.raises(IndexError):
        data[3]

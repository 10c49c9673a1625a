import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from kneegrade.anatomy.knee import points_inside
from kneegrade.phantom import FilmOptions, render_film, sample_knee
from kneegrade.schema import TARGETS
from kneegrade.training.dataset import DATASET_PX, load_datasets
from kneegrade.training.phantom_datasets import PhantomRois, build_film_dataset, one_hot


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
    assert (one_hot(knee.grades) == grades.numpy()).all()


def test_beyond_the_end_is_an_index_error():
    data = PhantomRois(4, 3, size_px=64)
    assert len(list(data)) == 3
    with pytest.raises(IndexError):
        data[3]


def test_a_store_cut_from_films_holds_every_knee_where_its_landmarks_say(tmp_path):
    build_film_dataset(tmp_path / "films", 6, "uniform", seed=8, widths=2.0, pixel_spacing_mm=0.8)
    store = load_datasets((tmp_path / "films",))
    films = [render_film(8, i, FilmOptions(prevalence="uniform", pixel_spacing_mm=0.8)) for i in range(6)]
    assert len(store) == sum(len(film.knees) for film in films)
    width = np.linalg.norm(store.landmarks_px[:, 63] - store.landmarks_px[:, 47], axis=-1)
    np.testing.assert_allclose(width, DATASET_PX / 2.0, rtol=1e-4)
    assert (store.landmarks_px[:, 47, 0] < store.landmarks_px[:, 63, 0]).all()
    assert (store.trust == 1).all()
    shown = [points_inside(knee.landmarks_px, film.pixels.shape) for film in films for knee in film.knees]
    np.testing.assert_array_equal(store.visible, shown)

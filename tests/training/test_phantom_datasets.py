import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score
from torch.utils.data import DataLoader

from kneegrade.anatomy.knee import points_inside
from kneegrade.errors import UsageError
from kneegrade.phantom import FilmOptions, coherent_reading, render_film, sample_knee
from kneegrade.phantom.prevalence import tuple_probabilities
from kneegrade.schema import TARGET_NAMES, TARGETS
from kneegrade.training.dataset import DATASET_PX, PUT, load_datasets
from kneegrade.training.phantom_datasets import (
    PaperCohort,
    PhantomRois,
    build_film_dataset,
    build_paper_cohort,
    one_hot_labels,
)

SMALL = PaperCohort(labelled=70, unlabelled=6, validation=4, test=6, seed=9)


class StoppedError(Exception):
    """Raised by `stop`."""


def stop(done, number):
    """A progress function that ends the call after the first step."""
    raise StoppedError


def test_items_depend_on_their_index_alone():
    data = PhantomRois(4, 5, "uniform", size_px=64)
    items = [data[index] for index in range(5)]
    by_workers = DataLoader(data, batch_size=2, num_workers=1, multiprocessing_context="spawn")
    crops = torch.cat([batch[0] for batch in by_workers])
    torch.testing.assert_close(crops, torch.stack([item[0] for item in items]), atol=1e-5, rtol=0)
    longer = PhantomRois(4, 500, "uniform", size_px=64)
    for part, other in zip(longer[3], items[3], strict=True):
        torch.testing.assert_close(part, other)


def test_an_item_is_crop_landmarks_and_grades():
    crop, landmarks, grades = PhantomRois(4, 3, size_px=96, extent_in_plateau_widths=1.2)[2]
    knee = sample_knee(4, 2)
    assert crop.shape == (1, 96, 96)
    assert 0 <= float(crop.min()) < float(crop.max()) <= 1
    assert float(landmarks[63, 0] - landmarks[47, 0]) == pytest.approx(80)
    for target in TARGETS:
        assert int(grades[target.one_hot].argmax()) == knee.grades[target.name]
    assert (one_hot_labels(knee.grades) == grades.numpy()).all()


def test_an_index_beyond_the_end_is_an_index_error():
    data = PhantomRois(4, 3, size_px=64)
    assert len(list(data)) == 3
    with pytest.raises(IndexError):
        data[3]


def test_knees_from_films_are_where_their_landmarks_are(tmp_path):
    build_film_dataset(tmp_path / "films", 6, "uniform", seed=8, extent_in_plateau_widths=2.0, pixel_spacing_mm=0.8)
    dataset = load_datasets((tmp_path / "films",))
    films = [render_film(8, i, FilmOptions(prevalence="uniform", pixel_spacing_mm=0.8)) for i in range(6)]
    assert len(dataset) == sum(len(film.knees) for film in films)
    width = np.linalg.norm(dataset.landmarks_px[:, 63] - dataset.landmarks_px[:, 47], axis=-1)
    np.testing.assert_allclose(width, DATASET_PX / 2.0, rtol=1e-4)
    assert (dataset.landmarks_px[:, 47, 0] < dataset.landmarks_px[:, 63, 0]).all()
    assert (dataset.landmark_weight == 1).all()
    visible = [points_inside(knee.landmarks_px, film.pixels.shape) for film in films for knee in film.knees]
    np.testing.assert_array_equal(dataset.visible, visible)
    grades = [one_hot_labels(shown.knee.grades) for film in films for shown in film.knees]
    np.testing.assert_array_equal(dataset.targets, grades)


def test_a_stopped_film_dataset_is_continued(tmp_path):
    """Films with a single knee, whose second row stays empty, are not rendered again."""
    options = {"seed": 8, "extent_in_plateau_widths": 2.0, "pixel_spacing_mm": 0.8}
    with pytest.raises(StoppedError):
        build_film_dataset(tmp_path / "films", 6, "uniform", progress=stop, **options)
    calls = []
    build_film_dataset(
        tmp_path / "films", 6, "uniform", progress=lambda done, films: calls.append((done, films)), **options
    )
    assert calls == [(6, 6)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cohort") / "whole"
    build_paper_cohort(directory, SMALL, workers=2)
    return directory


def test_splits_and_labels_are_as_requested_and_by_person(cohort):
    dataset = load_datasets((cohort,))
    labelled = np.isfinite(dataset.targets).all(1)
    assert [int(((dataset.split == name) & labelled).sum()) for name in ("train", "val", "test")] == [70, 4, 6]
    assert int(((dataset.split == "train") & ~labelled).sum()) == 6
    assert np.isnan(dataset.targets[~labelled]).all()
    people = [set(dataset.subject[dataset.split == name]) for name in ("train", "val", "test")]
    assert not people[0] & people[1]
    assert not (people[0] | people[1]) & people[2]
    assert dataset.images.min() == 1
    assert np.isfinite(dataset.landmarks_px).all()


def test_a_stopped_cohort_is_continued_and_equals_an_uninterrupted_one(cohort, tmp_path):
    again = tmp_path / "again"
    with pytest.raises(StoppedError):
        build_paper_cohort(again, SMALL, workers=1, progress=stop)
    assert not again.exists()
    finished = int((np.load(tmp_path / "again.tmp" / "state.npy") == PUT).sum())
    assert 0 < finished < 86
    calls = []
    build_paper_cohort(again, SMALL, workers=1, progress=lambda done, number: calls.append(done))
    assert calls == [86]
    first, second = load_datasets((cohort,)), load_datasets((again,))
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.targets, second.targets)
    np.testing.assert_array_equal(first.landmarks_px, second.landmarks_px)
    assert (again / "identity.txt").read_text() == SMALL.identity


def test_odd_numbers_are_refused():
    with pytest.raises(UsageError, match="even"):
        PaperCohort(labelled=3)


def test_the_defaults_have_the_papers_shape():
    whole = PaperCohort()
    assert whole.labelled + whole.validation + whole.test == pytest.approx(23_249, abs=2)
    assert whole.unlabelled == pytest.approx(21_763, abs=2)


def test_coherent_readings_keep_the_joint_distribution_and_err_as_readers_do():
    """Truth and reading are exchangeable: they have the same marginals, and no reading has probability 0."""
    tuples, probabilities = tuple_probabilities("paper")
    truth = tuples[np.random.default_rng(0).choice(len(tuples), 4000, p=probabilities)]
    named = [dict(zip(TARGET_NAMES, row.tolist(), strict=True)) for row in truth]
    read = np.array([list(coherent_reading(grades, 3, i, "paper").values()) for i, grades in enumerate(named)])
    assert {tuple(row) for row in read.tolist()} <= {tuple(row) for row in tuples.tolist()}
    for column in range(7):
        shares = [np.bincount(grades[:, column], minlength=5) / len(grades) for grades in (truth, read)]
        np.testing.assert_allclose(*shares, atol=0.03)
    kappas = [cohen_kappa_score(truth[:, i], read[:, i], weights="quadratic") for i in range(7)]
    assert kappas[0] == pytest.approx(0.87, abs=0.02)
    assert min(kappas[1:3]) > 0.86
    assert all(0.68 < kappa < 0.84 for kappa in kappas[3:])

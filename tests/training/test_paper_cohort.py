import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from kneegrade.errors import UsageError
from kneegrade.phantom import coherent_reading
from kneegrade.phantom.prevalence import tuple_probabilities
from kneegrade.schema import TARGET_NAMES
from kneegrade.training.dataset import PUT, load_datasets
from kneegrade.training.phantom_datasets import PaperCohort, build_paper_cohort

SMALL = PaperCohort(labelled=70, unlabelled=6, validation=4, test=6, seed=9)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cohort") / "whole"
    build_paper_cohort(directory, SMALL, workers=2)
    return directory


def test_splits_and_labels_are_as_asked_and_by_person(cohort):
    store = load_datasets((cohort,))
    read = np.isfinite(store.targets).all(1)
    assert [int(((store.split == name) & read).sum()) for name in ("train", "val", "test")] == [70, 4, 6]
    assert int(((store.split == "train") & ~read).sum()) == 6
    assert np.isnan(store.targets[~read]).all()
    people = [set(store.subject[store.split == name]) for name in ("train", "val", "test")]
    assert not people[0] & people[1]
    assert not (people[0] | people[1]) & people[2]
    assert store.images.min() == 1
    assert np.isfinite(store.landmarks_px).all()


def test_a_stopped_cohort_goes_on_and_ends_the_same(cohort, tmp_path):
    class StoppedError(Exception):
        pass

    def stop(done, number):
        raise StoppedError

    again = tmp_path / "again"
    with pytest.raises(StoppedError):
        build_paper_cohort(again, SMALL, workers=1, progress=stop)
    assert not again.exists()
    finished = int((np.load(tmp_path / "again.tmp" / "state.npy") == PUT).sum())
    assert 0 < finished < 86
    seen = []
    build_paper_cohort(again, SMALL, workers=1, progress=lambda done, number: seen.append(done))
    assert seen == [86]
    first, second = load_datasets((cohort,)), load_datasets((again,))
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.targets, second.targets)
    np.testing.assert_array_equal(first.landmarks_px, second.landmarks_px)


def test_odd_numbers_are_refused():
    with pytest.raises(UsageError, match="even"):
        PaperCohort(labelled=3)


def test_the_defaults_have_the_papers_shape():
    whole = PaperCohort()
    assert whole.labelled + whole.validation + whole.test == pytest.approx(23_249, abs=2)
    assert whole.unlabelled == pytest.approx(21_763, abs=2)


def test_coherent_readings_keep_the_joint_distribution_and_err_as_readers_do():
    """Truth and reading are exchangeable: the same marginals; and no reading is a tuple that nobody has."""
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

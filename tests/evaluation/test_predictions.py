import numpy as np
import pytest
from simulated_runs import simulate

from kneegrade.errors import RecipeError
from kneegrade.evaluation import Predictions


def test_predictions_are_saved_and_loaded_unchanged(tmp_path):
    predictions = simulate(10, 0.7, 0)
    predictions.targets[3, 5:9] = np.nan
    predictions.save(tmp_path / "p.parquet")
    loaded = Predictions.load(tmp_path / "p.parquet")
    np.testing.assert_array_equal(loaded.probabilities, predictions.probabilities)
    np.testing.assert_array_equal(loaded.targets, predictions.targets)
    assert loaded.subject.tolist() == predictions.subject.tolist()
    assert loaded.truth()[3, 1] == -1
    with pytest.raises(RecipeError, match="not a file of predictions"):
        Predictions.load(tmp_path / "nothing.parquet")

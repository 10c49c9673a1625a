from dataclasses import replace

import numpy as np
import pytest

from kneegrade.coherence import one_hot
from kneegrade.errors import UsageError
from kneegrade.evaluation import Predictions, SubjectBootstrap, agreement, as_json, compare, incoherent_tuples, score
from kneegrade.evaluation.bootstrap import mcnemar
from kneegrade.schema import OARSI_NAMES, TARGETS, grade_tuple_counts


def some_predictions(number=120, accuracy=0.7, seed=0, sharp=0.8):
    """Knees with grades of the joint table, two per person; each grade is correct with probability `accuracy`."""
    generator = np.random.default_rng(seed)
    counts = grade_tuple_counts()
    tuples = np.array(list(counts))
    truth = tuples[np.random.default_rng(99).choice(len(tuples), number, p=np.array(list(counts.values())) / 5507)]
    random = np.stack([generator.integers(0, t.classes, number) for t in TARGETS], axis=1)
    predicted = np.where(generator.random((number, 7)) < accuracy, truth, random)
    uniform = np.concatenate([np.full((number, t.classes), 1 / t.classes) for t in TARGETS], axis=1)
    return Predictions(
        probabilities=(sharp * one_hot(predicted) + (1 - sharp) * uniform).astype(np.float32),
        targets=one_hot(truth).astype(np.float32),
        subject=np.array([f"s{i // 2}" for i in range(number)]),
        knee=np.arange(number),
    )


def test_sample_0_is_the_metric_without_resampling():
    predictions = some_predictions()
    scores = score(predictions, SubjectBootstrap(predictions.subject, 20))
    for index, target in enumerate(TARGETS):
        expected = agreement(predictions.truth()[:, index], predictions.guess()[:, index], target.classes)
        for metric, value in expected.items():
            assert scores[target.name][metric][0] == pytest.approx(value, nan_ok=True)
    oarsi_mean = np.mean([scores[name]["accuracy"][0] for name in OARSI_NAMES])
    assert scores["oarsi_mean"]["accuracy"][0] == pytest.approx(oarsi_mean)


def test_bootstrap_samples_repeat_the_knees_of_drawn_subjects():
    """The metric of a weighted replicate is the metric of the repeated knees of the drawn subjects."""
    predictions = some_predictions(40)
    bootstrap = SubjectBootstrap(predictions.subject, 5, seed=3)
    scores = score(predictions, bootstrap)
    names = np.unique(predictions.subject)
    for replicate in range(6):
        rows = np.concatenate(
            [np.tile(np.flatnonzero(predictions.subject == name), int(times))
             for name, times in zip(names, bootstrap.weights[replicate], strict=True)]
        )  # fmt: skip
        expected = agreement(predictions.truth()[rows, 0], predictions.guess()[rows, 0], 5)
        assert scores["kl"]["kappa"][replicate] == pytest.approx(expected["kappa"])
        assert scores["kl"]["n"][replicate] == len(rows)


def test_missing_grades_are_ignored():
    predictions = some_predictions()
    predictions.targets[:30, TARGETS[1].one_hot] = np.nan
    scores = score(predictions, SubjectBootstrap(predictions.subject, 10))
    assert scores["jsn_lateral"]["n"][0] == 90
    assert scores["kl"]["n"][0] == 120
    expected = agreement(predictions.truth()[30:, 1], predictions.guess()[30:, 1], 4)["accuracy"]
    assert scores["jsn_lateral"]["accuracy"][0] == pytest.approx(expected)


def test_a_grade_without_labels_is_left_out_of_the_json_object():
    predictions = some_predictions()
    predictions.targets[:, 5:] = np.nan
    result = as_json(score(predictions, SubjectBootstrap(predictions.subject, 10)), predictions)
    assert "jsn_lateral" not in result
    assert "oarsi_mean" not in result
    assert result["kl"]["n"] == 120


def test_the_json_object_has_every_metric_with_its_interval():
    predictions = some_predictions()
    result = as_json(score(predictions, SubjectBootstrap(predictions.subject, 200)), predictions)
    assert {"kl", "jsn_medial", "oarsi_mean", "auc_kl2", "auc_kl2_interval", "incoherence_rate"} <= result.keys()
    for metric in ("accuracy", "balanced_accuracy", "rmse", "mae", "kappa", "one_off_accuracy"):
        low, high = result["kl"][f"{metric}_interval"]
        assert low < result["kl"][metric] < high
    assert len(result["kl"]["calibration_error_interval"]) == 2  # upwards biased: the value may lie below its interval
    assert np.sum(result["kl"]["confusion"]) == 120
    assert (result["knees"], result["subjects"]) == (120, 60)


def test_incoherent_tuples_break_a_rule_or_do_not_occur_in_the_counts():
    hard, empty = incoherent_tuples(np.array([[4, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1, 1]]))
    assert hard.tolist() == [True, False, False]
    assert empty.tolist() == [True, False, True]


def test_a_real_difference_is_significant_and_equal_networks_do_not_differ():
    worse, better = some_predictions(600, 0.5, seed=1), some_predictions(600, 0.8, seed=2)
    found = compare(worse, better)["kl"]
    difference, low, _high = found.differences["accuracy"]
    assert low > 0
    assert difference == pytest.approx(
        np.mean(better.guess()[:, 0] == better.truth()[:, 0]) - np.mean(worse.guess()[:, 0] == worse.truth()[:, 0])
    )
    assert found.p_value < 1e-6
    same = compare(worse, worse)["oarsi_mean"]
    assert same.differences["accuracy"] == (0, 0, 0)
    assert same.p_value is None


def test_mcnemar_by_hand():
    """1 knee is correct only in the first, 5 only in the second: P(≤ 1 or ≥ 5 of 6 fair coins) = 2·(1 + 6) / 64."""
    truth = np.zeros((8, 7), dtype=np.int64)
    first, second = truth.copy(), truth.copy()
    first[:5, 0] = 1
    second[5, 0] = 1
    only_first, only_second, p = mcnemar(truth, (first, second), 0)
    assert (only_first, only_second) == (1, 5)
    assert p == pytest.approx(14 / 64)


def test_predictions_of_different_knees_are_not_compared():
    with pytest.raises(UsageError, match="different knees"):
        compare(some_predictions(20), some_predictions(22))


def test_sets_are_scored_and_are_compared_if_both_networks_have_them():
    predictions = some_predictions()
    members = np.zeros(predictions.probabilities.shape, dtype=np.bool_)
    members[:, :2] = True  # KL 0 and 1; empty sets of the other grades
    with_sets = replace(predictions, sets=members)
    scores = score(with_sets, SubjectBootstrap(predictions.subject, 20))
    assert scores["kl"]["set_size"][0] == 2
    assert scores["kl"]["set_coverage"][0] == pytest.approx((predictions.truth()[:, 0] <= 1).mean())
    assert scores["jsn_medial"]["set_coverage"][0] == 0
    for pair in ((predictions, with_sets), (with_sets, predictions)):
        assert "set_size" not in compare(*pair, replicates=20)["kl"].differences
    assert compare(with_sets, with_sets, replicates=20)["kl"].differences["set_size"][0] == 0


def test_reported_grades_are_scored_and_saved_instead_of_the_most_probable_ones(tmp_path):
    predictions = some_predictions()
    reported = (predictions.guess() + 1) % 4
    other = replace(predictions, grades=reported, sets=predictions.probabilities > 0.5)
    assert score(other, SubjectBootstrap(predictions.subject, 2))["kl"]["accuracy"][0] < 0.5
    other.save(tmp_path / "p.parquet")
    read = Predictions.load(tmp_path / "p.parquet")
    np.testing.assert_array_equal(read.guess(), reported)
    np.testing.assert_array_equal(read.sets, other.sets)
    predictions.save(tmp_path / "p.parquet")
    assert Predictions.load(tmp_path / "p.parquet").sets is None

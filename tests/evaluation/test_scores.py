from dataclasses import replace

import numpy as np
import pytest

from kneegrade.coherence import one_hot
from kneegrade.errors import RecipeError, UsageError
from kneegrade.evaluation import Predictions, SubjectBootstrap, agreement, as_json, compare, incoherent, score
from kneegrade.evaluation.bootstrap import mcnemar
from kneegrade.schema import OARSI_NAMES, TARGETS, grade_tuple_counts


def some_predictions(number=120, right=0.7, seed=0, sharp=0.8):
    """Knees with grades of the joint table, each grade guessed right with a chance, two knees a person."""
    generator = np.random.default_rng(seed)
    counts = grade_tuple_counts()
    tuples = np.array(list(counts))
    truth = tuples[np.random.default_rng(99).choice(len(tuples), number, p=np.array(list(counts.values())) / 5507)]
    random = np.stack([generator.integers(0, t.classes, number) for t in TARGETS], axis=1)
    said = np.where(generator.random((number, 7)) < right, truth, random)
    uniform = np.concatenate([np.full((number, t.classes), 1 / t.classes) for t in TARGETS], axis=1)
    return Predictions(
        probabilities=(sharp * one_hot(said) + (1 - sharp) * uniform).astype(np.float32),
        targets=one_hot(truth).astype(np.float32),
        subject=np.array([f"s{i // 2}" for i in range(number)]),
        knee=np.arange(number),
    )


def test_the_first_sample_is_the_plain_metric():
    said = some_predictions()
    scores = score(said, SubjectBootstrap(said.subject, 20))
    for index, target in enumerate(TARGETS):
        expected = agreement(said.truth()[:, index], said.guess()[:, index], target.classes)
        for metric, value in expected.items():
            assert scores[target.name][metric][0] == pytest.approx(value, nan_ok=True)
    six = np.mean([scores[name]["accuracy"][0] for name in OARSI_NAMES])
    assert scores["oarsi_mean"]["accuracy"][0] == pytest.approx(six)


def test_bootstrap_samples_are_those_of_repeated_subjects():
    """Replicate r scored by weights is the metric on the knees of the drawn subjects, written out."""
    said = some_predictions(40)
    bootstrap = SubjectBootstrap(said.subject, 5, seed=3)
    scores = score(said, bootstrap)
    names = np.unique(said.subject)
    for replicate in range(6):
        rows = np.concatenate(
            [np.tile(np.flatnonzero(said.subject == name), int(times))
             for name, times in zip(names, bootstrap.weights[replicate], strict=True)]
        )  # fmt: skip
        expected = agreement(said.truth()[rows, 0], said.guess()[rows, 0], 5)
        assert scores["kl"]["kappa"][replicate] == pytest.approx(expected["kappa"])
        assert scores["kl"]["n"][replicate] == len(rows)


def test_missing_grades_take_no_part():
    said = some_predictions()
    said.targets[:30, TARGETS[1].one_hot] = np.nan
    scores = score(said, SubjectBootstrap(said.subject, 10))
    assert scores["jsn_lateral"]["n"][0] == 90
    assert scores["kl"]["n"][0] == 120
    expected = agreement(said.truth()[30:, 1], said.guess()[30:, 1], 4)["accuracy"]
    assert scores["jsn_lateral"]["accuracy"][0] == pytest.approx(expected)


def test_a_grade_never_read_is_left_out_of_the_object():
    said = some_predictions()
    said.targets[:, 5:] = np.nan
    result = as_json(score(said, SubjectBootstrap(said.subject, 10)), said)
    assert "jsn_lateral" not in result
    assert "oarsi_mean" not in result
    assert result["kl"]["n"] == 120


def test_the_object_has_every_metric_with_its_interval():
    said = some_predictions()
    result = as_json(score(said, SubjectBootstrap(said.subject, 200)), said)
    assert {"kl", "jsn_medial", "oarsi_mean", "auc_kl2", "auc_kl2_interval", "incoherence_rate"} <= result.keys()
    for metric in ("accuracy", "balanced_accuracy", "rmse", "mae", "kappa", "one_off_accuracy", "calibration_error"):
        low, high = result["kl"][f"{metric}_interval"]
        assert low < result["kl"][metric] < high or metric == "calibration_error"
    assert np.sum(result["kl"]["confusion"]) == 120
    assert (result["knees"], result["subjects"]) == (120, 60)


def test_tuples_that_break_a_rule_and_those_never_seen():
    hard, empty = incoherent(np.array([[4, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1, 1]]))
    assert hard.tolist() == [True, False, False]
    assert empty.tolist() == [True, False, True]


def test_a_real_difference_is_found_and_none_where_there_is_none():
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
    """One knee lost, five won: P(at most 1 of 6, or at least 5) with a fair coin = 2·(1 + 6) / 64."""
    truth = np.zeros((8, 7), dtype=np.int64)
    first, second = truth.copy(), truth.copy()
    first[:5, 0] = 1
    second[5, 0] = 1
    lost, won, p = mcnemar(truth, (first, second), 0)
    assert (lost, won) == (1, 5)
    assert p == pytest.approx(14 / 64)


def test_other_knees_cannot_be_compared():
    with pytest.raises(UsageError, match="different knees"):
        compare(some_predictions(20), some_predictions(22))


def test_predictions_survive_their_file(tmp_path):
    said = some_predictions(10)
    said.targets[3, 5:9] = np.nan
    said.save(tmp_path / "p.parquet")
    read = Predictions.load(tmp_path / "p.parquet")
    np.testing.assert_array_equal(read.probabilities, said.probabilities)
    np.testing.assert_array_equal(read.targets, said.targets)
    assert read.subject.tolist() == said.subject.tolist()
    assert read.truth()[3, 1] == -1
    with pytest.raises(RecipeError, match="not a file of predictions"):
        Predictions.load(tmp_path / "nothing.parquet")


def test_sets_are_scored_and_compared_where_both_have_them():
    said = some_predictions()
    held = np.zeros(said.probabilities.shape, dtype=np.bool_)
    held[:, :2] = True  # KL 0 and 1, and of the other grades nothing
    with_sets = replace(said, sets=held)
    scores = score(with_sets, SubjectBootstrap(said.subject, 20))
    assert scores["kl"]["set_size"][0] == 2
    assert scores["kl"]["set_coverage"][0] == pytest.approx((said.truth()[:, 0] <= 1).mean())
    assert scores["jsn_medial"]["set_coverage"][0] == 0
    for pair in ((said, with_sets), (with_sets, said)):
        assert "set_size" not in compare(*pair, replicates=20)["kl"].differences
    assert compare(with_sets, with_sets, replicates=20)["kl"].differences["set_size"][0] == 0


def test_grades_that_are_given_need_not_be_the_likeliest(tmp_path):
    said = some_predictions()
    given = (said.guess() + 1) % 4
    other = replace(said, grades=given, sets=said.probabilities > 0.5)
    assert score(other, SubjectBootstrap(said.subject, 2))["kl"]["accuracy"][0] < 0.5
    other.save(tmp_path / "p.parquet")
    read = Predictions.load(tmp_path / "p.parquet")
    np.testing.assert_array_equal(read.guess(), given)
    np.testing.assert_array_equal(read.sets, other.sets)
    said.save(tmp_path / "p.parquet")
    assert Predictions.load(tmp_path / "p.parquet").sets is None

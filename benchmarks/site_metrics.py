"""Metrics of a site from the rows per knee of `site_knees.py`, with bootstrap intervals over people or groups."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import spearmanr

from kneegrade.evaluation import SubjectBootstrap
from kneegrade.evaluation.bootstrap import interval
from kneegrade.evaluation.metrics import agreement, confusion, matrix_metrics, weighted_auc
from kneegrade.schema import CLASSES, TARGETS

Array = NDArray[np.float64]
Values = Mapping[str, float | tuple[float, float, float]]
KL = TARGETS[0].one_hot
REPLICATES = 500


def one_knee_per_image(knees: pd.DataFrame) -> pd.DataFrame:
    """One row per image: the knee with grades and the most certain landmarks, else the most certain."""
    order = knees.assign(has_grades=has_grades(knees)).sort_values(["has_grades", "confidence"], kind="stable")
    return order.groupby("image", sort=False).tail(1).sort_values("image").drop(columns="has_grades")


def has_grades(knees: pd.DataFrame) -> NDArray[np.bool_]:
    """(N,) bool, knees that reached the network, whether or not quality control refuses them."""
    if "grades" not in knees:
        return np.zeros(len(knees), dtype=np.bool_)
    return np.array([isinstance(grades, list) for grades in knees["grades"]], dtype=np.bool_)


def column(knees: pd.DataFrame, name: str) -> Array:
    """(N, width) values of a column of lists."""
    return np.array(knees[name].to_list(), dtype=np.float64)


def expected_kl(probabilities: Array) -> Array:
    """(N,) mean of the distribution of KL, of (N, 29) distributions."""
    shares = probabilities[:, KL]
    return np.asarray(shares @ np.arange(shares.shape[1]) / shares.sum(1))


def beside_zeros(grades: NDArray[np.integer]) -> NDArray[np.bool_]:
    """(N,) bool, KL ≥ 2 with six OARSI grades of 0, of (N, 7) grades."""
    return np.asarray((grades[:, 0] >= 2) & (grades[:, 1:] == 0).all(1))


def refusal_counts(knees: pd.DataFrame, expected: int) -> dict[str, float]:
    """Numbers of knees by what happened to them.

    Args:
        knees: rows of the detected knees and of the images without a knee.
        expected: number of knees on the images, by eye.
    """
    graded = knees["refused"] == ""
    doubtful = knees.loc[graded, "abstain"].astype(bool)
    counts: dict[str, float] = {"knees": expected, "graded": int(graded.sum()), "graded_share": graded.sum() / expected}
    reasons = knees.loc[~graded, "refused"].value_counts()
    return counts | {
        "abstained_share": float(doubtful.mean()) if graded.any() else float("nan"),
        **{f"refused {reason}": int(number) for reason, number in sorted(reasons.items())},
        "beside_zeros_share": float(beside_zeros(column(knees[graded], "grades")).mean()) if graded.any() else np.nan,
    }


def label_metrics(
    kl: NDArray[np.int64], group: NDArray[np.str_], grades: NDArray[np.int64], probabilities: Array,
    sets: NDArray[np.bool_] | None = None,
) -> dict[str, tuple[float, float, float]]:  # fmt: skip
    """Agreement of KL with labels: name → (value, lower, upper), 95 % intervals over groups (NaN for `spearman`).

    Args:
        kl: (N,) labels.
        group: (N,) person or group of copies.
        grades: (N,) reported KL.
        probabilities: (N, 5 or more) distributions that begin with that of KL.
        sets: (N, 5 or more) prediction sets that begin with that of KL.
    """
    bootstrap = SubjectBootstrap(group, REPLICATES)
    matrices = np.zeros((len(kl), CLASSES[0], CLASSES[0]))
    matrices[np.arange(len(kl)), kl, grades] = 1
    scores = matrix_metrics(bootstrap.sums(matrices))
    result = {name: interval(scores[name]) for name in ("accuracy", "kappa")}
    weights = bootstrap.weights[:, bootstrap.subject_index]
    shares = probabilities[:, KL]
    for least in (2, 3):
        result[f"auc_kl{least}"] = interval(weighted_auc(kl >= least, shares[:, least:].sum(1), weights))
    result["spearman"] = (float(spearmanr(kl, expected_kl(shares)).statistic), np.nan, np.nan)
    result["bias"] = interval(bootstrap.sums(expected_kl(shares) - kl) / bootstrap.sums(np.ones(len(kl))))
    if sets is not None:
        count = bootstrap.sums(np.ones(len(kl)))
        members = sets[:, KL]
        covered = members[np.arange(len(kl)), kl].astype(np.float64)
        result["coverage"] = interval(bootstrap.sums(covered) / count)
        result["set_size"] = interval(bootstrap.sums(members.sum(1).astype(np.float64)) / count)
    return result


def knee_metrics(knees: pd.DataFrame) -> dict[str, tuple[float, float, float]]:
    """`label_metrics` of rows that have grades and labels."""
    return label_metrics(
        knees["kl"].to_numpy(np.int64), knees["group"].to_numpy(dtype=str),
        column(knees, "grades")[:, 0].astype(np.int64), column(knees, "probabilities"),
        column(knees, "sets").astype(np.bool_),
    )  # fmt: skip


def two_pictures(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, float]:
    """Agreement of one grader on two pictures of the same knees; knees without grades in one of them are left out.

    Returns:
        `knees`; `kl_kappa` and `kl_equal` of the reported KL; `kl_shift` and `expected_kl_shift`: mean of second minus
        first, of the reported and of the expected KL; `expected_kl_rms`; `oarsi_kappa`: mean over the OARSI grades that
        are not constant.
    """
    pairs = first[has_grades(first)].merge(second[has_grades(second)], on="image", suffixes=("_1", "_2"))
    one, two = (column(pairs, f"grades_{n}").astype(np.int64) for n in (1, 2))
    expected = [expected_kl(column(pairs, f"probabilities_{n}")) for n in (1, 2)]
    kappas = [agreement(one[:, i], two[:, i], CLASSES[i])["kappa"] for i in range(len(TARGETS))]
    return {
        "knees": len(pairs), "kl_kappa": kappas[0], "kl_equal": float((one[:, 0] == two[:, 0]).mean()),
        "kl_shift": float((two[:, 0] - one[:, 0]).mean()),
        "expected_kl_shift": float((expected[1] - expected[0]).mean()),
        "expected_kl_rms": float(np.sqrt(np.square(expected[1] - expected[0]).mean())),
        "oarsi_kappa": float(np.mean([k for k in kappas[1:] if np.isfinite(k)] or [np.nan])),
    }  # fmt: skip


SiteFit = Callable[[Array, NDArray[np.int64], NDArray[np.int64], NDArray[np.str_]], Callable[..., tuple[Any, ...]]]


def calibrated_draws(knees: pd.DataFrame, fit: SiteFit, number: int = 100, draws: int = 100) -> dict[str, float]:
    """Means over draws of `number` knees, by whole groups, that a scale is fitted on; the others are scored.

    Args:
        knees: rows with grades and labels.
        fit: (M, 29) probabilities, (M, 7) grades, (M,) labels and (M,) groups → a function of the probabilities and
            grades of other knees that returns their probabilities, grades and sets on the site's scale.
        number: of knees to fit on.
        draws: repetitions, draw d with seed d.
    """
    probabilities, grades = column(knees, "probabilities"), column(knees, "grades").astype(np.int64)
    kl, group = knees["kl"].to_numpy(np.int64), knees["group"].to_numpy(dtype=str)
    results = []
    for draw in range(draws):
        fitted = drawn_groups(group, number, draw)
        scale = fit(probabilities[fitted], grades[fitted], kl[fitted], group[fitted])
        own = scale(probabilities[~fitted], grades[~fitted])
        results.append(draw_metrics(kl[~fitted], probabilities[~fitted], *own))
    means = pd.DataFrame(results).mean()
    return {"draws": draws, "fitted": number, "scored": float(len(knees) - number), **means.to_dict()}


def drawn_groups(group: NDArray[np.str_], number: int, seed: int | np.random.Generator) -> NDArray[np.bool_]:
    """(N,) bool: random whole groups until at least `number` knees are drawn; `seed` may be a generator."""
    names, index, sizes = np.unique(group, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    needed = int(np.searchsorted(np.cumsum(sizes[order]), number)) + 1
    return np.isin(index, order[:needed])


def draw_metrics(
    kl: NDArray[np.int64], before: Array, probabilities: Array, grades: NDArray[np.int64], sets: NDArray[np.bool_]
) -> dict[str, float]:
    """Metrics of one draw; `better` is 1 if the calibrated probabilities have the higher likelihood."""
    scores = matrix_metrics(confusion(kl, grades[:, 0], CLASSES[0]))
    rows = np.arange(len(kl))
    members, shares = sets[:, KL], probabilities[:, KL]
    loss = [-float(np.log(np.maximum(p[rows, kl] / p[:, KL].sum(1), 1e-9)).mean()) for p in (before, probabilities)]
    return {
        "accuracy": float(scores["accuracy"]), "kappa": float(scores["kappa"]),
        "spearman": float(spearmanr(kl, expected_kl(shares)).statistic),
        "coverage": float(members[rows, kl].mean()), "set_size": float(members.sum(1).mean()),
        "beside_zeros_share": float(beside_zeros(grades).mean()),
        "loss_before": loss[0], "loss": loss[1], "better": float(loss[1] < loss[0]),
    }  # fmt: skip

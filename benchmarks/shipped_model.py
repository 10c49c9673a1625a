"""Further results for the model card from the predictions of `kneegrade evaluate` or `calibrate`.

    python benchmarks/shipped_model.py runs/shipped-val/predictions.parquet [--left-out] [--weights FILE]

Prints metrics by grade, and:

- the expected calibration error of each grade, with the 95 % range that perfectly calibrated predictions of the same
  knees would have (2,000 draws of labels);
- rank correlations of the predicted sums of joint space narrowing and of osteophytes with KL;
- the total variation between the predicted seven-tuples of each KL and the packaged joint table, and that of as many
  tuples drawn from the table;
- the confusion matrix of KL.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from kneegrade.coherence import raked_table, smoothed_table
from kneegrade.evaluation import Predictions, SubjectBootstrap, score
from kneegrade.evaluation.metrics import calibration_error, calibration_sums, confusion
from kneegrade.evaluation.paper_tables import evaluation_table
from kneegrade.evaluation.table_formats import markdown
from kneegrade.schema import CLASSES, TARGETS, grade_tuple_counts
from kneegrade.training.splits import left_out
from kneegrade.weights import read_description, shipped_path

DRAWS = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path, help="predictions.parquet of `kneegrade evaluate` or `calibrate`")
    parser.add_argument(
        "--left-out", action="store_true", help="only people not used for calibration and quality control"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        default=shipped_path("grader"),
        help="weights that made the predictions; default: the shipped weights",
    )
    options = parser.parse_args()
    predictions = Predictions.load(options.predictions)
    if options.left_out:
        kept = left_out(read_description(options.weights), predictions.subject)
        predictions = Predictions(*(None if value is None else value[kept] for value in vars(predictions).values()))
    print(markdown(evaluation_table(score(predictions, SubjectBootstrap(predictions.subject)), predictions)))
    truth, predicted, rng = predictions.truth(), predictions.guess(), np.random.default_rng(0)
    print(f"{len(predictions)} knees of {len(np.unique(predictions.subject))} people")
    for index, target in enumerate(TARGETS):
        shares = predictions.probabilities[:, target.one_hot].astype(np.float64)
        shares /= shares.sum(1, keepdims=True)
        known = truth[:, index] >= 0
        drawn = [error(drawn_labels(shares[known], rng), shares[known]) for _ in range(DRAWS)]
        low, high = np.quantile(drawn, [0.025, 0.975])
        own = error(truth[known, index], shares[known])
        soft = f", with soft labels {soft_error(predictions.targets[known][:, target.one_hot], shares[known]):.3f}"
        ideal = f"range if perfectly calibrated {low:.3f} to {high:.3f}"
        print(f"{target.label}: ECE {own:.3f}{soft if index else ''}; {ideal}")
    for name, columns in (("joint space narrowing", [1, 2]), ("osteophytes", [3, 4, 5, 6])):
        rho = spearmanr(truth[:, 0], predicted[:, columns].sum(1)).statistic
        print(f"sum of {name} against the KL label: Spearman {rho:.3f}")
    own_rho = [spearmanr(predicted[:, 0], predicted[:, c].sum(1)).statistic for c in ([1, 2], [3, 4, 5, 6])]
    print("… against the predicted KL: {:.3f}, {:.3f}".format(*own_rho))
    tuples_by_kl(predicted, rng)
    print("KL label (rows) and reported KL (columns):")
    print(confusion(truth[:, 0], predicted[:, 0], CLASSES[0]).astype(int))


def error(labels: NDArray[np.int64], shares: NDArray[np.float64]) -> float:
    """Expected calibration error of the most probable grade, ten bins of equal width."""
    return float(calibration_error(calibration_sums(labels, shares).sum(0)))


def soft_error(targets: NDArray[np.floating], shares: NDArray[np.float64]) -> float:
    """The same, a soft label being right with the probability that it gives."""
    sure, right = shares.max(1), targets[np.arange(len(shares)), shares.argmax(1)]
    bins = np.minimum((sure * 10).astype(int), 9)
    return float(sum(abs((right - sure)[bins == b].sum()) for b in range(10)) / len(shares))


def drawn_labels(shares: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """A random label for every knee, drawn from its predicted distribution."""
    return (shares.cumsum(1) < rng.random((len(shares), 1))).sum(1).clip(max=shares.shape[1] - 1)


def tuples_by_kl(predicted: NDArray[np.int64], rng: np.random.Generator) -> None:
    """Prints the total variation between OARSI tuples and the joint table given KL, weighted by the reported KL."""
    count = np.bincount(predicted[:, 0], minlength=CLASSES[0])
    table = raked_table(smoothed_table(grade_tuple_counts()), {0: (count + 0.5) / (count + 0.5).sum()})
    rows = table.reshape(CLASSES[0], -1)
    rows = rows / rows.sum(1, keepdims=True)
    cells = np.ravel_multi_index(tuple(predicted[:, 1:].T), CLASSES[1:])
    variation, drawn = 0.0, np.zeros(200)
    for kl in range(CLASSES[0]):
        if count[kl]:
            own = np.bincount(cells[predicted[:, 0] == kl], minlength=rows.shape[1]) / count[kl]
            variation += count[kl] / len(predicted) * 0.5 * np.abs(own - rows[kl]).sum()
            again = rng.multinomial(count[kl], rows[kl], len(drawn)) / count[kl]
            drawn += count[kl] / len(predicted) * 0.5 * np.abs(again - rows[kl]).sum(1)
    print(f"seven-tuples given KL against the joint table: total variation {variation:.3f}; drawn from the table "
          f"{drawn.mean():.3f} ({np.quantile(drawn, 0.025):.3f} to {np.quantile(drawn, 0.975):.3f})")  # fmt: skip


if __name__ == "__main__":
    main()

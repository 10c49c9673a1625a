"""What else a model card needs of predictions that `kneegrade evaluate` or `calibrate` left (predictions.parquet).

    python benchmarks/shipped_model.py runs/shipped-val/predictions.parquet [--left-out] [--weights FILE]

Per grade the expected calibration error beside the range that perfectly calibrated predictions of the same knees would
show in 95 of 100 draws of labels; whether the predicted sums of joint space narrowing and of osteophytes rise with the
KL that was read; how far the predicted seven-tuples of each KL lie from the packaged joint table, beside how far as
many tuples drawn from that table lie; KL by grade read.
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
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--left-out", action="store_true", help="only people that calibration and gate did not see")
    parser.add_argument("--weights", type=Path, default=shipped_path("grader"), help="by default the shipped ones")
    options = parser.parse_args()
    said = Predictions.load(options.predictions)
    if options.left_out:
        kept = left_out(read_description(options.weights), said.subject)
        said = Predictions(*(None if value is None else value[kept] for value in vars(said).values()))
    print(markdown(evaluation_table(score(said, SubjectBootstrap(said.subject)), said)))
    truth, guess, rng = said.truth(), said.guess(), np.random.default_rng(0)
    print(f"{len(said)} knees of {len(np.unique(said.subject))} people")
    for index, target in enumerate(TARGETS):
        shares = said.probabilities[:, target.one_hot].astype(np.float64)
        shares /= shares.sum(1, keepdims=True)
        known = truth[:, index] >= 0
        drawn = [error(drawn_labels(shares[known], rng), shares[known]) for _ in range(DRAWS)]
        low, high = np.quantile(drawn, [0.025, 0.975])
        own = error(truth[known, index], shares[known])
        soft = f", under the soft labels {soft_error(said.targets[known][:, target.one_hot], shares[known]):.3f}"
        print(f"{target.label}: ECE {own:.3f}{soft if index else ''}; perfectly calibrated {low:.3f} to {high:.3f}")
    for name, columns in (("joint space narrowing", [1, 2]), ("osteophytes", [3, 4, 5, 6])):
        rho = spearmanr(truth[:, 0], guess[:, columns].sum(1)).statistic
        print(f"sum of {name} against KL as read: Spearman {rho:.3f}")
    own_rho = [spearmanr(guess[:, 0], guess[:, c].sum(1)).statistic for c in ([1, 2], [3, 4, 5, 6])]
    print("… against KL as predicted: {:.3f}, {:.3f}".format(*own_rho))
    tuples_by_kl(guess, rng)
    print("KL read (rows) and given (columns):")
    print(confusion(truth[:, 0], guess[:, 0], CLASSES[0]).astype(int))


def error(labels: NDArray[np.int64], shares: NDArray[np.float64]) -> float:
    """Expected calibration error of the likeliest grade, ten equal bins."""
    return float(calibration_error(calibration_sums(labels, shares).sum(0)))


def soft_error(targets: NDArray[np.floating], shares: NDArray[np.float64]) -> float:
    """The same, a soft label being right with the probability that it gives."""
    sure, right = shares.max(1), targets[np.arange(len(shares)), shares.argmax(1)]
    bins = np.minimum((sure * 10).astype(int), 9)
    return float(sum(abs((right - sure)[bins == b].sum()) for b in range(10)) / len(shares))


def drawn_labels(shares: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """A label for every knee, drawn from its own prediction."""
    return (shares.cumsum(1) < rng.random((len(shares), 1))).sum(1).clip(max=shares.shape[1] - 1)


def tuples_by_kl(guess: NDArray[np.int64], rng: np.random.Generator) -> None:
    """Total variation between the six grades given with each KL and the joint table's, weighted by KL as given."""
    count = np.bincount(guess[:, 0], minlength=CLASSES[0])
    table = raked_table(smoothed_table(grade_tuple_counts()), {0: (count + 0.5) / (count + 0.5).sum()})
    rows = table.reshape(CLASSES[0], -1)
    rows = rows / rows.sum(1, keepdims=True)
    cells = np.ravel_multi_index(tuple(guess[:, 1:].T), CLASSES[1:])
    far, drawn = 0.0, np.zeros(200)
    for kl in range(CLASSES[0]):
        if count[kl]:
            own = np.bincount(cells[guess[:, 0] == kl], minlength=rows.shape[1]) / count[kl]
            far += count[kl] / len(guess) * 0.5 * np.abs(own - rows[kl]).sum()
            again = rng.multinomial(count[kl], rows[kl], len(drawn)) / count[kl]
            drawn += count[kl] / len(guess) * 0.5 * np.abs(again - rows[kl]).sum(1)
    print(f"seven-tuples given KL against the joint table: total variation {far:.3f}; as many real ones "
          f"{drawn.mean():.3f} ({np.quantile(drawn, 0.025):.3f} to {np.quantile(drawn, 0.975):.3f})")  # fmt: skip


if __name__ == "__main__":
    main()

"""Joint decoding on real crops: calibration without a decoder against calibration through the decoder.

    python benchmarks/decoding.py cache/dataset-chen2018-shipped [--split val] [--weights FILE]

The dataset is that of docs/how-to/train-shipped-weights.md. The grader's logits are computed once. Two calibrations
are compared: calibration alone (`fit_calibration`), and calibration through the decoder as `kneegrade calibrate`
fits it (`tuned_postprocessor`). Both are fitted on the people of one half and predict the other half, in both
directions; all knees are scored together. The halves are those of `in_first_group` with share 0.5 and seed 0.

Without a decoder the most probable grades are reported. With it, the most probable grades that keep the hard rules
are reported, without ordinal smoothing and with the chosen ordinal smoothing. One more row has the rules and the
ordinal smoothing but no joint table (joint exponent 0), and one reports KL ≥ 2 beside six OARSI zeros without the
support that `CoherentDecoder.grades` demands. Differences are paired, with 95 % bootstrap intervals over people.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kneegrade.coherence import smoothed_table
from kneegrade.evaluation import Predictions, SubjectBootstrap, score
from kneegrade.evaluation.bootstrap import Scores, differences
from kneegrade.evaluation.paper_tables import difference_cell, score_cell
from kneegrade.evaluation.table_formats import Table, markdown
from kneegrade.network import load_network
from kneegrade.schema import OARSI_NAMES, TARGETS, grade_tuple_counts
from kneegrade.training.batches import CropBatches
from kneegrade.training.dataset import load_datasets
from kneegrade.training.predict import predicted_logits
from kneegrade.training.splits import in_first_group
from kneegrade.uncertainty import CalibrationKnees, Postprocessor, fit_calibration, tuned_postprocessor
from kneegrade.weights import load_weights, shipped_path

COLUMNS = {
    "KL accuracy": ("kl", "accuracy"), "KL κ": ("kl", "kappa"), "AUC, KL ≥ 2": ("joint", "auc_kl2"),
    "KL −log likelihood": ("kl", "log_loss"), "OARSI accuracy": ("oarsi_mean", "accuracy"),
    "OARSI κ": ("oarsi_mean", "kappa"), "OARSI −log likelihood": ("oarsi_mean", "log_loss"),
    "hard rules broken": ("joint", "hard_rule_rate"),
}  # fmt: skip
CALIBRATED, NO_TABLE = "calibrated, no decoder", "calibrated, rules and ordinal smoothing without the table"
UNSMOOTHED, SMOOTHED = "through the decoder, no ordinal smoothing", "through the decoder, with ordinal smoothing"
ANY_ZEROS = "with ordinal smoothing, KL ≥ 2 beside six OARSI zeros without support"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", default="val", help="split of the dataset to calibrate and score; default: val")
    parser.add_argument("--weights", type=Path, default=shipped_path("grader"), help="default: the shipped weights")
    options = parser.parse_args()
    knees = read(options.dataset, options.split, options.weights)
    predictions, settings = cross_fitted(knees)
    people = SubjectBootstrap(knees.subject)
    scores = {name: with_log_loss(score(one, people), one, people) for name, one in predictions.items()}
    lines: list[tuple[str, ...] | None] = [
        (name, *(score_cell(one, *column) for column in COLUMNS.values())) for name, one in scores.items()
    ]
    lines.append(None)
    pairs = (
        (UNSMOOTHED, CALIBRATED),
        (SMOOTHED, CALIBRATED),
        (SMOOTHED, UNSMOOTHED),
        (SMOOTHED, NO_TABLE),
        (SMOOTHED, ANY_ZEROS),
    )
    for name, other in pairs:
        found = [differences(scores[other], scores[name], grade)[metric] for grade, metric in COLUMNS.values()]
        lines.append((f"{name}, minus {other}", *(difference_cell(*each) for each in found)))
    notes = (
        f"{len(knees.subject)} knees of {len(np.unique(knees.subject))} people. ± is half the 95 % interval over "
        "people; […] is the paired 95 % interval of a difference, bold where it excludes zero. OARSI: means over the "
        "six grades.",
        *settings,
        "KL ≥ 2 beside six OARSI zeros: "
        + "; ".join(f"{name}: {share_without_sign(one):.4f}" for name, one in predictions.items()),
    )
    print(markdown(Table("decoding", "Joint decoding", ("", *COLUMNS), tuple(lines), notes)))


def read(path: Path, split: str, weights: Path) -> CalibrationKnees:
    """Logits and labels of the knees of a split, computed by the network as the grader runs it."""
    dataset = load_datasets((path,))
    rows = np.flatnonzero(dataset.split == split)
    network = load_network(load_weights(weights, "grader")).optimized_for_inference("cpu")
    logits = predicted_logits(network, CropBatches(dataset, network.config.roi_px, "cpu"), rows)
    return CalibrationKnees(logits, dataset.targets[rows], dataset.subject[rows])


def cross_fitted(knees: CalibrationKnees) -> tuple[dict[str, Predictions], list[str]]:
    """Predictions for all knees, fitted on the other half of the people, and the settings that each half chose."""
    first = in_first_group(knees.subject, 0.5, 0)
    parts, settings = [], []
    for fitted in (first, ~first):
        postprocessors = fit(knees.part(fitted))
        rest = np.flatnonzero(~fitted)
        parts.append({name: predict(one, knees.part(~fitted), rest) for name, one in postprocessors.items()})
        decoder = postprocessors[SMOOTHED].decoder
        plain = parts[-1][SMOOTHED]
        parts[-1][ANY_ZEROS] = replace(plain, grades=decoder.grades(plain.probabilities, min_support=-np.inf))
        settings.append(
            f"Fitted on {fitted.sum()} knees of {len(np.unique(knees.subject[fitted]))} people: joint exponent "
            f"{decoder.joint_exponent}, ordinal smoothing {decoder.ordinal_smoothing}."
        )
    return {name: merge([part[name] for part in parts]) for name in parts[0]}, settings


def fit(knees: CalibrationKnees) -> dict[str, Postprocessor]:
    """The four postprocessors that are compared, by name."""
    calibrated = Postprocessor(fit_calibration(knees.logits, torch.from_numpy(knees.targets)))
    through = tuned_postprocessor(knees, smoothed_table(grade_tuple_counts()))
    no_table = replace(calibrated, decoder=replace(through.decoder, joint_exponent=0.0))
    unsmoothed = replace(through, decoder=replace(through.decoder, ordinal_smoothing=0.0))
    return {CALIBRATED: calibrated, NO_TABLE: no_table, UNSMOOTHED: unsmoothed, SMOOTHED: through}


def predict(postprocessor: Postprocessor, knees: CalibrationKnees, rows: NDArray[np.int64]) -> Predictions:
    grades = postprocessor(knees.logits)
    return Predictions(grades.probabilities.astype(np.float32), knees.targets, knees.subject, rows, grades.grades)


def share_without_sign(predictions: Predictions) -> float:
    """Share of the knees with KL ≥ 2 and six OARSI zeros."""
    grades = predictions.grades
    return float(((grades[:, 0] >= 2) & (grades[:, 1:] == 0).all(1)).mean())


def merge(parts: list[Predictions]) -> Predictions:
    """Several predictions as one, in the order of the knees."""
    order = np.argsort(np.concatenate([part.knee for part in parts]))
    names = ("probabilities", "targets", "subject", "knee", "grades")
    return Predictions(*(np.concatenate([getattr(part, name) for part in parts])[order] for name in names))


def with_log_loss(scores: Scores, predictions: Predictions, people: SubjectBootstrap) -> Scores:
    """The scores with `log_loss` added to each grade: the mean over knees of −Σ_c t_c log p_c."""
    for target in TARGETS:
        labels = predictions.targets[:, target.one_hot].astype(np.float64)
        labelled = np.isfinite(labels).all(1)
        shares = predictions.probabilities[:, target.one_hot].astype(np.float64).clip(min=1e-12)
        loss = -(np.nan_to_num(labels) * np.log(shares)).sum(1) * labelled
        sums = people.sums(np.stack([loss, labelled.astype(np.float64)], axis=1))
        scores[target.name]["log_loss"] = sums[:, 0] / sums[:, 1]
    scores["oarsi_mean"]["log_loss"] = np.mean([scores[name]["log_loss"] for name in OARSI_NAMES], axis=0)
    return scores


if __name__ == "__main__":
    main()

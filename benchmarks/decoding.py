"""Coherent decoding on real crops: calibration without a decoder against calibration through the decoder.

    python benchmarks/decoding.py cache/store-chen2018-shipped [--split val] [--weights FILE]

The dataset is that of docs/how-to/train-shipped-weights.md. The grader's logits are computed once. Calibration alone
(`fit_calibration`) and calibration through the decoder, as `kneegrade calibrate` fits it (`tuned_claims`), are fitted on the people of one half
and scored on the other half, in both directions, and all knees are scored together. Halves: `people_first` with share
0.5 and seed 0. Without a decoder the most probable grades are given. With it, the most probable grades that keep the
hard rules are given, without ordinal smoothing and with the chosen one. One more row has rules and ordinal smoothing but no joint table (joint exponent 0). Differences are paired, with 95 % intervals by bootstrap over people.
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
from kneegrade.evaluation.paper_tables import cell, signed
from kneegrade.evaluation.table_formats import Table, markdown
from kneegrade.network import load_network
from kneegrade.schema import OARSI_NAMES, TARGETS, grade_tuple_counts
from kneegrade.training.batches import CropBatches
from kneegrade.training.dataset import load_datasets
from kneegrade.training.predict import predicted_logits
from kneegrade.training.splits import people_first
from kneegrade.uncertainty import Graded, Postprocessor, fit_calibration, tuned_claims
from kneegrade.weights import load_weights, shipped_path

COLUMNS = {
    "KL accuracy": ("kl", "accuracy"), "KL κ": ("kl", "kappa"), "AUC, KL ≥ 2": ("joint", "auc_kl2"),
    "KL −log likelihood": ("kl", "log_loss"), "OARSI accuracy": ("oarsi_mean", "accuracy"),
    "OARSI κ": ("oarsi_mean", "kappa"), "OARSI −log likelihood": ("oarsi_mean", "log_loss"),
    "hard rules broken": ("joint", "hard_rule_rate"),
}  # fmt: skip
ALONE, TABLELESS = "calibrated, no decoder", "calibrated, rules and ordinal_smoothing without the table"
PLAIN, CREDITED = "through the decoder, no ordinal_smoothing", "through the decoder, with ordinal_smoothing"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--weights", type=Path, default=shipped_path("grader"), help="by default the shipped ones")
    options = parser.parse_args()
    knees = read(options.store, options.split, options.weights)
    said, chosen = both_halves(knees)
    people = SubjectBootstrap(knees.subject)
    scored = {name: with_log_loss(score(one, people), one, people) for name, one in said.items()}
    lines: list[tuple[str, ...] | None] = [
        (name, *(cell(one, *column) for column in COLUMNS.values())) for name, one in scored.items()
    ]
    lines.append(None)
    for name, other in ((PLAIN, ALONE), (CREDITED, ALONE), (CREDITED, PLAIN), (CREDITED, TABLELESS)):
        found = [differences(scored[other], scored[name], grade)[metric] for grade, metric in COLUMNS.values()]
        lines.append((f"{name}, less {other}", *(signed(*each) for each in found)))
    notes = (
        f"{len(knees.subject)} knees of {len(np.unique(knees.subject))} people; ± is half the 95 % interval over "
        "people, […] a paired one, bold where it leaves out zero. OARSI: means of the six.",
        *chosen,
    )
    print(markdown(Table("decoding", "Coherent decoding", ("", *COLUMNS), tuple(lines), notes)))


def read(place: Path, split: str, weights: Path) -> Graded:
    """What a grader's network says of the knees of a split, as the grader computes."""
    store = load_datasets((place,))
    rows = np.flatnonzero(store.split == split)
    network = load_network(load_weights(weights, "grader")).optimized_for_inference("cpu")
    logits = predicted_logits(network, CropBatches(store, network.config.roi_px, "cpu"), rows)
    return Graded(logits, store.targets[rows], store.subject[rows])


def both_halves(knees: Graded) -> tuple[dict[str, Predictions], list[str]]:
    """Predictions for all knees, each by what was fitted on the other half of the people; and what was chosen there."""
    first = people_first(knees.subject, 0.5, 0)
    parts, chosen = [], []
    for fitted in (first, ~first):
        claims = fitted_claims(knees.part(fitted))
        rest = np.flatnonzero(~fitted)
        parts.append({name: claimed(one, knees.part(~fitted), rest) for name, one in claims.items()})
        decoder = claims[CREDITED].decoder
        chosen.append(
            f"Fitted on {fitted.sum()} knees of {len(np.unique(knees.subject[fitted]))} people: joint exponent "
            f"{decoder.joint_exponent}, ordinal_smoothing {decoder.ordinal_smoothing}."
        )
    return {name: pooled([part[name] for part in parts]) for name in parts[0]}, chosen


def fitted_claims(knees: Graded) -> dict[str, Postprocessor]:
    """Calibration alone; through the decoder, without and with ordinal smoothing; alone with rules and smoothing."""
    alone = Postprocessor(fit_calibration(knees.logits, torch.from_numpy(knees.targets)))
    through = tuned_claims(knees, smoothed_table(grade_tuple_counts()))
    tableless = replace(alone, decoder=replace(through.decoder, joint_exponent=0.0))
    plain = replace(through, decoder=replace(through.decoder, ordinal_smoothing=0.0))
    return {ALONE: alone, TABLELESS: tableless, PLAIN: plain, CREDITED: through}


def claimed(claims: Postprocessor, knees: Graded, rows: NDArray[np.int64]) -> Predictions:
    claim = claims(knees.logits)
    return Predictions(claim.probabilities.astype(np.float32), knees.targets, knees.subject, rows, claim.grades)


def pooled(parts: list[Predictions]) -> Predictions:
    """All of them, in the order of the knees."""
    order = np.argsort(np.concatenate([part.knee for part in parts]))
    names = ("probabilities", "targets", "subject", "knee", "grades")
    return Predictions(*(np.concatenate([getattr(part, name) for part in parts])[order] for name in names))


def with_log_loss(scores: Scores, said: Predictions, people: SubjectBootstrap) -> Scores:
    """The scores, and per grade `log_loss`, the mean over knees of −Σ_c t_c log p_c."""
    for target in TARGETS:
        wanted = said.targets[:, target.one_hot].astype(np.float64)
        read = np.isfinite(wanted).all(1)
        shares = said.probabilities[:, target.one_hot].astype(np.float64).clip(min=1e-12)
        loss = -(np.nan_to_num(wanted) * np.log(shares)).sum(1) * read
        sums = people.sums(np.stack([loss, read.astype(np.float64)], axis=1))
        scores[target.name]["log_loss"] = sums[:, 0] / sums[:, 1]
    scores["oarsi_mean"]["log_loss"] = np.mean([scores[name]["log_loss"] for name in OARSI_NAMES], axis=0)
    return scores


if __name__ == "__main__":
    main()

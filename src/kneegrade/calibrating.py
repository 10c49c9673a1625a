"""`calibrate`: what a finished network may claim is fitted on labelled knees, and measured on others."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from kneegrade.coherence import smoothed_table
from kneegrade.errors import RecipeError
from kneegrade.evaluation import Predictions
from kneegrade.grader import choose_device
from kneegrade.learning.cutting import build_store
from kneegrade.learning.folds import DIVISION, people_first
from kneegrade.learning.predicting import claimed, predicted_logits
from kneegrade.learning.regions import Regions
from kneegrade.learning.store import load_stores
from kneegrade.network import load_network
from kneegrade.schema import TARGETS, grade_tuple_counts
from kneegrade.uncertainty import Claims, Graded, fit_claims
from kneegrade.uncertainty.claims import CALIBRATION, DECODER, SETS
from kneegrade.weights import identity_of, load_weights, save_weights, shipped_path

FEWEST_KNEES = 100
SUFFIX = "-calibrated"


def calibrate(
    table: pd.DataFrame, output: Path, weights: Path | None = None, *, share: float = 0.5, level: float = 0.9,
    seed: int = 0, device: str = "auto", progress: Callable[[int, int], None] | None = None,
) -> tuple[Predictions | None, list[str]]:  # fmt: skip
    """Write `output`: the same network with calibration, coherent decoding and prediction sets of these knees.

    People are divided by a hash of their ids: all is fitted on about `share` of them (see
    `kneegrade.uncertainty.fit_claims`); the rest, which no choice saw, is what comes back. Grades that no knee has keep
    the calibration that they had.

    Args:
        table: a manifest of graded knees that the network was not trained on; knees without landmarks are looked for.
        output: safetensors file; its description goes beside it.
        weights: a grader's; the shipped ones by default.
        share: of the people to fit on, about; 1 leaves none to measure on.
        level: how often a set is to hold the true grade.
        seed: of the division.
        device: "auto", "cpu" or "cuda".
        progress: called with (done, all).

    Returns:
        What the new weights claim of the people left (None if there are none), and a line per knee that was left out.

    Raises:
        RecipeError: fewer than 100 knees or ten graded people to fit on, or none of the knees could be cut.
        WeightsError: missing or damaged weights.
    """
    held, device = load_weights(weights or shipped_path("grader"), "grader"), choose_device(device)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "store"
        bad = build_store(table, place, workers=os.cpu_count() or 1, progress=progress)
        store = load_stores((place,))
        with np.load(place / "knees.npz") as saved:
            manifest_rows = saved["manifest_rows"]
        first = people_first(store.subject, share, seed)
        if first.sum() < FEWEST_KNEES:
            raise RecipeError(f"{int(first.sum())} knees to calibrate on; {FEWEST_KNEES} are needed.")
        network, before = load_network(held).quickened(device), Claims.of(held).calibration  # as the grader computes
        logits = predicted_logits(network, Regions(store, network.plan.roi_px, device), np.arange(len(store)))
        knees = Graded(logits, store.targets, store.subject)
        claims = fit_claims(knees.part(first), smoothed_table(grade_tuple_counts()), level, seed, before)
        kept = {k: v for k, v in held.tensors.items() if k.split(".")[0] not in (CALIBRATION, DECODER, SETS)}
        decoder = claims.decoder
        said = {
            "weights": identity_of(held.description),
            "knees": int(first.sum()), "subjects": len(np.unique(store.subject[first])),
            "grades": [t.name for t in TARGETS if np.isfinite(store.targets[first][:, t.one_hot]).any()],
            "sources": sorted(set(store.source[first].tolist())), "division": DIVISION, "share": share, "seed": seed,
            "level": level,
            "joint_exponent": None if decoder is None else decoder.joint_exponent,
            "credit": None if decoder is None else decoder.credit,
        }  # fmt: skip
        name = f"{held.description['name'].removesuffix(SUFFIX)}{SUFFIX}"
        save_weights(output, {**kept, **claims.tensors()}, {**held.description, "name": name, "calibrated": said})
        rest = np.flatnonzero(~first)
        if not len(rest):
            return None, bad
        claim = claims(knees.part(~first).logits)
        return replace(claimed(claim, store, rest), knee=manifest_rows[rest]), bad

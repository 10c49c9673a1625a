"""`gate`: a grader's weights learn which knees to refuse, from sound knees and from phantoms with and without metal.

`calibrate`: what a finished network may claim is fitted on labelled knees, and measured on others.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kneegrade.coherence import smoothed_table
from kneegrade.errors import RecipeError
from kneegrade.evaluation import Predictions
from kneegrade.grader import DetectedRadiograph, Grader, UserHints, choose_device, detect_film, detect_knees
from kneegrade.imaging import Source, read_radiograph
from kneegrade.network import load_network
from kneegrade.phantom.phantom_cohort import ROI_FILE, TABLE_FILE
from kneegrade.schema import TARGETS, grade_tuple_counts
from kneegrade.training.batches import CropBatches
from kneegrade.training.build_dataset import build_dataset
from kneegrade.training.dataset import load_datasets
from kneegrade.training.predict import claimed, predicted_logits
from kneegrade.training.splits import DIVISION, people_first
from kneegrade.training.train_implants import draw_implants, fit_implant_network, implant_bars
from kneegrade.uncertainty import (
    Graded,
    ImplantNetwork,
    OODFeatures,
    Postprocessor,
    QualityControl,
    Split,
    fit_postprocessor,
    fit_quality_control,
)
from kneegrade.uncertainty.postprocess import CALIBRATION, DECODER, SETS
from kneegrade.uncertainty.quality_control import GATE
from kneegrade.weights import identity_of, load_weights, save_weights, shipped_path

FEWEST_KNEES = 100
SUFFIX = "-calibrated"


def calibrate(
    table: pd.DataFrame, output: Path, weights: Path | None = None, *, share: float = 0.5, level: float = 0.9,
    seed: int = 0, device: str = "auto", progress: Callable[[int, int], None] | None = None,
) -> tuple[Predictions | None, list[str]]:  # fmt: skip
    """Write `output`: the same network with calibration, coherent decoding and prediction sets of these knees.

    People are divided by a hash of their ids: all is fitted on about `share` of them (see
    `kneegrade.uncertainty.fit_postprocessor`); the rest, which no choice saw, is returned. Grades
    that no knee has keep the calibration that they had.

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
        bad = build_dataset(table, place, workers=os.cpu_count() or 1, progress=progress)
        store = load_datasets((place,))
        with np.load(place / "knees.npz") as saved:
            manifest_rows = saved["manifest_rows"]
        first = people_first(store.subject, share, seed)
        if first.sum() < FEWEST_KNEES:
            raise RecipeError(f"{int(first.sum())} knees to calibrate on; {FEWEST_KNEES} are needed.")
        network, before = (
            load_network(held).optimized_for_inference(device),
            Postprocessor.of(held).calibration,
        )  # as the grader computes
        logits = predicted_logits(network, CropBatches(store, network.config.roi_px, device), np.arange(len(store)))
        knees = Graded(logits, store.targets, store.subject)
        claims = fit_postprocessor(knees.part(first), smoothed_table(grade_tuple_counts()), level, seed, before)
        kept = {k: v for k, v in held.tensors.items() if k.split(".")[0] not in (CALIBRATION, DECODER, SETS)}
        decoder = claims.decoder
        said = {
            "weights": identity_of(held.description),
            "knees": int(first.sum()), "subjects": len(np.unique(store.subject[first])),
            "grades": [t.name for t in TARGETS if np.isfinite(store.targets[first][:, t.one_hot]).any()],
            "sources": sorted(set(store.source[first].tolist())), "division": DIVISION, "share": share, "seed": seed,
            "level": level,
            "joint_exponent": None if decoder is None else decoder.joint_exponent,
            "ordinal_smoothing": None if decoder is None else decoder.ordinal_smoothing,
        }  # fmt: skip
        name = f"{held.description['name'].removesuffix(SUFFIX)}{SUFFIX}"
        save_weights(output, {**kept, **claims.tensors()}, {**held.description, "name": name, "calibrated": said})
        rest = np.flatnonzero(~first)
        if not len(rest):
            return None, bad
        claim = claims(knees.part(~first).logits)
        return replace(claimed(claim, store, rest), knee=manifest_rows[rest]), bad


MOST_SOUND = 1_000
FEWEST = 100
Progress = Callable[[int, int], None]


def gate(
    table: pd.DataFrame, phantoms: Path, output: Path, weights: Path | None = None, *, split: str = "val",
    share: float = 0.5, refuse: float = 0.01, seed: int = 0, device: str = "auto", progress: Progress | None = None,
) -> dict[str, float]:  # fmt: skip
    """Write `output`: the same weights with a quality gate; what comes back was measured on people left out.

    Args:
        table: a manifest of sound films: those of split "train" (1,000 at most) teach what is usual, `share` of the
            people of `split` how far sound knees stray, and the rest of them are measured on.
        phantoms: folder of `kneegrade phantom --rois --implants`; three fifths of its people teach, one fifth says how
            far phantoms stray, one is measured on.
        output: safetensors file; its description goes beside it.
        weights: a grader's; the shipped ones by default.
        split: of the manifest.
        share: of its people, about; with the same seed those that `calibrate` fits on.
        refuse: share of sound knees that may be refused for being strange.
        seed: of the division.
        device: "auto", "cpu" or "cuda".
        progress: called with (done, all).

    Returns:
        Of the real knees left out their number `knees`, the shares `refused`, `refused_<reason>` and `warned`, and
        `drawn_metal_seen`, of as many with a phantom's metal drawn in; of the phantoms left out `implant_auc`,
        `implants_seen`, `plain_taken_for_implants` and `plain_warned`; and `implant_limit`.

    Raises:
        RecipeError: too few films, or phantoms without metal.
        WeightsError: missing or damaged weights.
    """
    place = weights or shipped_path("grader")
    held, grader = load_weights(place, "grader"), Grader(device, place, quality_control=False)
    sound = table[table["split"] == "train"]
    sound = sound.iloc[np.random.default_rng(seed).permutation(len(sound))[:MOST_SOUND]]
    rest = table[table["split"] == split]
    first = people_first(rest["subject_id"].to_numpy(dtype=str), share, seed)
    drawn = pd.read_parquet(phantoms / TABLE_FILE)
    metal = drawn["implant"].notna().to_numpy()
    fifth = pd.factorize(drawn["subject_id"])[0] % 5
    kept, straying, teaching = fifth == 0, fifth == 1, fifth > 1
    _check(
        {"sound films": len(sound), f"films of split {split}": int(first.sum()),
         "phantoms with metal": int(metal.sum()), "phantoms without": int((~metal).sum())}
    )  # fmt: skip
    whole = len(sound) + len(rest) + len(drawn)
    rois = np.load(phantoms / ROI_FILE, mmap_mode="r")
    done = count(1)

    def signs(items: Iterable[Any]) -> OODFeatures:
        return grader.ood_features(_found(grader, items, lambda: progress(next(done), whole) if progress else None))

    real = Split(signs(sound["image_path"]), signs(rest[first]["image_path"]))
    plain = Split(signs(rois[~metal & teaching]), signs(rois[~metal & straying]))
    network = _taught(real.usual, plain.usual, signs(rois[metal & teaching]), drawn[metal & teaching], seed)
    fitted = fit_quality_control(real, plain, network, refuse=refuse)
    parts = {key: value for key, value in held.tensors.items() if not key.startswith(f"{GATE}.")}
    parts |= {f"{GATE}.{key}": value for key, value in fitted.state_dict().items()}
    found = _phantoms_told(fitted, signs(rois[~metal & kept]), signs(rois[metal & kept]))
    if not first.all():
        found |= _sound_told(fitted, signs(rest[~first]["image_path"]), drawn[metal & kept], seed)
    said = {
        "sound": len(sound), "reference": int(first.sum()), "phantoms": len(drawn), "division": DIVISION,
        "share": share, "seed": seed, **found,
    }  # fmt: skip
    save_weights(output, parts, {**held.description, "gate": said})
    return found


def _taught(
    real: OODFeatures, plain: OODFeatures, implants: OODFeatures, drawn: pd.DataFrame, seed: int
) -> ImplantNetwork:
    """A metal network: real knees without, and with a phantom's metal drawn in; phantoms without, and with."""
    into_real = draw_implants(real.pictures, implant_bars(drawn), np.random.default_rng(seed))
    shown = [real.pictures, into_real, plain.pictures, implants.pictures]
    return fit_implant_network(
        np.concatenate(shown), np.repeat([False, True, False, True], [len(p) for p in shown]), seed
    )


def _found(grader: Grader, items: Iterable[Any], counted: Callable[[], None]) -> Iterator[DetectedRadiograph]:
    """Films from paths, or single knees from arrays."""
    for item in items:
        if isinstance(item, str):
            yield detect_film(Source(Path(item).name, path=Path(item)), grader.detector, UserHints())
        else:
            yield detect_knees("phantom", read_radiograph(np.asarray(item)), grader.detector)
        counted()


def _phantoms_told(gate: QualityControl, plain: OODFeatures, implants: OODFeatures) -> dict[str, float]:
    """How phantoms with metal are told from those without, and how many without have a finding."""
    from sklearn.metrics import roc_auc_score

    metal = np.concatenate([gate.implant_network.probability(each.pictures) for each in (plain, implants)])
    truth = np.repeat([0, 1], [len(plain.doubt), len(implants.doubt)])
    taken, limit = metal > float(gate.implant_limit), float(gate.implant_limit)
    return {
        "implant_auc": round(float(roc_auc_score(truth, metal)), 4), "implant_limit": round(limit, 4),
        "implants_seen": round(float(taken[truth == 1].mean()), 4),
        "plain_taken_for_implants": round(float(taken[truth == 0].mean()), 4),
        "plain_warned": round(float(np.mean([bool(quality.findings) for quality in gate(plain)])), 4),
    }  # fmt: skip


def _sound_told(gate: QualityControl, sound: OODFeatures, phantoms: pd.DataFrame, seed: int) -> dict[str, float]:
    """How many sound knees are refused, and why; and of how many metal would be seen, drawn in as phantoms have it."""
    said = gate(sound)
    reasons = [quality.reason.code for quality in said if quality.reason is not None]
    with_some = draw_implants(sound.pictures, implant_bars(phantoms), np.random.default_rng([seed, 1]))
    seen = gate.implant_network.probability(with_some) > float(gate.implant_limit)
    return {
        "knees": len(said),
        "refused": round(len(reasons) / len(said), 4),
        "warned": round(sum(bool(quality.findings) for quality in said) / len(said), 4),
        **{f"refused_{code}": round(reasons.count(code) / len(said), 4) for code in sorted(set(reasons))},
        "drawn_metal_seen": round(float(seen.mean()), 4),
    }


def _check(counts: Mapping[str, int]) -> None:
    few = {name: number for name, number in counts.items() if number < FEWEST}
    if few:
        raise RecipeError(
            f"A gate needs {FEWEST} of each kind; there are "
            + ", ".join(f"{n} {name}" for name, n in few.items())
            + "."
        )

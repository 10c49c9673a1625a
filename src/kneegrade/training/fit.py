"""Fit the parts of a grader's weights that come after training: calibration and quality control.

Both functions read a manifest of films that the network was not trained on, divide its people by a hash of their
identifiers, fit on one group, measure on the other and write new weights with the same network.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kneegrade.coherence import smoothed_table
from kneegrade.errors import RecipeError
from kneegrade.evaluation import Predictions
from kneegrade.progress import Progress
from kneegrade.quiet_imports import import_joblib_quietly
from kneegrade.schema import TARGETS, grade_tuple_counts
from kneegrade.training.fit_provenance import implant_training, names_of_sources, with_provenance_of_implants
from kneegrade.training.metal.implant_sites import PhantomParts, fit_implants_of_manifests, without_metal
from kneegrade.training.predict import predict_knees
from kneegrade.training.predict_films import KneePredictions, requested
from kneegrade.training.splits import DIVISION, in_first_group
from kneegrade.uncertainty import (
    CalibrationKnees,
    OODFeatures,
    Population,
    Postprocessor,
    QualityControl,
    fit_postprocessor,
    fit_quality_control,
    grades_with_enough_labels,
    load_implants,
)
from kneegrade.uncertainty.label_counts import MIN_KNEES, MIN_PEOPLE
from kneegrade.uncertainty.postprocess import CALIBRATION, DECODER, SETS
from kneegrade.uncertainty.quality_control import QUALITY_CONTROL
from kneegrade.uncertainty.site_scale import SITE, SITE_SETS
from kneegrade.weights import (
    Weights,
    load_weights,
    save_weights,
    shipped_path,
    weights_reference,
)

MIN_CALIBRATION_KNEES = 100
CALIBRATED_SUFFIX = "-calibrated"  # of the name of calibrated weights
MAX_TRAIN_FILMS = 1_000  # from which quality control estimates the usual distribution
MIN_FILMS = 100  # of each kind that quality control is fitted on


def calibrate(
    table: pd.DataFrame, output: Path, weights: Path | None = None, *, share: float = 0.5, level: float = 0.9,
    seed: int = 0, device: str = "auto", progress: Progress | None = None,
) -> tuple[Predictions | None, list[str]]:  # fmt: skip
    """Write weights with calibration, coherent decoding and prediction sets fitted on labelled knees.

    All three are fitted on the same people, see `kneegrade.uncertainty.fit_postprocessor`. Grades that were read in
    fewer than 50 knees or 20 subjects keep the calibration and the prediction sets of the input weights.

    Args:
        table: a manifest of labelled knees that the network was not trained on. The detector finds the landmarks of
            knees without landmarks.
        output: safetensors file; its description is written beside it.
        weights: of a grader; the shipped ones by default.
        share: approximate share of the people to fit on; 1 leaves nobody to measure on.
        level: nominal coverage of the prediction sets.
        seed: of the division of people.
        device: "auto", "cpu" or "cuda".
        progress: called with (films done, films in all).

    Returns:
        Predictions of the new weights for the graded knees of the people who were not used (None if there are none),
        and a line with the reason for each knee that was left out and for the grades that were not fitted.

    Raises:
        RecipeError: fewer than 100 graded knees to fit on, no grade of 50 knees of 20 subjects, grades that would keep
            prediction sets of another level, or no knee could be cropped.
        WeightsError: the weights are missing, damaged or of another kind.
    """
    path = weights or shipped_path("grader")
    loaded = load_weights(path, "grader")
    knees = predict_knees(table, path, device=device, workers=os.cpu_count() or 1, progress=progress)
    labelled, first = np.isfinite(knees.targets).any(1), in_first_group(knees.subject, share, seed)
    fitted, rest = labelled & first, labelled & ~first
    if fitted.sum() < MIN_CALIBRATION_KNEES:
        raise RecipeError(
            f"Found {int(fitted.sum())} graded knees to calibrate on; at least {MIN_CALIBRATION_KNEES} are needed. "
            "Give a manifest with more graded knees or a larger share, or fit the scale of a site's reader with "
            "--site, which needs 50 knees."
        )
    given, before = CalibrationKnees(knees.logits, knees.targets, knees.subject), Postprocessor.of(loaded)
    postprocessor = fit_postprocessor(given.part(fitted), smoothed_table(grade_tuple_counts()), level, seed, before)
    decoder = postprocessor.decoder
    description = {
        **_description_of_knees(loaded, knees, fitted),
        "division": DIVISION, "share": share, "seed": seed, "level": level,
        "joint_exponent": None if decoder is None else decoder.joint_exponent,
        "ordinal_smoothing": None if decoder is None else decoder.ordinal_smoothing,
    }  # fmt: skip
    name = f"{base_name(loaded.description)}{CALIBRATED_SUFFIX}"
    replaced = (CALIBRATION, DECODER, SETS, SITE, SITE_SETS)
    kept = {key: value for key, value in loaded.tensors.items() if key.split(".")[0] not in replaced}
    about = {key: value for key, value in loaded.description.items() if key != SITE}
    save_weights(output, {**kept, **postprocessor.tensors()}, {**about, "name": name, "calibrated": description})
    lines = [*knees.left_out, *_kept_grades(description["grades"], before)]
    if not rest.any():
        return None, lines
    graded = postprocessor(given.part(rest).logits)
    predictions = Predictions(
        graded.probabilities.astype(np.float32), knees.targets[rest], knees.subject[rest], knees.row[rest],
        graded.grades, graded.sets,
    )  # fmt: skip
    return predictions, lines


def _kept_grades(fitted: Collection[str], before: Postprocessor) -> list[str]:
    """A line that names the grades that were not fitted, or no line if all were."""
    kept = [target.name for target in TARGETS if target.name not in fitted]
    if not kept:
        return []
    sets = "those of the input weights" if before.sets is not None else "the whole scale (the input weights have none)"
    return [
        f"Not fitted, because they were read in fewer than {MIN_KNEES} knees or {MIN_PEOPLE} subjects: "
        f"{', '.join(kept)}. These grades keep the calibration of the input weights; their prediction sets are {sets}."
    ]


def base_name(description: Mapping[str, Any]) -> str:
    """The name in a grader's description, without the marks of a calibration and of a site."""
    return str(description["name"]).split("@")[0].removesuffix(CALIBRATED_SUFFIX)


def _description_of_knees(loaded: Weights, knees: KneePredictions, fitted: NDArray[np.bool_]) -> dict[str, Any]:
    """The input weights, and the knees that were fitted on, for the description of calibrated weights."""
    return {
        "weights": weights_reference(loaded.description),
        "knees": int(fitted.sum()),
        "subjects": len(np.unique(knees.subject[fitted])),
        "grades": list(grades_with_enough_labels(knees.targets[fitted], knees.subject[fitted])),
        "sources": sorted(set(knees.source[fitted].tolist())),
    }


def quality_control_from_manifest(
    table: pd.DataFrame, phantoms: Path, output: Path, weights: Path | None = None, *, split: str = "val",
    share: float = 0.5, warn: float = 0.02, other_sites: Sequence[pd.DataFrame] = (), with_metal: Collection[str] = (),
    implants: Path | None = None, seed: int = 0, device: str = "auto", progress: Progress | None = None,
) -> dict[str, float]:  # fmt: skip
    """Write weights with quality control fitted on normal films and on phantoms with and without implants.

    Args:
        table: a manifest of normal films without implants. Split "train" (at most 1,000 films, drawn at random) gives
            the usual distribution of the OOD features; `share` of the people in `split` give the reference
            distribution of the distances; the rest of `split` is measured on.
        phantoms: folder written by `kneegrade phantom --rois --implants`. Of its people three fifths are used for the
            usual distribution and the implant network, one fifth for the reference, one fifth is measured on.
        output: safetensors file; its description is written beside it.
        weights: of a grader; the shipped ones by default.
        split: of the manifest.
        share: approximate share of the people in `split` to fit on; with the same seed `calibrate` fits on the same.
        warn: share of normal knees that may have a finding.
        other_sites: manifests of knees without metal of other hospitals, of which the implant network learns too. Its
            limits are chosen on each of them with a network that has not seen it.
        with_metal: ends of the image paths of knees with metal; these rows are left out of all manifests.
        implants: weights with an implant network (of kind "implants", or of a grader) to take instead of training one;
            `other_sites` are then not used.
        seed: of the division of people, the choice of films and the implant network.
        device: "auto", "cpu" or "cuda".
        progress: called with (films done, films in all).

    Returns:
        Measures on knees that were not used. On normal films: number of `knees`, shares `refused` (for certain metal),
        `warned` (any finding) and `warned_<code>`, and `drawn_metal_seen`, the share of knees in which metal is certain
        or possible after an implant of a phantom has been drawn in. On phantoms: `implant_auc`, `implants_seen` and
        `plain_taken_for_implants` (certain), `implants_seen_as_possible` and `plain_taken_for_possible` (certain or
        possible), and `plain_warned`. And the thresholds `implant_limit` and `possible_implant_limit`.

    Raises:
        RecipeError: fewer than 100 films or phantoms of a kind.
        WeightsError: the weights are missing, damaged or of another kind.
    """
    path = weights or shipped_path("grader")
    loaded = load_weights(path, "grader")
    table = without_metal(table, with_metal)
    sound = table[table["split"] == "train"]
    usual = sound.iloc[np.random.default_rng(seed).permutation(len(sound))[:MAX_TRAIN_FILMS]]
    others = table[table["split"] == split]
    fitted = in_first_group(others["subject_id"].to_numpy(dtype=str), share, seed)
    drawn = PhantomParts.load(phantoms)
    implant, rois, tested, reference, trained = drawn.implant, drawn.rois, drawn.tested, drawn.reference, drawn.trained
    _check_numbers(
        {"normal films in split train": len(usual), f"normal films in split {split}": int(fitted.sum()),
         "phantoms with implants": int(implant.sum()), "phantoms without": int((~implant).sum())}
    )  # fmt: skip
    films, finished = len(usual) + len(others) + len(implant) - int((implant & ~tested).sum()), count(1)

    def advance(done: int, total: int, loss: float | None = None) -> None:  # over all calls of `predict_knees`
        if progress:
            progress(next(finished), films)

    def ood_features(source: pd.DataFrame | NDArray[np.uint8]) -> OODFeatures:
        return requested(predict_knees(source, path, features="ood", device=device, progress=advance).ood_features)

    real = Population(ood_features(usual), ood_features(others[fitted]))
    plain = Population(ood_features(rois[~implant & trained]), ood_features(rois[~implant & reference]))
    if implants is None:
        found, measured = fit_implants_of_manifests(
            sound, others[fitted], others[~fitted], [without_metal(site, with_metal) for site in other_sites], drawn,
            seed=seed, workers=os.cpu_count() or 1, progress=progress,
        )  # fmt: skip
        network, limits = found.network, found.limits
    else:
        (network, limits), measured = load_implants(implants), {}
    control = fit_quality_control(real, plain, network, limits, warn=warn)
    measures = measured | _measures_on_phantoms(
        control, ood_features(rois[~implant & tested]), ood_features(rois[implant & tested])
    )
    if not fitted.all():
        measures |= _measures_on_films(control, ood_features(others[~fitted]))
    description = {
        "sound": len(usual), "reference": int(fitted.sum()), "phantoms": len(implant),
        "sources": names_of_sources(usual, others[fitted]), **implant_training(sound, other_sites, implants),
        "division": DIVISION, "share": share, "seed": seed, **measures,
    }  # fmt: skip
    kept = {key: value for key, value in loaded.tensors.items() if not key.startswith(f"{QUALITY_CONTROL}.")}
    kept |= {f"{QUALITY_CONTROL}.{key}": value for key, value in control.state_dict().items()}
    save_weights(output, kept, {**with_provenance_of_implants(loaded.description, implants), "gate": description})
    return measures


def _check_numbers(numbers: Mapping[str, int]) -> None:
    few = [f"{number} {name}" for name, number in numbers.items() if number < MIN_FILMS]
    if few:
        raise RecipeError(f"Quality control needs at least {MIN_FILMS} films of each kind; found {', '.join(few)}.")


def _measures_on_phantoms(control: QualityControl, plain: OODFeatures, implants: OODFeatures) -> dict[str, float]:
    """Detection of implants in phantoms, and the share of phantoms without implants that have a finding."""
    import_joblib_quietly()
    from sklearn.metrics import roc_auc_score

    probability = np.concatenate(
        [control.implant_network.probability(each.implant_inputs) for each in (plain, implants)]
    )
    truth = np.repeat([0, 1], [len(plain.landmark_uncertainty), len(implants.landmark_uncertainty)])
    limit, possible_limit = float(control.implant_limit), float(control.possible_implant_limit)
    certain, possible = probability > limit, probability > possible_limit
    return {
        "implant_auc": round(float(roc_auc_score(truth, probability)), 4),
        "implant_limit": round(limit, 4), "possible_implant_limit": round(possible_limit, 4),
        "implants_seen": round(float(certain[truth == 1].mean()), 4),
        "implants_seen_as_possible": round(float(possible[truth == 1].mean()), 4),
        "plain_taken_for_implants": round(float(certain[truth == 0].mean()), 4),
        "plain_taken_for_possible": round(float(possible[truth == 0].mean()), 4),
        "plain_warned": round(float(np.mean([bool(quality.findings) for quality in control(plain)])), 4),
    }  # fmt: skip


def _measures_on_films(control: QualityControl, normal: OODFeatures) -> dict[str, float]:
    """Shares of normal knees that are refused or have findings."""
    qualities = control(normal)
    codes = [finding.code for quality in qualities for finding in quality.findings]
    return {
        "knees": len(qualities),
        "refused": round(sum(quality.reason is not None for quality in qualities) / len(qualities), 4),
        "warned": round(sum(bool(quality.findings) for quality in qualities) / len(qualities), 4),
        **{f"warned_{code}": round(codes.count(code) / len(qualities), 4) for code in sorted(set(codes))},
    }

"""Write weights whose grades are on the scale of a site's reader, or corrected for the site's prevalences.

`calibrate_to_site` needs 50 or more labelled knees of the site, `correct_prevalence` films without labels. Both keep
the network, its calibration and its decoder; the site's scale is stored beside them, and reports show both.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kneegrade.coherence import marginal
from kneegrade.errors import RecipeError
from kneegrade.evaluation import Predictions
from kneegrade.evaluation.two_sample import SiteProfile, compare_profiles
from kneegrade.progress import Progress
from kneegrade.schema import TARGETS
from kneegrade.training.predict import predict_knees
from kneegrade.uncertainty import (
    ConformalSets,
    Postprocessor,
    SiteMap,
    SiteScale,
    cross_fitted_scale,
    em_prevalences,
    fit_site_scale,
    label_shift_weights,
)
from kneegrade.uncertainty.label_counts import any_read
from kneegrade.uncertainty.site_scale import SITE, SITE_SETS
from kneegrade.weights import Weights, load_weights, save_weights, shipped_path, weights_reference

MIN_UNLABELLED = 50  # knees without labels that prevalences are estimated from
LARGEST_P_VALUE = 0.05  # of the features, below which only-the-prevalences-differ is rejected


@dataclass(frozen=True, eq=False)
class SiteCalibration:
    """Result of `calibrate_to_site`.

    Attributes:
        scale: written to the weights, fitted on all knees.
        site: predictions on the site's scale, cross-fitted by person.
        study: predictions of the same knees on the study's scale.
        left_out: a line with the reason for each knee that was left out.
    """

    scale: SiteScale
    site: Predictions
    study: Predictions
    left_out: tuple[str, ...]


def calibrate_to_site(
    table: pd.DataFrame, output: Path, weights: Path | None = None, *, site: str, level: float | None = None,
    seed: int = 0, device: str = "auto", progress: Progress | None = None,
) -> SiteCalibration:  # fmt: skip
    """Write weights that report the grades as the site's reader gives them (`kneegrade.uncertainty.site_scale`).

    All knees are fitted on. A scale of another site in the input weights is replaced.

    Args:
        table: a manifest of knees with the grades of the site's reader; KL alone suffices.
        output: safetensors file; its description is written beside it.
        weights: of a calibrated grader; the shipped ones by default.
        site: name of the site, shown in reports.
        level: nominal coverage of the prediction sets; by default that of the weights' sets.
        seed: of the folds.
        device: "auto", "cpu" or "cuda".
        progress: called with (films done, films in all).

    Raises:
        RecipeError: fewer than 50 labelled knees or 20 subjects, weights that are not calibrated, a level that is not
            that of the weights' sets, or no knee could be cropped.
        WeightsError: the weights are missing, damaged or of another kind.
    """
    path = weights or shipped_path("grader")
    loaded = load_weights(path, "grader")
    postprocessor = _study_postprocessor(loaded)
    level = _level(postprocessor.sets, level)
    knees = predict_knees(table, path, device=device, workers=os.cpu_count() or 1, progress=progress)
    study = postprocessor(knees.logits)
    decoder = postprocessor.decoder
    settings: dict[str, Any] = {
        "study_sets": postprocessor.sets, "level": level, "seed": seed,
        "ordinal_smoothing": 0.0 if decoder is None else decoder.ordinal_smoothing,
    }  # fmt: skip
    scale = fit_site_scale(study.probabilities, knees.targets, knees.subject, name=site, **settings)
    probabilities, grades, sets = cross_fitted_scale(
        study.probabilities, study.grades, knees.targets, knees.subject, **settings
    )
    fitted = any_read(knees.targets, scale.maps)
    _save(
        loaded, output, scale, weights=weights_reference(loaded.description), level=level, seed=seed,
        subjects=len(np.unique(knees.subject[fitted])), sources=sorted(set(knees.source[fitted].tolist())),
    )  # fmt: skip
    before = Predictions(
        study.probabilities.astype(np.float32), knees.targets, knees.subject, knees.row, study.grades, study.sets
    )
    after = replace(before, probabilities=probabilities.astype(np.float32), grades=grades, sets=sets)
    return SiteCalibration(scale, after, before, knees.left_out)


def correct_prevalence(
    profile: SiteProfile, reference: SiteProfile, output: Path, weights: Path | None = None, *, site: str, seed: int = 0
) -> Mapping[str, tuple[float, ...]]:
    """Write weights whose probabilities are corrected for the site's prevalences, without labels (EM).

    The correction assumes that knees of one grade look alike at both sites and are read on the same scale. So it is
    refused where the features differ more than the prevalences explain. A scale of another site in the input weights is
    replaced: profiles are on the study's scale.

    Args:
        profile: of the site (`kneegrade.training.predict.site_profile`).
        reference: of films like those of the calibration.
        output: safetensors file; its description is written beside it.
        weights: that made both profiles; the shipped ones by default.
        site: name of the site, shown in reports.
        seed: of the permutations and of the choice of reference knees.

    Returns:
        Grade name → prevalence of each class at the site.

    Raises:
        RecipeError: fewer than 50 knees, weights without a joint table, or features that differ.
        WeightsError: the weights are missing, damaged or of another kind.
    """
    loaded = load_weights(weights or shipped_path("grader"), "grader")
    postprocessor = _study_postprocessor(loaded)
    if postprocessor.decoder is None:
        raise RecipeError(
            f"The weights {loaded.name} have no joint table, which holds the prevalences that they were calibrated for."
        )
    if len(profile) < MIN_UNLABELLED:
        raise RecipeError(f"Found {len(profile)} knees; at least {MIN_UNLABELLED} are needed to estimate prevalences.")
    prior = {t.name: marginal(postprocessor.decoder.table, axis) for axis, t in enumerate(TARGETS)}
    found = {t.name: em_prevalences(profile.probabilities[:, t.one_hot], prior[t.name]) for t in TARGETS}
    kl = TARGETS[0]
    ratio = label_shift_weights(reference.probabilities[:, kl.one_hot], prior["kl"], found["kl"])
    _check_features(profile, reference, ratio, seed)
    ratios = {name: np.log(found[name] / prior[name]).astype(np.float32) for name in found}  # as weights store them
    maps = {name: SiteMap("bias", ratios[name].astype(np.float64)) for name in found}
    decoder = postprocessor.decoder
    scale = SiteScale(site, len(profile), maps, postprocessor.sets or ConformalSets(), decoder.ordinal_smoothing)
    prevalences = {name: tuple(shares.tolist()) for name, shares in found.items()}
    _save(loaded, output, scale, weights=weights_reference(loaded.description), prevalences=prevalences, seed=seed)
    return prevalences


def _check_features(profile: SiteProfile, reference: SiteProfile, ratio: np.ndarray[Any, Any], seed: int) -> None:
    """Refuse a correction where the features differ from those of the reference at the site's prevalences.

    Args:
        profile: of the site.
        reference: of the reference.
        ratio: (N,) density ratios of the reference's knees; each is kept with a probability in proportion to its own.
        seed: of the choice.

    Raises:
        RecipeError: they differ, or too few knees of the reference remain.
    """
    kept = np.random.default_rng(seed).random(len(ratio)) < ratio / ratio.max()
    like_site = SiteProfile(
        reference.features[kept], reference.probabilities[kept], reference.subject[kept], reference.weights
    )
    drift = compare_profiles(like_site, profile, seed)
    if drift.feature_p_value < LARGEST_P_VALUE:
        raise RecipeError(
            f"The features of the site's knees differ from those of the reference by more than their prevalences (AUC "
            f"{drift.feature_auc:.2f}, by chance below {drift.feature_auc_chance:.2f}; p {drift.feature_p_value:.3f}). "
            "A correction for prevalences would then make the grades worse. Have 50 or more knees read at the site and "
            "run `kneegrade calibrate --site NAME --manifest LABELLED` instead."
        )


def _study_postprocessor(loaded: Weights) -> Postprocessor:
    if "calibrated" not in loaded.description:
        raise RecipeError(
            f"The weights {loaded.name} are not calibrated. Run `kneegrade calibrate` on knees of the study first, "
            "without --site."
        )
    return replace(Postprocessor.of(loaded), site=None)


def _level(sets: ConformalSets | None, level: float | None) -> float:
    """The level of the site's sets.

    Raises:
        RecipeError: another level than that of the weights' sets, which grades without labels keep.
    """
    if sets is None:
        return 0.9 if level is None else level
    own = round(float(sets.level), 6)
    if level is not None and abs(level - own) > 1e-6:
        raise RecipeError(
            f"The prediction sets of the weights are for {own:g}, and grades without labels keep them. Leave out "
            "--level, or calibrate the weights for another level first."
        )
    return own


def _save(loaded: Weights, output: Path, scale: SiteScale, **about: Any) -> None:
    """Write the weights with a site's scale in place of an earlier one."""
    kept = {key: value for key, value in loaded.tensors.items() if key.split(".")[0] not in (SITE, SITE_SETS)}
    maps = {name: one.family for name, one in scale.maps.items()}
    base = loaded.description["name"].split("@")[0]
    description = {
        **loaded.description, "name": f"{base}@{scale.name}",
        SITE: {"name": scale.name, "knees": scale.knees, "maps": maps, **about},
    }  # fmt: skip
    save_weights(output, {**kept, **scale.tensors()}, description)

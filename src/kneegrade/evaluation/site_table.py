"""The same knees on the scales of the study's readers and of a site's reader, compared with the labels of the site."""

from collections.abc import Mapping

import numpy as np

from kneegrade.evaluation.metrics import agreement
from kneegrade.evaluation.predictions import Predictions
from kneegrade.evaluation.table_formats import Table
from kneegrade.schema import TARGETS, Target
from kneegrade.uncertainty.label_counts import any_read

LEAST_PROBABILITY = 1e-9
MEASURES = {"accuracy": 3, "kappa": 3, "log_loss": 3, "set_coverage": 3, "set_size": 2}  # and their digits


def scale_measures(predictions: Predictions, target: Target) -> dict[str, float | None]:
    """Accuracy, quadratic kappa, mean negative log-likelihood, and coverage and size of the sets, of one grade.

    Kappa is None where labels and grades are constant and equal.

    Args:
        predictions: of knees with at least one label of the grade; soft labels count with their probabilities.
        target: the grade.
    """
    labels = predictions.targets[:, target.one_hot].astype(np.float64)
    rows, index = np.isfinite(labels).all(1), TARGETS.index(target)
    found = agreement(predictions.truth()[rows, index], predictions.guess()[rows, index], target.classes)
    shares = np.maximum(predictions.probabilities[rows, target.one_hot], LEAST_PROBABILITY)
    kappa = found["kappa"] if np.isfinite(found["kappa"]) else None
    measures = {"accuracy": found["accuracy"], "kappa": kappa}
    measures["log_loss"] = float(-(labels[rows] * np.log(shares)).sum(1).mean())
    if predictions.sets is not None:
        members = predictions.sets[rows, target.one_hot]
        measures["set_coverage"] = float((members * labels[rows]).sum(1).mean())
        measures["set_size"] = float(members.sum(1).mean())
    return measures


def scales_table(study: Predictions, site: Predictions, maps: Mapping[str, str], name: str) -> Table:
    """A row per mapped grade: its map, and each measure on the study's → on the site's scale.

    Args:
        study: predictions on the study's scale.
        site: predictions of the same knees on the site's scale, cross-fitted by person.
        maps: grade name → family of its map.
        name: of the site.
    """
    rows = []
    for target in (target for target in TARGETS if target.name in maps):
        before, after = scale_measures(study, target), scale_measures(site, target)
        cells = (f"{_cell(before[m], d)} → {_cell(after[m], d)}" if m in before else _cell(after[m], d)
                 for m, d in MEASURES.items())  # fmt: skip
        rows.append((target.name, maps[target.name], *cells))
    labelled = any_read(site.targets, maps)
    notes = (
        f"{labelled.sum()} knees of {len(np.unique(site.subject[labelled]))} subjects, compared with the labels of the "
        "site: the study's scale → the site's scale. The site's scale is cross-fitted: the knees of each subject are "
        "graded by a map and sets fitted on other subjects. The weights are fitted on all knees.",
    )
    header = ("grade", "map", "accuracy", "kappa", "−log likelihood", "set coverage", "set size")
    return Table("scales", f"Scale of the reader of {name}", header, tuple(rows), notes)


def _cell(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"

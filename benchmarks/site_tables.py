"""Markdown tables of the benchmark of sites."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from site_metrics import (
    beside_zeros,
    calibrated_draws,
    column,
    has_grades,
    knee_metrics,
    one_knee_per_image,
    refusal_counts,
    two_pictures,
)

from kneegrade.schema import ONE_HOT_LENGTH, TARGETS
from kneegrade.uncertainty import Postprocessor, fit_site_scale

COLUMNS = {
    "accuracy": "accuracy", "kappa": "kappa", "auc_kl2": "AUC KL ≥ 2", "auc_kl3": "AUC KL ≥ 3",
    "spearman": "Spearman", "bias": "expected KL − label", "coverage": "90 % sets: coverage", "set_size": "size",
}  # fmt: skip
STUDY_SITES = ("validation",)


def print_tables(sites: Mapping[str, pd.DataFrame], postprocessor: Postprocessor) -> None:
    """Prints the tables of all sites.

    Args:
        sites: name → rows of `site_knees.site_knees`.
        postprocessor: of the weights that graded them.
    """
    single = {name: one_knee_per_image(knees) for name, knees in sites.items() if "kl" in knees}
    print_refusals({name: single.get(name, knees) for name, knees in sites.items()})
    for title, gated in (("Knees that are graded", True), ("All knees with landmarks, refused ones included", False)):
        print(f"\n{title}\n\n| site | knees | KL ≥ 2 beside zeros | {' | '.join(COLUMNS.values())} |")
        print("|---" * (len(COLUMNS) + 3) + "|")
        for name, knees in single.items():
            print_agreement(name, knees[(knees["refused"] == "") if gated else has_grades(knees)])
    styles = [name for name in single if name.startswith("validation-")]
    pairs = [("validation", name) for name in styles if "validation" in single] + list(pairwise(styles))
    if pairs:
        print("\nOne knee in two pictures\n")
        print(markdown([{"pictures": f"{a}, {b}", **two_pictures(single[a], single[b])} for a, b in pairs]))
    labelled = {name: knees[has_grades(knees)] for name, knees in single.items() if name not in STUDY_SITES}
    draws = {
        name: calibrated_draws(knees, partial(site_fit, postprocessor))
        for name, knees in labelled.items()
        if len(knees) > 120
    }
    if draws:
        print("\nAll knees with landmarks after calibration with 100 knees of the site, means over draws\n")
        print(markdown([{"site": name, **means} for name, means in draws.items()]))


def print_refusals(sites: Mapping[str, pd.DataFrame]) -> None:
    """Prints what became of the knees of each site."""
    rows = []
    for name, knees in sites.items():
        by_eye = knees.drop_duplicates("image")["knees_by_eye"].sum() if "knees_by_eye" in knees else len(knees)
        rows.append({"site": name, **refusal_counts(knees, int(by_eye))})
    print(markdown(rows))


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table with the columns of all rows; missing numbers are 0, others have three decimals at most."""
    table = pd.DataFrame(rows).fillna(0)
    lines = [list(table.columns), ["---"] * table.shape[1]]
    for row in table.itertuples(index=False):
        lines.append([value if isinstance(value, str) else f"{value:.3f}".rstrip("0").rstrip(".") for value in row])
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def print_agreement(name: str, knees: pd.DataFrame) -> None:
    """Prints one row; 95 % intervals stand in brackets."""
    if knees.empty:
        return
    metrics, zeros = knee_metrics(knees), beside_zeros(column(knees, "grades")).mean()
    cells = [
        f"{value:.3f}" + (f" ({low:.2f} to {high:.2f})" if np.isfinite(low) else "")
        for value, low, high in (metrics[key] for key in COLUMNS)
    ]
    print(f"| {name} | {len(knees)} | {100 * zeros:.1f} % | {' | '.join(cells)} |")


def site_fit(
    postprocessor: Postprocessor, study: NDArray[np.float64], grades: NDArray[np.int64], kl: NDArray[np.int64],
    group: NDArray[np.str_],
) -> Callable[..., tuple[Any, ...]]:  # fmt: skip
    """The scale of a site fitted as `kneegrade calibrate --site` fits it on KL labels, as `calibrated_draws` needs it.

    Args:
        postprocessor: of the weights; its level, smoothing and sets are kept.
        study: (M, 29) probabilities on the study's scale.
        grades: (M, 7) on the study's scale.
        kl: (M,) labels.
        group: (M,) person or group of copies.
    """
    targets = np.full((len(kl), ONE_HOT_LENGTH), np.nan, dtype=np.float32)
    targets[:, TARGETS[0].one_hot] = np.eye(TARGETS[0].classes)[kl]
    decoder, sets = postprocessor.decoder, postprocessor.sets
    scale = fit_site_scale(
        study, targets, group, name="site", study_sets=sets, level=0.9 if sets is None else round(float(sets.level), 6),
        ordinal_smoothing=0.0 if decoder is None else decoder.ordinal_smoothing,
    )  # fmt: skip

    def apply(other: NDArray[np.float64], own_grades: NDArray[np.int64]) -> tuple[Any, ...]:
        probabilities = scale.probabilities(other)
        reported = scale.grades(probabilities, own_grades)
        return probabilities, reported, scale.sets.sets(probabilities, reported)

    return apply

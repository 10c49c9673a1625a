"""Drift: whether the knees of one site look and grade like those of another, as one network sees them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kneegrade.errors import RecipeError
from kneegrade.evaluation.metrics import weighted_auc
from kneegrade.evaluation.table_formats import Table
from kneegrade.schema import ONE_HOT_LENGTH, TARGETS

Array = NDArray[np.float64]

PROFILE_VERSION = 2  # of what `features` hold; 1, which was not written down, divided by hidden landmarks too
FEWEST_SUBJECTS = 10
PERMUTATIONS, FEATURE_PERMUTATIONS = 999, 199
FOLDS = 5
RIDGE = 0.1  # of the features' unit variance
LEAST_SHARE = 1e-3  # so that a grade which one site lacks keeps the stability index finite


@dataclass(frozen=True, eq=False)
class SiteProfile:
    """N knees of a site.

    Attributes:
        features: (N, F) float32, what the heads read: the mean over the visible landmarks, and beside it the global
            branch of a network that has one; of a network without landmarks, all places side by side.
        probabilities: (N, 29) float32, calibrated.
        subject: (N,) str; the knees of a film or a person are alike.
        weights: SHA-256 of the network.
    """

    features: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    subject: NDArray[np.str_]
    weights: str

    def __len__(self) -> int:
        """Number of knees."""
        return len(self.subject)

    def save(self, path: Path) -> None:
        """Write a Parquet file that `load` reads."""
        columns = {"subject": self.subject, "probabilities": list(self.probabilities), "features": list(self.features)}
        partial = path.with_name(path.name + ".tmp")
        table = pd.DataFrame(columns).assign(weights=self.weights, version=PROFILE_VERSION)
        table.to_parquet(partial, index=False)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "SiteProfile":
        """What `save` wrote.

        Raises:
            RecipeError: it is no profile, or one of another version.
        """
        try:
            table = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise RecipeError(f"{path} is not a profile that `kneegrade drift` wrote.") from error
        if not {"subject", "probabilities", "features", "weights"} <= set(table.columns):
            raise RecipeError(f"{path} is not a profile that `kneegrade drift` wrote.")
        if "version" not in table.columns or (table["version"] != PROFILE_VERSION).any():
            raise RecipeError(f"{path.name} is a profile by another version of kneegrade; make it again of the films.")
        features, probabilities = (np.stack(table[name].to_list()) for name in ("features", "probabilities"))
        subject = table["subject"].to_numpy(dtype=str)
        return cls(features, probabilities.reshape(-1, ONE_HOT_LENGTH), subject, str(table["weights"].iloc[0]))


@dataclass(frozen=True)
class GradeDrift:
    """One grade.

    Attributes:
        reference: share of each class at the reference, mean of the calibrated probabilities.
        site: the same at the site.
        total_variation: half the sum of absolute differences, 0 … 1.
        stability_index: Σ (s − r) ln(s / r), the population stability index; by custom 0.1 is little, 0.25 much.
        p_value: share of random divisions of all subjects into two such groups whose total variation is as large.
    """

    reference: tuple[float, ...]
    site: tuple[float, ...]
    total_variation: float
    stability_index: float
    p_value: float


@dataclass(frozen=True)
class Drift:
    """How a site differs from the reference.

    Attributes:
        knees: at the reference and at the site.
        feature_auc: how well a ridge regression on the features tells the two apart, on knees of subjects it did not
            see; 0.5: not at all, 1: always. The classifier two-sample test of Lopez-Paz and Oquab (ICLR 2017).
        feature_auc_chance: what 95 of 100 random divisions of all subjects stay below.
        feature_p_value: share of such divisions that are told apart as well.
        grades: by name.
    """

    knees: tuple[int, int]
    feature_auc: float
    feature_auc_chance: float
    feature_p_value: float
    grades: Mapping[str, GradeDrift]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "knees": {"reference": self.knees[0], "site": self.knees[1]},
            "feature_auc": self.feature_auc,
            "feature_auc_chance": self.feature_auc_chance,
            "feature_p_value": self.feature_p_value,
            "grades": {name: vars(drift) for name, drift in self.grades.items()},
        }


def compare_profiles(reference: SiteProfile, site: SiteProfile, seed: int = 0) -> Drift:
    """How `site` differs from `reference`.

    Raises:
        RecipeError: profiles of two networks, or fewer than ten subjects in one.
    """
    if reference.weights != site.weights:
        raise RecipeError("The two profiles are of two networks; make both with the same weights.")
    fewest = min(len(np.unique(profile.subject)) for profile in (reference, site))
    if fewest < FEWEST_SUBJECTS:
        raise RecipeError(f"{fewest} subjects or films are too few to compare; {FEWEST_SUBJECTS} are needed.")
    people = np.concatenate([reference.subject, site.subject])
    is_site = np.arange(len(people)) >= len(reference)
    units, place = np.unique(np.char.add(np.where(is_site, "1", "0"), people), return_inverse=True)
    belongs, generator = np.char.startswith(units, "1").astype(np.float64), np.random.default_rng(seed)
    divisions = np.stack([belongs, *(generator.permutation(belongs) for _ in range(PERMUTATIONS))])
    features = np.concatenate([reference.features, site.features]).astype(np.float64)
    auc = _told_apart(features, divisions[: FEATURE_PERMUTATIONS + 1][:, place], people)
    shares = np.concatenate([reference.probabilities, site.probabilities]).astype(np.float64)
    chance = np.quantile(auc[1:], 0.95)
    return Drift(
        (len(reference), len(site)), float(auc[0]), float(chance), float((auc >= auc[0]).mean()),
        _grades(shares, divisions, place),
    )  # fmt: skip


def _told_apart(features: Array, divisions: Array, people: NDArray[np.str_]) -> Array:
    """(1 + permutations,) AUC of a ridge regression for each division of the knees into two sites.

    Every fold's scores are of people that the regression did not see; a person is in one fold whichever site their
    knees are of.

    Args:
        features: (N, R).
        divisions: (1 + permutations, N) of 0 and 1.
        people: (N,).
    """
    names, place = np.unique(people, return_inverse=True)
    fold = (np.random.default_rng(0).permutation(len(names)) % FOLDS)[place]
    scores = np.zeros_like(divisions)
    for number in range(FOLDS):
        out = fold == number
        mean, spread = features[~out].mean(0), features[~out].std(0) + 1e-6
        inside, outside = (features[~out] - mean) / spread, (features[out] - mean) / spread
        wanted = divisions[:, ~out] - divisions[:, ~out].mean(1, keepdims=True)
        gram = inside.T @ inside + RIDGE * len(inside) * np.eye(inside.shape[1])
        scores[:, out] = wanted @ inside @ np.linalg.solve(gram, outside.T)
    one = np.ones((1, len(place)))
    return np.array([weighted_auc(d > 0, s, one)[0] for d, s in zip(divisions, scores, strict=True)])


def _grades(shares: Array, divisions: Array, place: NDArray[np.int64]) -> dict[str, GradeDrift]:
    """Each grade under the true division of the people (row 0) and under others at random."""
    sums, counts = np.zeros((divisions.shape[1], ONE_HOT_LENGTH)), np.bincount(place)
    np.add.at(sums, place, shares)
    site = divisions @ sums / (divisions @ counts)[:, None]  # (1 + permutations, 29)
    reference = (1 - divisions) @ sums / ((1 - divisions) @ counts)[:, None]
    found = {}
    for target in TARGETS:
        s, r = site[:, target.one_hot], reference[:, target.one_hot]
        variation = np.abs(s - r).sum(1) / 2
        mine, theirs = np.maximum(s[0], LEAST_SHARE), np.maximum(r[0], LEAST_SHARE)
        found[target.name] = GradeDrift(
            tuple(r[0].tolist()), tuple(s[0].tolist()), float(variation[0]),
            float(((mine - theirs) * np.log(mine / theirs)).sum()), float((variation >= variation[0] - 1e-12).mean()),
        )  # fmt: skip
    return found


def drift_table(drift: Drift) -> Table:
    """Shares of every grade at the reference and at the site, and how far apart they are."""
    lines = []
    for target in TARGETS:
        own = drift.grades[target.name]
        shares = (f"{100 * r:.0f} → {100 * s:.0f}" for r, s in zip(own.reference, own.site, strict=True))
        cells = (*shares, *("–",) * (5 - target.classes))
        numbers = (f"{own.total_variation:.3f}", f"{own.stability_index:.2f}", f"{own.p_value:.3f}")
        lines.append((target.name, *cells, *numbers))
    notes = (
        f"{drift.knees[0]:,} knees of the reference, {drift.knees[1]:,} of the site; shares of the grades in %.",
        f"Features tell the two apart with AUC {drift.feature_auc:.3f}, p {drift.feature_p_value:.2f}; 0.5 is not at "
        f"all, and by chance alone it stays below {drift.feature_auc_chance:.3f} (95 %).",
    )
    header = ("grade", *(str(k) for k in range(5)), "total variation", "stability index", "p")
    return Table("drift", "Predicted grades, reference → site", header, tuple(lines), notes)

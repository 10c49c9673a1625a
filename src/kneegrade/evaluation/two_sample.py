"""Drift between two sites: do their knees have the same features and grades according to one network?

A `SiteProfile` holds a network's features and calibrated probabilities of the knees of one site. `compare_profiles`
compares two profiles by a classifier two-sample test on the features and by the distributions of the grades, each with
a permutation test over subjects.
"""

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
from kneegrade.files import replacing
from kneegrade.schema import ONE_HOT_LENGTH, TARGETS

Array = NDArray[np.float64]

PROFILE_VERSION = 2  # of the content of `features`; version 1, which was not stored, also averaged hidden landmarks
FEWEST_SUBJECTS = 10
PERMUTATIONS, FEATURE_PERMUTATIONS = 999, 199
FOLDS = 5
RIDGE = 0.1  # relative to the unit variance of the features
LEAST_SHARE = 1e-3  # keeps the stability index finite if a grade does not occur at one site


@dataclass(frozen=True, eq=False)
class SiteProfile:
    """Features and predictions of N knees of a site.

    Attributes:
        features: (N, F) float32 features of the grading heads: the mean over the visible landmarks and, if the network
            has one, the global branch. For a network without landmarks, all read points concatenated.
        probabilities: (N, 29) float32, calibrated.
        subject: (N,) str; the knees of one film or person have the same subject.
        weights: SHA-256 of the network's weights.
    """

    features: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    subject: NDArray[np.str_]
    weights: str

    def __len__(self) -> int:
        """Number of knees."""
        return len(self.subject)

    def save(self, path: Path) -> None:
        """Writes a Parquet file that `load` reads."""
        columns = {"subject": self.subject, "probabilities": list(self.probabilities), "features": list(self.features)}
        table = pd.DataFrame(columns).assign(weights=self.weights, version=PROFILE_VERSION)
        with replacing(path, "wb") as stream:
            table.to_parquet(stream, index=False)

    @classmethod
    def load(cls, path: Path) -> "SiteProfile":
        """The profile in a file that `save` wrote.

        Raises:
            RecipeError: the file is not a profile, or is a profile of another version.
        """
        not_a_profile = f"{path} is not a profile that `kneegrade drift` wrote."
        try:
            table = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise RecipeError(not_a_profile) from error
        if not {"subject", "probabilities", "features", "weights"} <= set(table.columns) or table.empty:
            raise RecipeError(not_a_profile)
        if "version" not in table.columns or (table["version"] != PROFILE_VERSION).any():
            raise RecipeError(
                f"{path.name} is a profile of another version of kneegrade; create it again from the films."
            )
        features, probabilities = (np.stack(table[name].to_list()) for name in ("features", "probabilities"))
        subject = table["subject"].to_numpy(dtype=str)
        return cls(features, probabilities.reshape(-1, ONE_HOT_LENGTH), subject, str(table["weights"].iloc[0]))


@dataclass(frozen=True)
class GradeDrift:
    """Drift of one grade.

    Attributes:
        reference: share of each class at the reference site, mean of the calibrated probabilities.
        site: the same at the other site.
        total_variation: half the sum of absolute differences, 0 … 1.
        stability_index: Σ (s − r) ln(s / r), the population stability index; by convention 0.1 is a small and 0.25 a
            large change.
        p_value: share of random divisions of all subjects into two groups of these sizes whose total variation is at
            least as large.
    """

    reference: tuple[float, ...]
    site: tuple[float, ...]
    total_variation: float
    stability_index: float
    p_value: float


@dataclass(frozen=True)
class Drift:
    """Differences between a site and the reference site.

    Attributes:
        knees: number of knees at the reference and at the site.
        feature_auc: area under the ROC curve of a ridge regression on the features that separates the two sites,
            cross-validated over subjects; 0.5: not separable, 1: perfectly. Classifier two-sample test of Lopez-Paz and
            Oquab (ICLR 2017).
        feature_auc_chance: 95 % quantile of this area over random divisions of all subjects.
        feature_p_value: share of such divisions that are separated at least as well.
        grades: by name.
    """

    knees: tuple[int, int]
    feature_auc: float
    feature_auc_chance: float
    feature_p_value: float
    grades: Mapping[str, GradeDrift]

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "knees": {"reference": self.knees[0], "site": self.knees[1]},
            "feature_auc": self.feature_auc,
            "feature_auc_chance": self.feature_auc_chance,
            "feature_p_value": self.feature_p_value,
            "grades": {name: vars(drift) for name, drift in self.grades.items()},
        }


def compare_profiles(reference: SiteProfile, site: SiteProfile, seed: int = 0) -> Drift:
    """Differences between `site` and `reference`.

    Args:
        reference: profile of the reference site.
        site: profile of the other site, by the same network.
        seed: of the random divisions of the subjects.

    Raises:
        RecipeError: the profiles are of two networks, or one has fewer than ten subjects.
    """
    if reference.weights != site.weights:
        raise RecipeError("The two profiles were made by two networks. Create both with the same weights.")
    fewest = min(len(np.unique(profile.subject)) for profile in (reference, site))
    if fewest < FEWEST_SUBJECTS:
        raise RecipeError(
            f"One profile has {fewest} subjects or films; at least {FEWEST_SUBJECTS} are needed for a comparison. Add "
            "films to it."
        )
    people = np.concatenate([reference.subject, site.subject])
    is_site = np.arange(len(people)) >= len(reference)
    units, unit_of_knee = np.unique(np.char.add(np.where(is_site, "1", "0"), people), return_inverse=True)
    unit_is_site, generator = np.char.startswith(units, "1").astype(np.float64), np.random.default_rng(seed)
    divisions = np.stack([unit_is_site, *(generator.permutation(unit_is_site) for _ in range(PERMUTATIONS))])
    features = np.concatenate([reference.features, site.features]).astype(np.float64)
    auc = _feature_auc(features, divisions[: FEATURE_PERMUTATIONS + 1][:, unit_of_knee], people)
    shares = np.concatenate([reference.probabilities, site.probabilities]).astype(np.float64)
    return Drift(
        knees=(len(reference), len(site)),
        feature_auc=float(auc[0]),
        feature_auc_chance=float(np.quantile(auc[1:], 0.95)),
        feature_p_value=float((auc >= auc[0]).mean()),
        grades=_grade_drift(shares, divisions, unit_of_knee),
    )


def _feature_auc(features: Array, divisions: Array, people: NDArray[np.str_]) -> Array:
    """(1 + permutations,) area under the ROC curve of a ridge regression for each division of the knees into two sites.

    The regression is cross-validated. All knees of a person are in one fold, even if they are of both sites.

    Args:
        features: (N, F).
        divisions: (1 + permutations, N) of 0 (reference) and 1 (site); row 0 is the true division.
        people: (N,).
    """
    names, person = np.unique(people, return_inverse=True)
    fold = (np.random.default_rng(0).permutation(len(names)) % FOLDS)[person]
    scores = np.zeros_like(divisions)
    for number in range(FOLDS):
        test = fold == number
        mean, deviation = features[~test].mean(0), features[~test].std(0) + 1e-6
        train_x, test_x = (features[~test] - mean) / deviation, (features[test] - mean) / deviation
        train_y = divisions[:, ~test] - divisions[:, ~test].mean(1, keepdims=True)
        gram = train_x.T @ train_x + RIDGE * len(train_x) * np.eye(train_x.shape[1])
        scores[:, test] = train_y @ train_x @ np.linalg.solve(gram, test_x.T)
    equal_weights = np.ones((1, len(person)))
    return np.array([weighted_auc(d > 0, s, equal_weights)[0] for d, s in zip(divisions, scores, strict=True)])


def _grade_drift(shares: Array, divisions: Array, unit_of_knee: NDArray[np.int64]) -> dict[str, GradeDrift]:
    """Drift of each grade, with the p-value of a permutation test over subjects.

    Args:
        shares: (N, 29) calibrated probabilities.
        divisions: (1 + permutations, U) of 0 (reference) and 1 (site) for U subjects; row 0 is the true division.
        unit_of_knee: (N,) index of the subject of each knee.
    """
    sums, counts = np.zeros((divisions.shape[1], ONE_HOT_LENGTH)), np.bincount(unit_of_knee)
    np.add.at(sums, unit_of_knee, shares)
    site = divisions @ sums / (divisions @ counts)[:, None]  # (1 + permutations, 29)
    reference = (1 - divisions) @ sums / ((1 - divisions) @ counts)[:, None]
    drift = {}
    for target in TARGETS:
        s, r = site[:, target.one_hot], reference[:, target.one_hot]
        variation = np.abs(s - r).sum(1) / 2
        s_clipped, r_clipped = np.maximum(s[0], LEAST_SHARE), np.maximum(r[0], LEAST_SHARE)
        drift[target.name] = GradeDrift(
            reference=tuple(r[0].tolist()),
            site=tuple(s[0].tolist()),
            total_variation=float(variation[0]),
            stability_index=float(((s_clipped - r_clipped) * np.log(s_clipped / r_clipped)).sum()),
            p_value=float((variation >= variation[0] - 1e-12).mean()),
        )
    return drift


def drift_table(drift: Drift) -> Table:
    """Distribution of every grade at the reference and at the site, and their distance."""
    lines = []
    for target in TARGETS:
        grade = drift.grades[target.name]
        shares = (f"{100 * r:.0f} → {100 * s:.0f}" for r, s in zip(grade.reference, grade.site, strict=True))
        cells = (*shares, *("–",) * (5 - target.classes))
        numbers = (f"{grade.total_variation:.3f}", f"{grade.stability_index:.2f}", f"{grade.p_value:.3f}")
        lines.append((target.name, *cells, *numbers))
    notes = (
        f"{drift.knees[0]:,} knees of the reference, {drift.knees[1]:,} of the site. Shares of the grades in %.",
        f"A classifier separates the two sites by the network's features with AUC {drift.feature_auc:.3f} (0.5: not at "
        f"all), p {drift.feature_p_value:.2f}; by chance the AUC is below {drift.feature_auc_chance:.3f} in 95 % of "
        "cases.",
    )
    header = ("grade", *(str(k) for k in range(5)), "total variation", "stability index", "p")
    return Table("drift", "Predicted grades, reference → site", header, tuple(lines), notes)

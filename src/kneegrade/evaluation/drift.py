"""Drift: whether the knees of one site look and grade like those of another, as one network sees them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kneegrade.errors import RecipeError
from kneegrade.evaluation.formats import Table
from kneegrade.evaluation.metrics import weighted_auc
from kneegrade.evaluation.scores import SubjectBootstrap, interval
from kneegrade.schema import ONE_HOT_LENGTH, TARGETS

FEWEST_SUBJECTS = 10
PERMUTATIONS = 999
FOLDS = 5
LEAST_SHARE = 1e-3  # so that a grade which one site lacks keeps the stability index finite


@dataclass(frozen=True, eq=False)
class Profile:
    """N knees of a site.

    Attributes:
        features: (N, R) float32, what the heads read, mean over the visible landmarks.
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
        pd.DataFrame(columns).assign(weights=self.weights).to_parquet(partial, index=False)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Profile":
        """What `save` wrote.

        Raises:
            RecipeError: it is no profile.
        """
        try:
            table = pd.read_parquet(path, columns=["subject", "probabilities", "features", "weights"])
        except (OSError, ValueError) as error:
            raise RecipeError(f"{path} is not a profile that `kneegrade drift` wrote.") from error
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
        feature_auc: (value, low, high) of how well a logistic regression on the features tells the two apart, on knees
            of subjects it did not see, with its 95 % interval by subject; 0.5: not at all, 1: always. The classifier
            two-sample test of Lopez-Paz and Oquab (ICLR 2017).
        grades: by name.
    """

    knees: tuple[int, int]
    feature_auc: tuple[float, float, float]
    grades: Mapping[str, GradeDrift]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "knees": {"reference": self.knees[0], "site": self.knees[1]},
            "feature_auc": dict(zip(("value", "low", "high"), self.feature_auc, strict=True)),
            "grades": {name: vars(drift) for name, drift in self.grades.items()},
        }


def compare_profiles(reference: Profile, site: Profile, seed: int = 0) -> Drift:
    """How `site` differs from `reference`.

    Raises:
        RecipeError: profiles of two networks, or fewer than ten subjects in one.
    """
    if reference.weights != site.weights:
        raise RecipeError("The two profiles are of two networks; make both with the same weights.")
    fewest = min(len(np.unique(profile.subject)) for profile in (reference, site))
    if fewest < FEWEST_SUBJECTS:
        raise RecipeError(f"{fewest} subjects or films are too few to compare; {FEWEST_SUBJECTS} are needed.")
    subject = np.concatenate([np.char.add("0", reference.subject), np.char.add("1", site.subject)])
    is_site = np.arange(len(subject)) >= len(reference)
    features = np.concatenate([reference.features, site.features])
    shares = np.concatenate([reference.probabilities, site.probabilities]).astype(np.float64)
    return Drift((len(reference), len(site)), _auc(features, is_site, subject), _grades(shares, is_site, subject, seed))


def _auc(features: NDArray[np.float32], is_site: NDArray[np.bool_], subject: NDArray[np.str_]) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    score = cross_val_predict(model, features, is_site, groups=subject, cv=folds, method="decision_function")
    bootstrap = SubjectBootstrap(subject)
    return interval(weighted_auc(is_site, score, bootstrap.weights[:, bootstrap.place]))


def _grades(
    shares: NDArray[np.float64], is_site: NDArray[np.bool_], subject: NDArray[np.str_], seed: int
) -> dict[str, GradeDrift]:
    _, first, place = np.unique(subject, return_index=True, return_inverse=True)
    sums, counts = np.zeros((len(first), ONE_HOT_LENGTH)), np.bincount(place)
    np.add.at(sums, place, shares)
    belongs, generator = is_site[first], np.random.default_rng(seed)
    divisions = np.stack([belongs, *(generator.permutation(belongs) for _ in range(PERMUTATIONS))]).astype(np.float64)
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
    value, low, high = drift.feature_auc
    notes = (
        f"{drift.knees[0]:,} knees of the reference, {drift.knees[1]:,} of the site; shares of the grades in %.",
        f"Features tell the two apart with AUC {value:.3f} ({low:.3f}–{high:.3f}); 0.5 is not at all.",
    )
    header = ("grade", *(str(k) for k in range(5)), "total variation", "stability index", "p")
    return Table("drift", "Predicted grades, reference → site", header, tuple(lines), notes)

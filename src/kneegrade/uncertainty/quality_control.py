r"""The last gate: does this knee look like those that the network learnt from, and is there metal in it?

Three signs of distances, each one number per knee, larger = stranger:

- *features*: squared Mahalanobis distance of what the network read (`knee_features`) from sound knees (Lee et al.,
  NeurIPS 2018; covariance shrunk as by Ledoit and Wolf 2004) or from sound phantoms, whichever are nearer, since the
  network learnt from both; each in units of its population's own median;
- *landmarks*: 1 − the confidence of the knee's landmarks;
- *photometry*: the same distance for the distribution, sharpness and clipping of the grey values (`photometry`).

Each is turned into p, the share of sound knees, none of them used for the distances, that are as strange or stranger:
(1 + #{as strange}) / (n + 1). A knee's score is its least p times three, 1 at most (Bonferroni): were the signs
continuous, a share s of sound real knees would score s or less. A knee below `refuse` is not graded, one below `warn`
is graded with a finding. Metal is told by a small network of its own (`metal`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kneegrade.anatomy import Knee
from kneegrade.anatomy.landmark_scheme import NUM_LANDMARKS
from kneegrade.imaging.film_quality import clipped_share, smoothness
from kneegrade.network import visible_mean
from kneegrade.results import Finding, Quality
from kneegrade.uncertainty.implant_network import ImplantNetwork, implant_input
from kneegrade.weights import Weights, load_part

Array = NDArray[np.float64]

GATE = "gate"
RENAMED = {"metal_network": "implant_network"}
SIGNS = ("features", "landmarks", "photometry")
UNLIKE = (
    Finding("unlike_training", "This knee does not look like those that the network learnt from."),
    Finding("unsure_landmarks", "The landmarks of this knee are less sure than those of sound knees."),
    Finding("unusual_exposure", "Brightness, contrast or sharpness of this knee are unusual."),
)
IMPLANT = Finding("implant", "There seems to be metal in this knee; grades are for knees without implants.")
DECILES = np.linspace(0.1, 0.9, 9)
GREYS = 15
POPULATIONS = 2
REFERENCE = 400  # numbers that the distances of sound knees is kept as


@dataclass(frozen=True, eq=False)
class OODFeatures:
    """What the gate looks at, of N knees.

    Attributes:
        features: (N, F) from `knee_features`.
        doubt: (N,) 1 − confidence of the landmarks.
        greys: (N, 15) from `photometry`.
        pictures: (N, 144, 144) from `implant_input`.
    """

    features: Array
    doubt: Array
    greys: Array
    pictures: NDArray[np.uint8]

    def part(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "OODFeatures":
        """Some of them."""
        return OODFeatures(*(value[rows] for value in vars(self).values()))


@dataclass(frozen=True, eq=False)
class Split:
    """Knees of one population, of different people: the `usual` and the `others`."""

    usual: OODFeatures
    others: OODFeatures


def joined(parts: Sequence[OODFeatures]) -> OODFeatures:
    """The knees of several."""
    return OODFeatures(*(np.concatenate([getattr(p, each.name) for p in parts]) for each in fields(OODFeatures)))


def knee_features(pooled: Tensor, visible: Tensor) -> Array:
    """(N, F): mean and standard deviation over visible landmarks of what the heads read there, and the global branch.

    Args:
        pooled: (N, P, R), P = 74 or, with a global branch, 75.
        visible: (N, 74) bool.
    """
    at = pooled[:, :NUM_LANDMARKS]
    mean = visible_mean(at, visible)
    spread = visible_mean((at - mean.unsqueeze(1)).square(), visible).sqrt()
    return np.asarray(torch.cat([mean, spread, pooled[:, NUM_LANDMARKS:].flatten(1)], 1).double().cpu())


def photometry(roi: NDArray[np.float32], inside: NDArray[np.bool_]) -> Array:
    """(15,): the grey values on the film in numbers.

    Mean, standard deviation, clipped share, smoothness, nine deciles, and the 99 and 99.8 % quantiles of the steps
    between neighbours.

    Args:
        roi: (S, S) in [0, 1], contrast stretched.
        inside: (S, S) where the film is.
    """
    film = roi[inside] if inside.any() else roi.ravel()
    steps = np.abs(np.diff(roi, axis=1))[inside[:, 1:] & inside[:, :-1]]
    tall = np.quantile(steps, (0.99, 0.998)) if len(steps) else np.zeros(2)
    shape = [film.mean(), film.std(), clipped_share(film), smoothness(roi.astype(np.float64))]
    return np.concatenate([shape, np.quantile(film[::5], DECILES), tall])


class QualityControl(nn.Module):
    """Fitted distances from two populations (real knees, phantoms), reference, metal network and thresholds.

    Args:
        features: F.
    """

    feature_mean: Tensor
    feature_root: Tensor
    feature_unit: Tensor
    grey_mean: Tensor
    grey_root: Tensor
    grey_unit: Tensor
    reference: Tensor
    refuse: Tensor
    warn: Tensor
    implant_limit: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        for name, width in (("feature", features), ("grey", GREYS)):
            self.register_buffer(f"{name}_mean", torch.zeros(POPULATIONS, width))
            self.register_buffer(f"{name}_root", torch.eye(width).repeat(POPULATIONS, 1, 1))
            self.register_buffer(f"{name}_unit", torch.ones(POPULATIONS))
        self.register_buffer("reference", torch.zeros(len(SIGNS), REFERENCE))
        self.implant_network = ImplantNetwork().eval()
        for name in ("refuse", "warn"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("implant_limit", torch.ones(()))

    def distances(self, signs: OODFeatures) -> Array:
        """(N, 3) of the three signs."""
        return np.stack(
            [
                _distances(signs.features, self.feature_mean, self.feature_root, self.feature_unit).min(1),
                signs.doubt,
                _distances(signs.greys, self.grey_mean, self.grey_root, self.grey_unit).min(1),
            ],
            axis=1,
        )

    def p_values(self, signs: OODFeatures) -> Array:
        """(N, 3) in (0, 1]: the p of each sign."""
        strange, reference = self.distances(signs), self.reference.double().numpy()
        as_strange = [len(known) - np.searchsorted(known, strange[:, i]) for i, known in enumerate(reference)]
        return np.asarray((1 + np.stack(as_strange, axis=1)) / (1 + reference.shape[1]))

    def __call__(self, signs: OODFeatures) -> list[Quality]:
        """Score, findings and, where a knee is not to be graded, the reason; of every knee."""
        p_values, metal = self.p_values(signs), self.implant_network.probability(signs.pictures)
        return [self._quality(p_values[row], float(metal[row])) for row in range(len(p_values))]

    def _quality(self, p_values: Array, metal: float) -> Quality:
        score, limit = scores(p_values[None])[0], float(self.warn)
        findings = tuple(found for found, p in zip(UNLIKE, p_values, strict=True) if len(SIGNS) * p < limit)
        if metal > float(self.implant_limit):
            return Quality(score, (IMPLANT, *findings), IMPLANT)
        refused = score < float(self.refuse)
        return Quality(score, findings, UNLIKE[int(np.argmin(p_values))] if refused else None)


def ood_features_of(knees: Sequence[Knee], pooled: Tensor, visible: Tensor) -> OODFeatures:
    """The signs of knees that a network has read (`GradeLogits.pooled` and which landmarks it saw, on the CPU)."""
    doubt = np.array([1 - knee.landmark_confidence for knee in knees])
    greys = np.stack([photometry(knee.roi, knee.inside) for knee in knees])
    pictures = np.stack([implant_input(knee.roi) for knee in knees])
    return OODFeatures(knee_features(pooled, visible), doubt, greys, pictures)


def load_quality_control(held: Weights) -> QualityControl | None:
    """The gate of a grader's weights, or None where they bring none.

    Raises:
        WeightsError: it does not fit this version.
    """
    part = held.part(GATE)
    if not part:
        return None
    gate = QualityControl(part["feature_mean"].shape[-1] if "feature_mean" in part else 0)
    load_part(gate, held, GATE, renamed=RENAMED)
    return gate


def scores(p_values: Array) -> Array:
    """(N,) in (0, 1]: three times the least p of (N, 3), 1 at most."""
    return np.asarray(np.minimum(1.0, len(SIGNS) * p_values.min(1)))


def _distances(values: Array, means: Tensor, roots: Tensor, units: Tensor) -> Array:
    """(N, P) squared, to P populations; means (P, F), roots (P, F, F), units (P,)."""
    parts = zip(means.double().numpy(), roots.double().numpy(), units.tolist(), strict=True)
    return np.stack([np.square((values - mean) @ root).sum(1) / unit for mean, root, unit in parts], axis=1)


def fit_quality_control(
    real: Split, phantoms: Split, implant_network: ImplantNetwork, *, refuse: float = 0.01, warn: float = 0.05,
    implant_share: float = 0.01,
) -> QualityControl:  # fmt: skip
    """The gate of a network.

    Args:
        real: sound knees, those that say what is usual and others that say how far sound knees stray.
        phantoms: without metal, likewise.
        implant_network: taught on none of the others.
        refuse: score below which a knee is not graded: about this share of real sound knees.
        warn: score below which a graded knee has a finding.
        implant_share: of the others, real ones and phantoms each, that may at most be taken for knees with metal.
    """
    gate = QualityControl(real.usual.features.shape[1])
    for name in ("feature", "grey"):
        for place, knees in enumerate((real, phantoms)):
            mean, root = (torch.from_numpy(value) for value in _gaussian(getattr(knees.usual, f"{name}s")))
            getattr(gate, f"{name}_mean")[place], getattr(gate, f"{name}_root")[place] = mean, root
            own = _distances(getattr(knees.others, f"{name}s"), mean[None], root[None], torch.ones(1))
            getattr(gate, f"{name}_unit")[place] = float(np.median(own))
    strange = np.sort(gate.distances(real.others), axis=0)
    places = np.linspace(0, len(strange) - 1, REFERENCE)
    kept = [np.interp(places, np.arange(len(strange)), column) for column in strange.T]
    gate.reference.copy_(torch.from_numpy(np.stack(kept)))
    gate.implant_network = implant_network
    without = (implant_network.probability(knees.others.pictures) for knees in (real, phantoms))
    gate.implant_limit.fill_(max(0.5, *(np.quantile(own, 1 - implant_share) for own in without)))
    gate.refuse.fill_(refuse)
    gate.warn.fill_(warn)
    return gate


def _gaussian(values: Array) -> tuple[Array, Array]:
    """Mean (F,), and a matrix (F, F) that whitens: values' deviations times it have unit covariance."""
    from sklearn.covariance import LedoitWolf

    deviation = values.std(0) + 1e-6
    covariance = LedoitWolf().fit((values - values.mean(0)) / deviation).covariance_
    size, axes = np.linalg.eigh(covariance)
    return values.mean(0), (axes / np.sqrt(size.clip(1e-9))) / deviation[:, None]

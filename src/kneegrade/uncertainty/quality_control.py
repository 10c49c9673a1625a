r"""`QualityControl`: findings for knees that differ from the training data, and detection of metal.

A knee has three out-of-distribution (OOD) distances, each one number, larger = less typical:

- *features*: squared Mahalanobis distance of the network's features (`kneegrade.uncertainty.ood_features`) from normal
  real knees (Lee et al., NeurIPS 2018; covariance shrunk as by Ledoit and Wolf 2004) or from normal phantoms, whichever
  is smaller, because the network was trained on both. Each distance is divided by the median distance of its own
  population;
- *landmarks*: 1 − confidence of the knee's landmarks;
- *photometry*: the same distance as for the features, of the distribution, sharpness and clipping of the grey values
  (`ood_features.photometry_features`).

Each distance is converted to a p-value, the share of normal reference knees with a distance as large or larger: (1 +
#{as large}) / (n + 1). The reference knees are not used to fit the distances. The quality score of a
knee is three times its smallest p-value, 1 at most (Bonferroni): if the distances were continuous, a share s of normal
real knees would score s or less. A distance whose score is below `warn` is a finding. Landmarks must also be unsure in
absolute terms (`MIN_SURE_CONFIDENCE`): those of a tight crop are less sure than those of reference knees, yet right.

Metal is detected by a separate small network (`kneegrade.uncertainty.implant_network`), with two thresholds of its
probability. Above `implant_limit` metal is certain, and the knee is not graded. Above `possible_implant_limit` it is a
finding, and the score is `warn` at most.

Findings never refuse a knee. They tell the reader to decide (`abstain`), widen the prediction sets
(`kneegrade.uncertainty.conformal`), and without sure landmarks no joint space is reported.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kneegrade.quiet_imports import import_joblib_quietly
from kneegrade.results import Finding, Quality
from kneegrade.uncertainty.implant_network import ImplantLimits, ImplantNetwork
from kneegrade.uncertainty.ood_features import PHOTOMETRY_FEATURES, OODFeatures
from kneegrade.weights import Weights, load_part

Array = NDArray[np.float64]

QUALITY_CONTROL = "gate"  # prefix of the keys in a weights file
RENAMED_KEYS = {"metal_network": "implant_network"}  # of earlier weights files
CERTAIN_IMPLANT = 0.95  # least probability of metal that refuses a knee
MIN_SURE_CONFIDENCE = 0.75  # of landmarks; from here on they are no finding, however unusual
DISTANCES = ("features", "landmarks", "photometry")
OOD_FINDINGS = (  # one per distance
    Finding(
        "unlike_training",
        "This knee looks unlike the knees that the network was trained on. Automatic grades of such knees are "
        "unreliable; check the radiograph and grade the knee yourself.",
    ),
    Finding(
        "unsure_landmarks",
        "The landmarks of this knee are less certain than those of normal radiographs. The network reads "
        "the image at the landmarks, so grades can be wrong if these are misplaced; check the landmarks and grade the "
        "knee yourself. The joint space is not reported.",
    ),
    Finding(
        "unusual_exposure",
        "Brightness, contrast or sharpness of this knee are unusual. Automatic grades of such images are unreliable; "
        "check the image and grade the knee yourself, or use an image with a better exposure.",
    ),
)
UNSURE_LANDMARKS = OOD_FINDINGS[1]
IMPLANT_FINDING = Finding(
    "implant",
    "This knee contains metal, for example an implant. The grades are valid only for knees without implants, "
    "so this knee was not graded; read the radiograph yourself.",
)
POSSIBLE_IMPLANT_FINDING = Finding(
    "possible_implant",
    "This knee may contain metal, for example a screw or a staple, or a marker lies over it. The grades are valid only "
    "for knees without implants; check the radiograph and grade the knee yourself.",
)
POPULATIONS = 2  # real knees, phantoms
REFERENCE_SIZE = 400  # quantiles in which the reference distances of normal knees are stored


@dataclass(frozen=True, eq=False)
class Population:
    """Sound knees of one population (real knees or phantoms) in two sets of different people.

    Attributes:
        train: knees that the distances are fitted on.
        reference: knees whose distances show how far normal knees are from the training knees.
    """

    train: OODFeatures
    reference: OODFeatures


class QualityControl(nn.Module):
    """Fitted distances from two populations (real knees, phantoms), reference distances, implant network, thresholds.

    Args:
        features: number F of network features.
    """

    feature_mean: Tensor
    feature_root: Tensor
    feature_unit: Tensor
    grey_mean: Tensor
    grey_root: Tensor
    grey_unit: Tensor
    reference: Tensor
    warn: Tensor
    implant_limit: Tensor
    possible_implant_limit: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        for name, width in (("feature", features), ("grey", PHOTOMETRY_FEATURES)):
            self.register_buffer(f"{name}_mean", torch.zeros(POPULATIONS, width))
            self.register_buffer(f"{name}_root", torch.eye(width).repeat(POPULATIONS, 1, 1))
            self.register_buffer(f"{name}_unit", torch.ones(POPULATIONS))
        self.register_buffer("reference", torch.zeros(len(DISTANCES), REFERENCE_SIZE))
        self.implant_network = ImplantNetwork().eval()
        self.register_buffer("warn", torch.zeros(()))
        self.register_buffer("implant_limit", torch.ones(()))
        self.register_buffer("possible_implant_limit", torch.ones(()))

    def __call__(self, knees: OODFeatures) -> list[Quality]:
        """The quality of every knee: score, findings and, if metal is certain, the reason not to grade it."""
        p_values, metal = self.p_values(knees), self.implant_network.probability(knees.implant_inputs)
        unsure = knees.landmark_uncertainty > 1 - MIN_SURE_CONFIDENCE
        return [self._quality(p_values[i], float(metal[i]), bool(unsure[i])) for i in range(len(p_values))]

    def _quality(self, p_values: Array, metal: float, unsure: bool) -> Quality:
        """Quality from the three p-values (3,), the probability of metal and whether the landmarks are unsure."""
        score, warn = quality_scores(p_values[None])[0], float(self.warn)
        can_be_finding = (True, unsure, True)
        findings = tuple(
            finding
            for finding, p, possible in zip(OOD_FINDINGS, p_values, can_be_finding, strict=True)
            if possible and len(DISTANCES) * p < warn
        )
        if metal > float(self.implant_limit):
            return Quality(min(score, warn), (IMPLANT_FINDING, *findings), IMPLANT_FINDING)
        if metal > float(self.possible_implant_limit):
            return Quality(min(score, warn), (POSSIBLE_IMPLANT_FINDING, *findings))
        return Quality(score, findings)

    def p_values(self, knees: OODFeatures) -> Array:
        """(N, 3) p-values in (0, 1], one per distance."""
        distances, reference = self.distances(knees), self.reference.double().numpy()
        as_large = [len(known) - np.searchsorted(known, distances[:, i]) for i, known in enumerate(reference)]
        return np.asarray((1 + np.stack(as_large, axis=1)) / (1 + reference.shape[1]))

    def distances(self, knees: OODFeatures) -> Array:
        """(N, 3) distances of features, landmarks and photometry."""
        return np.stack(
            [
                _distances(knees.features, self.feature_mean, self.feature_root, self.feature_unit).min(1),
                knees.landmark_uncertainty,
                _distances(knees.photometry, self.grey_mean, self.grey_root, self.grey_unit).min(1),
            ],
            axis=1,
        )


def quality_scores(p_values: Array) -> Array:
    """(N,) scores in (0, 1]: three times the smallest p-value, 1 at most.

    Args:
        p_values: (N, 3).
    """
    return np.asarray(np.minimum(1.0, len(DISTANCES) * p_values.min(1)))


def withholds_joint_space(quality: Quality | None) -> bool:
    """True if a knee has the finding `unsure_landmarks`: its joint space would lie between uncertain outlines."""
    return quality is not None and UNSURE_LANDMARKS in quality.findings


def load_quality_control(weights: Weights) -> QualityControl | None:
    """The quality control of a grader's weights, or None if they bring none.

    Raises:
        WeightsError: it does not fit this version.
    """
    part = weights.part(QUALITY_CONTROL)
    if not part:
        return None
    quality_control = QualityControl(part["feature_mean"].shape[-1] if "feature_mean" in part else 0)
    names = (f"{name}." for name in ("implant_network", *RENAMED_KEYS))
    implants = {key.removeprefix(name): value for name in names for key, value in part.items() if key.startswith(name)}
    quality_control.implant_network = ImplantNetwork.matching(implants)
    load_part(quality_control, _with_two_limits(weights), QUALITY_CONTROL, renamed=RENAMED_KEYS)
    return quality_control


def _with_two_limits(weights: Weights) -> Weights:
    """The weights, with both thresholds of metal if their file is of an earlier version and has one.

    Earlier files have `refuse`, which is no longer used, and one `implant_limit`, which one in a hundred sound knees
    reaches: it is now the threshold of possible metal.
    """
    limit, possible = (f"{QUALITY_CONTROL}.{name}" for name in ("implant_limit", "possible_implant_limit"))
    tensors = {key: value for key, value in weights.tensors.items() if key != f"{QUALITY_CONTROL}.refuse"}
    if possible not in tensors and limit in tensors:
        tensors |= {possible: tensors[limit], limit: tensors[limit].clamp(min=CERTAIN_IMPLANT)}
    return replace(weights, tensors=tensors)


def fit_quality_control(
    real: Population, phantoms: Population, implant_network: ImplantNetwork, limits: ImplantLimits | None = None, *,
    warn: float = 0.02, possible_implant_share: float = 0.01, implant_share: float = 0.002,
) -> QualityControl:  # fmt: skip
    """Quality control fitted for one network.

    Args:
        real: normal real knees.
        phantoms: phantoms without metal.
        implant_network: trained without the reference knees.
        limits: for the probability of metal; by default chosen on the reference knees.
        warn: score below which a knee has a finding: at most about this share of normal real knees.
        possible_implant_share: largest share of the reference knees, real ones and phantoms each, that may be above the
            threshold of possible metal, which is at least 0.5.
        implant_share: the same for certain metal, whose threshold is at least `CERTAIN_IMPLANT`.
    """
    quality_control = QualityControl(real.train.features.shape[1])
    for prefix, name in (("feature", "features"), ("grey", "photometry")):
        for index, population in enumerate((real, phantoms)):
            mean, root = (torch.from_numpy(value) for value in _gaussian(getattr(population.train, name)))
            getattr(quality_control, f"{prefix}_mean")[index] = mean
            getattr(quality_control, f"{prefix}_root")[index] = root
            own = _distances(getattr(population.reference, name), mean[None], root[None], torch.ones(1))
            getattr(quality_control, f"{prefix}_unit")[index] = float(np.median(own))
    distances = np.sort(quality_control.distances(real.reference), axis=0)
    positions = np.linspace(0, len(distances) - 1, REFERENCE_SIZE)
    quantiles = [np.interp(positions, np.arange(len(distances)), column) for column in distances.T]
    quality_control.reference.copy_(torch.from_numpy(np.stack(quantiles)))
    quality_control.implant_network = implant_network
    if limits is None:
        metal = [implant_network.probability(knees.reference.implant_inputs) for knees in (real, phantoms)]
        limits = ImplantLimits(
            possible=max(0.5, *(float(np.quantile(own, 1 - possible_implant_share)) for own in metal)),
            certain=max(CERTAIN_IMPLANT, *(float(np.quantile(own, 1 - implant_share)) for own in metal)),
        )
    quality_control.possible_implant_limit.fill_(limits.possible)
    quality_control.implant_limit.fill_(limits.certain)
    quality_control.warn.fill_(warn)
    return quality_control


def _distances(values: Array, means: Tensor, roots: Tensor, units: Tensor) -> Array:
    """(N, P) squared Mahalanobis distances of values (N, F) from P populations, divided by their units.

    Args:
        values: (N, F).
        means: (P, F).
        roots: (P, F, F) whitening matrices.
        units: (P,).
    """
    parts = zip(means.double().numpy(), roots.double().numpy(), units.tolist(), strict=True)
    return np.stack([np.square((values - mean) @ root).sum(1) / unit for mean, root, unit in parts], axis=1)


def _gaussian(values: Array) -> tuple[Array, Array]:
    """Mean (F,) and whitening matrix (F, F): (values − mean) times the matrix has unit covariance.

    Features that are constant in nine of ten knees are ignored. They would decide the distance of other films alone.
    """
    import_joblib_quietly()
    from sklearn.covariance import LedoitWolf

    low, high = np.quantile(values, (0.05, 0.95), axis=0)
    deviation = np.where(high > low, values.std(0), np.inf)
    covariance = LedoitWolf().fit((values - values.mean(0)) / deviation).covariance_
    eigenvalues, axes = np.linalg.eigh(covariance)
    return values.mean(0), (axes / np.sqrt(eigenvalues.clip(1e-9))) / deviation[:, None]

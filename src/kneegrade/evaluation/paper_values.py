"""Results published in Zheng et al. (MICCAI 2021) and its supplement, as printed, by the name of our recipe.

Probable errors of the paper, kept as printed:

- the kappas of ResNet-18 and ResNet-34 look swapped grade by grade, but their averages do not (ResNet-34's should be
  .790);
- the KL accuracy of keypoint pooling alone is .703 in the text;
- the KL RMSE of coherence alone is .639 in the text;
- ResNet-50's OARSI accuracy is .753 in Table 2 and .752 elsewhere.
"""

from kneegrade.schema import TARGET_NAMES

COLUMNS = (*TARGET_NAMES, "oarsi_mean")

# Table 2, and Tables 1 and 2 of the supplement: metric → recipe → values of `COLUMNS`.
BY_GRADE: dict[str, dict[str, tuple[float, ...]]] = {
    "accuracy": {
        "resnet18": (0.691, 0.929, 0.767, 0.645, 0.673, 0.719, 0.672, 0.734),
        "resnet34": (0.703, 0.926, 0.767, 0.655, 0.702, 0.741, 0.694, 0.748),
        "resnet50": (0.708, 0.924, 0.773, 0.680, 0.697, 0.750, 0.693, 0.753),
        "proposed": (0.727, 0.938, 0.792, 0.686, 0.712, 0.746, 0.712, 0.764),
        "tau-0.25": (0.721, 0.941, 0.790, 0.699, 0.729, 0.770, 0.714, 0.774),
        "tau-0.75": (0.734, 0.936, 0.799, 0.696, 0.719, 0.759, 0.708, 0.770),
        "tau-1.0": (0.721, 0.937, 0.796, 0.687, 0.715, 0.760, 0.705, 0.766),
        "tau-1.5": (0.719, 0.940, 0.796, 0.692, 0.727, 0.759, 0.704, 0.770),
        "resnet50-regression": (0.708, 0.938, 0.765, 0.677, 0.702, 0.761, 0.699, 0.757),
        "proposed-regression": (0.721, 0.938, 0.795, 0.685, 0.723, 0.757, 0.723, 0.770),
    },
    "rmse": {
        "resnet18": (0.695, 0.286, 0.499, 0.798, 0.869, 0.626, 0.631, 0.618),
        "resnet34": (0.672, 0.298, 0.500, 0.770, 0.785, 0.600, 0.608, 0.593),
        "resnet50": (0.683, 0.321, 0.491, 0.747, 0.768, 0.579, 0.604, 0.585),
        "proposed": (0.639, 0.278, 0.472, 0.731, 0.719, 0.571, 0.597, 0.561),
        "tau-0.25": (0.663, 0.271, 0.472, 0.728, 0.725, 0.554, 0.578, 0.555),
        "tau-0.75": (0.622, 0.273, 0.465, 0.736, 0.717, 0.563, 0.579, 0.556),
        "tau-1.0": (0.628, 0.268, 0.463, 0.762, 0.734, 0.565, 0.591, 0.564),
        "tau-1.5": (0.653, 0.271, 0.462, 0.728, 0.730, 0.566, 0.597, 0.559),
        "resnet50-regression": (0.676, 0.263, 0.498, 0.731, 0.772, 0.554, 0.583, 0.567),
        "proposed-regression": (0.629, 0.258, 0.463, 0.726, 0.716, 0.554, 0.560, 0.546),
    },
    "kappa": {
        "resnet18": (0.802, 0.893, 0.857, 0.676, 0.763, 0.791, 0.758, 0.776),
        "resnet34": (0.792, 0.899, 0.857, 0.678, 0.719, 0.766, 0.738, 0.780),
        "resnet50": (0.799, 0.880, 0.863, 0.701, 0.762, 0.800, 0.767, 0.795),
        "proposed": (0.825, 0.906, 0.873, 0.721, 0.789, 0.810, 0.773, 0.812),
    },
}

# Table 2 of the supplement, first row: KL accuracy and RMSE reported by Antony et al. on other data.
ANTONY = {"accuracy": 0.603, "rmse": 0.898}

# Tables 3 and 4: recipe → KL accuracy, KL RMSE, mean OARSI accuracy, mean OARSI RMSE.
SUMMARY: dict[str, tuple[float, float, float, float]] = {
    "resnet50": (0.708, 0.683, 0.752, 0.585),
    "kpn": (0.705, 0.668, 0.761, 0.563),
    "cl": (0.723, 0.664, 0.750, 0.587),
    "proposed": (0.727, 0.639, 0.764, 0.561),
    "resnet50-20": (0.662, 0.715, 0.690, 0.661),
    "resnet50-40": (0.695, 0.698, 0.730, 0.642),
    "proposed-20": (0.684, 0.677, 0.756, 0.587),
    "proposed-40": (0.725, 0.642, 0.765, 0.570),
}

# Recipe → name of the method in the tables.
LABELS: dict[str, str] = {
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
    "proposed": "Proposed (KPN + CL)",
    "kpn": "KPN",
    "cl": "CL",
    "resnet50-regression": "ResNet-50 + regression head",
    "proposed-regression": "Proposed + regression head",
    **{f"tau-{tau}": f"τ = {tau}" for tau in ("0.25", "0.75", "1.0", "1.5")},
    "siamese": "Siamese (Tiulpin et al.)",
    "resnet50-layer3": "ResNet-50 after layer3",
    "kpn-ordinal": "KPN, ordinal heads",
    "kpn-reduced": "KPN, reduced to 64",
    "kpn-global": "KPN + global",
    "proposed-joint": "KPN + exact coherence",
}

r"""Write a manifest whose joint surfaces lie where a landmark network that was trained on phantoms predicts them.

    python recipes/bake_joint_lines.py MANIFEST DETECTOR_WEIGHTS -o NEW_MANIFEST

The predicted landmarks that came with the real crops are smooth: where the joint is closed they leave 3.4 mm open. A
fine landmark network trained on phantoms alone (`recipes/detector-phantoms.yaml`), whose joint space is exact, orders
narrowed and open joints correctly on the same crops, but on its own scale. Its width g is mapped to the scale of the
published table (`data/joint_space_by_grade.json`, Duryea's software) by the line through the medians of eight groups,
narrowing grades 0 to 3 of either compartment,

$$ g' = 1.35\, g - 0.0075\, w, $$

where w is the width of the tibial plateau (docs/background/experiments.md has the medians). Femur and tibia each move
by half of the difference; positions along the bone do not change. The shipped detector was trained on manifests that
were made this way.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from kneegrade.anatomy.geometry import roi_frame, sample_affine, stretch_contrast
from kneegrade.anatomy.joint_space import gap_at
from kneegrade.anatomy.landmark_networks import FINE, fine_landmark_network, read_points
from kneegrade.anatomy.landmark_scheme import (
    FEMUR_ARTICULAR,
    TIBIA_ARTICULAR,
    TIBIA_PLATEAU_LATERAL,
    TIBIA_PLATEAU_MEDIAL,
)
from kneegrade.anatomy.pyramid_network import PyramidNetwork
from kneegrade.cohorts import landmark_array, load_manifest
from kneegrade.files import replacing
from kneegrade.imaging import read_radiograph
from kneegrade.training.dataset import DATASET_PLATEAU_WIDTHS, DATASET_PX, crop_knee
from kneegrade.weights import load_part, load_weights

SCALE, OFFSET = 1.35, -0.0075
MOST = 0.05  # plateau widths that a gap may change by
WHOLE = ((0.08, 0.38), (0.62, 0.95))  # where it changes by all of it, x; in between are notch and spines
FADE = 0.06

Points = NDArray[np.float64]


def phantom_landmark_network(weights: Path) -> PyramidNetwork:
    """The fine landmark network of a detector's weights.

    Raises:
        WeightsError: not a detector's weights.
    """
    network = fine_landmark_network()
    load_part(network, load_weights(weights, "detector"), "fine")
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def predicted_landmarks(
    network: PyramidNetwork, pictures: NDArray[np.uint8], landmarks_px: NDArray[np.float32]
) -> list[Points]:
    """Landmarks (74, 2) that a fine landmark network predicts in each of B pictures, in pixels of the picture.

    Args:
        network: from `phantom_landmark_network`.
        pictures: (B, S, S) uint8 of a dataset.
        landmarks_px: (B, 74, 2) float32 that place the crops of the network.
    """
    frames = [roi_frame(points.astype(np.float64), FINE.size_px, FINE.plateau_widths) for points in landmarks_px]
    matrices = torch.from_numpy(np.stack([frame.matrix for frame in frames])).float()
    cut, _ = sample_affine(torch.from_numpy(pictures).unsqueeze(1).float(), matrices, FINE.size_px)
    located = read_points(*network(stretch_contrast((cut - 1).clamp(min=0) / 254, cut > 0.5)))
    return [frame.to_source(p.double().numpy()) for frame, p in zip(frames, located.points_px, strict=True)]


def redrawn_joint_lines(
    network: PyramidNetwork, pictures: NDArray[np.uint8], landmarks_px: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Landmarks (B, 74, 2) whose joint surfaces are set by the network; arguments as above."""
    pairs = zip(landmarks_px, predicted_landmarks(network, pictures, landmarks_px), strict=True)
    return np.stack([_redrawn(points.astype(np.float64), other) for points, other in pairs]).astype(np.float32)


def _redrawn(points: Points, seen: Points) -> Points:
    """The landmarks `points` with the joint space of `seen`, both level, lateral on the left, femur on top."""
    medial = points[TIBIA_PLATEAU_MEDIAL]
    width = float(np.linalg.norm(medial - points[TIBIA_PLATEAU_LATERAL]))
    result = points.copy()
    for part, away in ((FEMUR_ARTICULAR, -0.5), (TIBIA_ARTICULAR, 0.5)):
        x = (medial[0] - points[list(part), 0]) / width
        wanted = np.maximum(SCALE * gap_at(seen, x) + OFFSET * width, 0.0)
        change = np.clip(wanted - gap_at(points, x), -MOST * width, MOST * width)
        result[list(part), 1] += away * change * _share(x)
    return result


def _share(x: Points) -> Points:
    """1 where a gap is set, 0 at notch, spines and rims."""
    inside = [np.minimum(x - low, high - x) for low, high in WHOLE]
    return np.clip(1 + np.maximum(*inside) / FADE, 0.0, 1.0)


def baked_manifest(table: pd.DataFrame, network: PyramidNetwork) -> pd.DataFrame:
    """The manifest with corrected `landmarks_px`; every knee of it must have landmarks."""
    corrected = []
    for path, points in zip(table["image_path"], landmark_array(table), strict=True):
        picture, placed, _ = crop_knee(read_radiograph(Path(path)).pixels, points, DATASET_PLATEAU_WIDTHS)
        moved = redrawn_joint_lines(network, picture[None], placed[None])[0]
        corrected.append(
            roi_frame(points, DATASET_PX, DATASET_PLATEAU_WIDTHS).to_source(moved.astype(np.float64)).reshape(-1)
        )
    return table.assign(landmarks_px=corrected)


def main() -> None:
    """Read the arguments and write the manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("weights", type=Path, help="detector weights trained on phantoms alone")
    parser.add_argument("-o", "--output", type=Path, required=True, help="Parquet file to write")
    arguments = parser.parse_args()
    table = load_manifest(arguments.manifest.resolve())  # absolute image paths: the new manifest may lie elsewhere
    baked = baked_manifest(table, phantom_landmark_network(arguments.weights))
    with replacing(arguments.output, "wb") as stream:
        baked.to_parquet(stream)


if __name__ == "__main__":
    main()

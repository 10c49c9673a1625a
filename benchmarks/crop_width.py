"""Share of the knee crop that lies outside a tight single-knee image, by the crop's width in plateau widths.

    python benchmarks/crop_width.py SOFT_LABELS

SOFT_LABELS is a table with `landmarks_px` of the 299 px images of Chen 2018 (see
docs/how-to/train-shipped-weights.md). Prints JSON: the side of the images in plateau widths (median), for each width
the mean share of the crop that the image does not cover, and the mean medial joint space, in plateau widths, of
knees that are most probably without medial narrowing.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from kneegrade.anatomy.geometry import pose_of, roi_frame
from kneegrade.anatomy.joint_space import joint_space_width
from kneegrade.anatomy.knee import points_inside

CROP_PX, GRID = 299, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("soft_labels", type=Path, help="Parquet table with landmarks_px and jsn_medial_given_kl")
    table = pd.read_parquet(parser.parse_args().soft_labels)
    knees = [np.asarray(points, dtype=np.float64).reshape(74, 2) for points in table["landmarks_px"]]
    grid = np.stack(np.meshgrid(np.arange(GRID), np.arange(GRID)), axis=-1).reshape(-1, 2).astype(np.float64)
    outside = {
        width: np.mean([~points_inside(roi_frame(k, GRID, width).to_source(grid), (CROP_PX, CROP_PX)) for k in knees])
        for width in (1.1, 1.2, 1.3, 1.4)
    }
    jsn = np.stack(table["jsn_medial_given_kl"].to_list()).argmax(axis=1)
    medial = [joint_space_width(k).medial / pose_of(k).width for k, grade in zip(knees, jsn, strict=True) if grade == 0]
    result = {
        "crops": len(knees),
        "crop_side_in_plateau_widths": round(float(np.median([CROP_PX / pose_of(k).width for k in knees])), 3),
        "medial_joint_space_without_narrowing": round(float(np.mean(medial)), 4),
        "outside": {str(width): round(float(share), 4) for width, share in outside.items()},
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

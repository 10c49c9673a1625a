"""How much of a grader's shift on a labelled site is owed to the picture: crops of another site in that site's look.

    python benchmarks/site_look.py RESULTS/<weights> CHEN2018 SITE [--number 130]

RESULTS/<weights> holds results of `sites.py grade` for the validation crops and the part "look" of the site; their
landmarks are used. Every validation crop gets the look of one image of the site, the template: the same part of the
knee (`crop`), the same ratio of horizontal to vertical scale (`anisotropy`), the same pixels per plateau width
(`resolution`) and the same distribution of grey levels round the joint (`histogram`). Prints, per look, the change of
the expected KL and of the kappa of KL against the plain crops, with 95 % intervals over people. The network runs alone,
at the landmarks of the plain crop, so the detector has no part in the change.

The last rows grade the site itself, as it is and with the anisotropy of each image removed, as
`kneegrade.anatomy.pixel_aspect` estimates it.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from knee_logits import Picture, graded
from numpy.typing import NDArray
from PIL import Image
from site_images import in_hash_order, labelled_site_images, validation_images
from site_knees import SiteImage, read_lines
from site_metrics import expected_kl, has_grades, label_metrics, one_knee_per_image
from site_split import grey_image

from kneegrade import Grader
from kneegrade.anatomy.geometry import pose_of
from kneegrade.anatomy.pixel_aspect import with_square_pixels
from kneegrade.evaluation import SubjectBootstrap
from kneegrade.evaluation.bootstrap import interval
from kneegrade.evaluation.metrics import matrix_metrics
from kneegrade.uncertainty import CalibratedGrades

FACTORS = ("crop", "anisotropy", "resolution", "histogram")
LOOKS: dict[str, tuple[str, ...]] = {
    "all": FACTORS,
    **{name: (name,) for name in FACTORS},
    "all but anisotropy": ("crop", "resolution", "histogram"),
}
MIN_CONFIDENCE = 0.8  # of the landmarks of templates and crops
LEVELS = np.linspace(0, 1, 257)
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Template:
    """An image of the site whose look is copied.

    Attributes:
        picture: the image with its landmarks.
        anisotropy: its horizontal scale over its vertical scale.
    """

    picture: Picture
    anisotropy: float

    def box_in_widths(self) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of the image from the centre of the joint, in true plateau widths."""
        pose, (height, width) = pose_of(self.picture.landmarks_px), self.picture.pixels.shape
        across, along = pose.width, pose.width / self.anisotropy
        x, y = pose.centre
        return (-x - 0.5) / across, (-y - 0.5) / along, (width - 0.5 - x) / across, (height - 0.5 - y) / along


def in_look(picture: Picture, template: Template, factors: Sequence[str] = FACTORS) -> Picture:
    """A picture in the look of a template; where it does not reach far enough, its border is repeated.

    Args:
        picture: an image of undistorted geometry with its landmarks.
        template: an image of the site.
        factors: of `FACTORS`; the others stay as they are in `picture`.
    """
    pose, (height, width) = pose_of(picture.landmarks_px), picture.pixels.shape
    box = np.array([0.0, 0.0, width, height])
    if "crop" in factors:
        box = np.array(template.box_in_widths()) * pose.width + np.tile(pose.centre, 2) + 0.5
    scale = pose_of(template.picture.landmarks_px).width / pose.width if "resolution" in factors else 1.0
    scales = np.array([scale, scale / (template.anisotropy if "anisotropy" in factors else 1.0)])
    size = np.maximum(np.rint((box[2:] - box[:2]) * scales), 16).astype(int)
    margin = int(np.ceil(max(0, -box.min(), box[2] - width, box[3] - height)))
    padded = Image.fromarray(np.pad(picture.pixels, margin, mode="edge"))
    pixels = np.asarray(padded.resize(tuple(size), Image.Resampling.BICUBIC, box=tuple(box + margin)))
    points = (picture.landmarks_px + 0.5 - box[:2]) * size / (box[2:] - box[:2]) - 0.5
    if "histogram" in factors:
        pixels = matched(pixels, levels(pixels, points), levels(template.picture.pixels, template.picture.landmarks_px))
    return Picture(np.asarray(pixels, dtype=np.float32), points)


def levels(pixels: NDArray[np.float32], landmarks_px: Array) -> Array:
    """(257,) quantiles of the grey levels in the square of 1.2 plateau widths round the joint."""
    pose = pose_of(landmarks_px)
    low, high = np.array(pose.centre) - 0.6 * pose.width, np.array(pose.centre) + 0.6 * pose.width
    (x0, y0), (x1, y1) = np.maximum(np.rint(low), 0).astype(int), np.rint(high).astype(int)
    return np.asarray(np.quantile(pixels[y0:y1, x0:x1], LEVELS))


def matched(pixels: NDArray[np.float32], own: Array, wanted: Array) -> NDArray[np.float32]:
    """Pixels after the monotone map from one distribution of grey levels to another, both as quantiles."""
    increasing = np.maximum.accumulate(own + np.arange(len(own)) * 1e-5)
    return np.interp(pixels, increasing, wanted).astype(np.float32)


def without_anisotropy(picture: Picture, factor: float) -> Picture:
    """The picture made narrower by a factor."""
    pixels, to_square = with_square_pixels(picture.pixels, factor)
    return Picture(pixels, picture.landmarks_px @ to_square[:, :2].T + to_square[:, 2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder of one grader below the folder of results of sites.py")
    parser.add_argument("validation", type=Path, help="unpacked folder of the Chen 2018 archive")
    parser.add_argument("site", type=Path, help="folder of the labelled site")
    parser.add_argument("--number", type=int, default=130, help="number of validation crops")
    parser.add_argument("--weights", type=Path, help="weights of a grader; default: the shipped weights")
    options = parser.parse_args()
    torch.set_num_threads(1)
    grader = Grader(weights=options.weights)
    knees, crops = loaded(options.results / "validation.jsonl", validation_images(options.validation, "all"))
    knees, crops = knees.iloc[: options.number], crops[: options.number]
    site, images = loaded(options.results / "third-look.jsonl", labelled_site_images(options.site, "look"))
    aspects = site["aspect"].to_numpy(np.float64)
    templates = [Template(picture, aspect) for picture, aspect, confidence
                 in zip(images, aspects, site["confidence"], strict=True) if confidence > MIN_CONFIDENCE]  # fmt: skip
    print("anisotropy of the site (5, 25, 50, 75, 95 %):", quantiles([t.anisotropy for t in templates]), flush=True)
    print("anisotropy of the crops:", quantiles(knees["aspect"].to_list()))
    rng = np.random.default_rng(0)
    chosen = [templates[i] for i in rng.integers(len(templates), size=len(crops))]
    kl, group = knees["kl"].to_numpy(np.int64), knees["group"].to_numpy(dtype=str)
    bootstrap, plain = SubjectBootstrap(group), graded(grader, crops)
    print(
        "\n| look | change of expected KL | rms | change of kappa | KL equal | change by KL 0 … 4 |\n"
        + "|---" * 6
        + "|"
    )
    for name, factors in LOOKS.items():
        pictures = [in_look(crop, template, factors) for crop, template in zip(crops, chosen, strict=True)]
        print_change(name, plain, graded(grader, pictures), kl, bootstrap)
        if name == "all":
            print_change("all, outside = mean", plain, graded(grader, pictures, fill="mean"), kl, bootstrap)
            print_change(
                "all, anisotropy removed",
                plain,
                graded(grader, [without_anisotropy(p, t.anisotropy) for p, t in zip(pictures, chosen, strict=True)]),
                kl,
                bootstrap,
            )
    print("\n| site | kappa | AUC KL ≥ 2 | AUC KL ≥ 3 | Spearman | expected KL by KL 0 … 4 |\n" + "|---" * 6 + "|")
    for name, pictures in {
        "as it is": images,
        "anisotropy removed": [without_anisotropy(*pair) for pair in zip(images, aspects, strict=True)],
    }.items():
        print_site(name, graded(grader, pictures), site)


def loaded(results: Path, images: Sequence[SiteImage]) -> tuple[pd.DataFrame, list[Picture]]:
    """Rows of the knees that reached the network, in an order without meaning, and their pictures."""
    paths = {image.name: Path(image.about["path"]) for image in images}
    rows = pd.DataFrame([row for rows in read_lines(results).values() for row in rows])
    knees = one_knee_per_image(rows)
    order = in_hash_order(knees["image"].to_list())
    knees = knees.set_index("image").loc[order].reset_index()
    knees = knees[has_grades(knees)]
    return knees, [
        Picture(grey_image(paths[name]), np.array(points).reshape(-1, 2))
        for name, points in zip(knees["image"], knees["landmarks_px"], strict=True)
    ]


def quantiles(values: Sequence[float]) -> list[float]:
    return np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]).round(3).tolist()


def print_change(
    name: str, plain: CalibratedGrades, other: CalibratedGrades, kl: NDArray[np.int64], bootstrap: SubjectBootstrap
) -> None:
    """Prints one row: change against the plain crops."""
    change = expected_kl(other.probabilities) - expected_kl(plain.probabilities)
    mean = interval(bootstrap.sums(change) / bootstrap.sums(np.ones(len(kl))))
    kappa = interval(kappas(other, kl, bootstrap) - kappas(plain, kl, bootstrap))
    by_kl = " ".join(f"{change[kl == k].mean():+.2f}" for k in range(5) if (kl == k).any())
    same = (other.grades[:, 0] == plain.grades[:, 0]).mean()
    rms = np.sqrt(np.square(change).mean())
    print(f"| {name} | {shown(mean)} | {rms:.2f} | {shown(kappa)} | {same:.2f} | {by_kl} |", flush=True)


def kappas(graded_knees: CalibratedGrades, kl: NDArray[np.int64], bootstrap: SubjectBootstrap) -> Array:
    """(1 + replicates,) kappa of KL."""
    matrices = np.zeros((len(kl), 5, 5))
    matrices[np.arange(len(kl)), kl, graded_knees.grades[:, 0]] = 1
    return matrix_metrics(bootstrap.sums(matrices))["kappa"]


def shown(values: tuple[float, float, float]) -> str:
    return f"{values[0]:+.3f} ({values[1]:+.2f} to {values[2]:+.2f})"


def print_site(name: str, grades: CalibratedGrades, site: pd.DataFrame) -> None:
    """Prints one row: agreement with the labels of the site."""
    kl, group = site["kl"].to_numpy(np.int64), site["group"].to_numpy(dtype=str)
    scores = label_metrics(kl, group, grades.grades[:, 0], grades.probabilities)
    expected = " ".join(f"{expected_kl(grades.probabilities)[kl == k].mean():.2f}" for k in range(5))
    cells = " | ".join(f"{scores[key][0]:.3f}" for key in ("kappa", "auc_kl2", "auc_kl3", "spearman"))
    print(f"| {name} | {cells} | {expected} |", flush=True)


if __name__ == "__main__":
    main()

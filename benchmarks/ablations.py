"""What parts of the shipped grader's training contribute, on the 826 real validation crops, at a small scale.

    python benchmarks/ablations.py --image-only cache/chen2018-image.parquet -o runs/ablations [--seeds 2]

Trains recipes/ablation.yaml unchanged and with one change at a time, on the datasets of
docs/how-to/train-shipped-weights.md. `--image-only` is the manifest of `kneegrade cohort chen2018 --image-only`; its
rows are those of the first dataset's manifest. Prints KL against the published grade, and the OARSI grades against
the most probable soft label given KL. The networks are neither calibrated nor decoded. Finished runs are not
repeated.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kneegrade.cohorts import load_manifest, target_distributions
from kneegrade.evaluation import Predictions, SubjectBootstrap, score
from kneegrade.schema import CLASSES, TARGETS
from kneegrade.training.recipe_file import load_recipe
from kneegrade.training.train_grader import train_recipe

RECIPE = Path(__file__).parents[1] / "recipes/ablation.yaml"


@dataclass(frozen=True)
class Change:
    """One row of the table: labels of the training crops, recipe settings, and whether phantoms are included."""

    labels: str = "as-is"
    settings: tuple[str, ...] = ()
    phantoms: bool = True


ROWS = {
    "all parts": Change(),
    "nothing from the teacher network: published KL, OARSI from phantoms": Change("no-oarsi"),
    "OARSI labels from the image alone, without Bayes' rule": Change("image-only"),
    "without phantoms": Change(phantoms=False),
    "without coherence": Change(settings=("loss.lambda_gmm=0",)),
    "global pooling, no landmarks": Change(settings=("model.pooling=global",)),
    "published KL labels": Change("kl-as-read"),
}
FIGURES = (
    ("kl", "accuracy"),
    ("kl", "kappa"),
    ("joint", "auc_kl2"),
    ("oarsi_mean", "accuracy"),
    ("oarsi_mean", "kappa"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-only", type=Path, required=True, help="manifest of OARSI labels from the image alone")
    parser.add_argument("--seeds", type=int, default=1, help="number of runs per row")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the runs")
    options = parser.parse_args()
    predictions: dict[str, list[Predictions]] = {name: [] for name in ROWS}
    for seed in range(options.seeds):
        for number, (name, change) in enumerate(ROWS.items()):
            run = options.output / f"{number}-seed{seed}"
            if not (run / "weights.safetensors").is_file():
                train(run, name, change, seed, options)
            predictions[name].append(Predictions.load(run / "predictions-test.parquet"))
    print_table(predictions)


def train(run: Path, name: str, change: Change, seed: int, options: argparse.Namespace) -> None:
    """Trains one row with one seed."""
    crops, phantoms = load_recipe(RECIPE).data.datasets
    dataset = relabelled(crops, change.labels, options.image_only, options.output / f"dataset-{change.labels}")
    listed = ", ".join(map(str, [dataset, phantoms] if change.phantoms else [dataset]))
    settings = [f"name={json.dumps(name)}", f"data.datasets=[{listed}]", f"train.seed={seed}", *change.settings]
    if not train_recipe(RECIPE, run, settings, resume=True):
        raise SystemExit(f"Training of {name!r} was interrupted. Run the same command again to resume it.")
    print(name, seed, "done", flush=True)


def relabelled(dataset: Path, labels: str, image_only: Path, folder: Path) -> Path:
    """The dataset with other labels for its training knees; the images are linked, not copied."""
    if labels == "as-is":
        return dataset
    folder.mkdir(parents=True, exist_ok=True)
    images = folder / "images.npy"
    if not images.exists():
        images.symlink_to((dataset / "images.npy").resolve())
    with np.load(dataset / "knees.npz") as stored:
        knees = {name: stored[name] for name in stored.files}
    train = knees["split"] == "train"
    knees["targets"][train] = changed(knees["targets"], knees["manifest_rows"], labels, image_only)[train]
    np.savez(folder / "knees.npz", **knees)
    return folder


def changed(
    targets: NDArray[np.float32], rows: NDArray[np.int64], labels: str, image_only: Path
) -> NDArray[np.float32]:
    """(N, 29) targets with the labels that a run is trained on."""
    targets, kl = targets.copy(), TARGETS[0].one_hot
    if labels in ("no-oarsi", "kl-as-read"):
        targets[:, kl] = np.eye(CLASSES[0])[targets[:, kl].argmax(1)]  # every crop has a KL label
    if labels == "no-oarsi":
        targets[:, kl.stop :] = np.nan
    if labels == "image-only":
        targets[:, kl.stop :] = target_distributions(load_manifest(image_only))[rows, kl.stop :]
    return targets


def print_table(predictions: dict[str, list[Predictions]]) -> None:
    """Prints means over seeds, with the 95 % bootstrap interval over people of the difference to all parts."""
    people = SubjectBootstrap(predictions["all parts"][0].subject)
    whole = None
    print("| | KL accuracy | kappa | AUC, KL ≥ 2 | OARSI accuracy | OARSI kappa |\n|---|---|---|---|---|---|")
    for name, runs in predictions.items():
        scored = [score(run, people) for run in runs]
        drawn = np.mean([[own[grade][metric] for grade, metric in FIGURES] for own in scored], axis=0)
        whole = drawn if whole is None else whole
        low, high = np.quantile((drawn - whole)[:, 1:], [0.025, 0.975], axis=1)
        cells = [
            f"{value:.3f}" + ("" if drawn is whole else f" ({a:+.3f} to {b:+.3f})")
            for value, a, b in zip(drawn[:, 0], low, high, strict=True)
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()

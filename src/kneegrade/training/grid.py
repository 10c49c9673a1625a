"""`reproduce`: train the grid of recipes behind the paper's tables, one run after another, on one dataset.

A finished run is skipped and a stopped run is continued, so the same call can be repeated until the grid is complete.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kneegrade.errors import RecipeError, UsageError
from kneegrade.files import make_directory
from kneegrade.progress import Progress
from kneegrade.training.config import Recipe
from kneegrade.training.dataset import ARRAYS_FILE, IDENTITY_FILE
from kneegrade.training.detector.detector_recipe import DetectorRecipe
from kneegrade.training.phantom_datasets import PaperCohort, build_paper_cohort
from kneegrade.training.recipe_file import load_recipe
from kneegrade.training.train_grader import recipe_text, train_recipe

Log = Callable[[str], None]

TABLES = ("resnet50", "kpn", "cl", "proposed", "resnet50-20", "resnet50-40", "proposed-20", "proposed-40")
SHARES = ("kpn-20", "kpn-40", "cl-20", "cl-40")
BASELINES = ("resnet18", "resnet34")
SUPPLEMENT = ("tau-0.25", "tau-0.75", "tau-1.0", "tau-1.5", "resnet50-regression", "proposed-regression")
BEYOND = (
    "proposed-joint", "kpn-ordinal", "kpn-reduced", "kpn-global", "siamese", "resnet50-layer3",
)  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """Size of the grid.

    Attributes:
        cohort: phantoms to train on if no other dataset is given.
        recipes: names of the recipes, in the order in which they are run.
        seeds: random seeds; every recipe is run with each of them.
        settings: overrides for every recipe.
        trunks: trunk of a recipe → trunk used instead.
    """

    cohort: PaperCohort
    recipes: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: tuple[str, ...] = ()
    trunks: Mapping[str, str] = field(default_factory=dict)


SCALES: dict[str, Scale] = {
    "tiny": Scale(
        PaperCohort(labelled=96, unlabelled=96, validation=48, test=48),
        ("resnet50", "proposed"),
        (0,),
        ("model.roi_px=64", "train.epochs=2", "train.batch_size=16", "train.unlabelled_batch_size=16", "train.ema=0.5"),
        {"resnet50": "resnet18"},
    ),
    "small": Scale(
        PaperCohort(labelled=2_000, unlabelled=3_800, validation=1_000, test=5_000, seed=61),
        (*TABLES, "proposed-joint"),
        (0, 1),
        (
            "model.roi_px=128", "train.epochs=8", "train.steps_per_epoch=42", "train.learning_rate=1.0e-3",
            "loss.prevalence_cap=3", "train.optimiser=adamw", "train.schedule=cosine", "train.ema=0.98",
            "train.clip_norm=5", "train.evaluate_epochs=4",
        ),
        {"resnet50": "resnet18"},
    ),
    "paper": Scale(PaperCohort(), (*BASELINES, *TABLES, *SUPPLEMENT, *SHARES, *BEYOND), (0,)),
}  # fmt: skip


def recipe_folder() -> Path:
    """The folder of the paper's recipes, in the installed package or in the source tree.

    Raises:
        UsageError: it is in neither.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "recipes" / "paper", package.parents[1] / "recipes" / "paper"):
        if folder.is_dir():
            return folder
    raise UsageError("The folder of the paper's recipes was not found; install kneegrade again.")


def grid(scale: Scale, dataset: Path, settings: Sequence[str] = ()) -> list[tuple[str, str, list[str]]]:
    """(recipe, name of the run, overrides) of every run in order: all recipes with the first seed, then the next."""
    folder = recipe_folder()
    runs = []
    for seed in scale.seeds:
        for name in scale.recipes:
            overrides = [f"data.datasets={json.dumps([str(dataset)])}", f"train.seed={seed}", *scale.settings]
            recipe = load_recipe(folder / f"{name}.yaml")
            if isinstance(recipe, Recipe) and recipe.model.trunk in scale.trunks:
                overrides.append(f"model.trunk={scale.trunks[recipe.model.trunk]}")
            runs.append((name, f"{name}-seed{seed}", [*overrides, *settings]))
    return runs


def reproduce(
    output: Path, scale: Scale, dataset: Path | None = None, settings: Sequence[str] = (), *,
    log: Log = print, progress: Progress | None = None, drawing: Progress | None = None,
) -> bool:  # fmt: skip
    """Train every run of a scale into `output`/<recipe>-seed<n>; True when all runs are finished.

    Args:
        output: folder of the runs; created if missing.
        scale: one of `SCALES`, or another.
        dataset: labelled knees with splits; if None, the phantoms of the scale are rendered once into `output`/cohort.
        settings: further overrides for every recipe, applied after those of the scale.
        log: called with a line of text for each step.
        progress: called with (steps done, steps in all, loss) of the current run.
        drawing: called with (knees done, knees in all) while phantoms are rendered.

    Raises:
        UsageError: there is no recipe of that name, or a folder holds another cohort or a run with other settings.
        RecipeError: a recipe or the dataset cannot be used.
    """
    unknown = [name for name in scale.recipes if not (recipe_folder() / f"{name}.yaml").is_file()]
    if unknown:
        raise UsageError(f"There is no recipe {', '.join(unknown)} in {recipe_folder().name}.")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(
            "`kneegrade reproduce` was started as one of several processes, but it runs as a single process. Use "
            "`accelerate launch … train` to distribute a single run."
        )
    make_directory(output)
    if dataset is None:
        dataset = _phantom_cohort(output / "cohort", scale.cohort, log, drawing)
    runs = grid(scale, dataset.resolve(), settings)
    check_splits(dataset, load_recipe(recipe_folder() / f"{runs[0][0]}.yaml", runs[0][2]))
    for number, (name, folder, overrides) in enumerate(runs, start=1):
        path, directory = recipe_folder() / f"{name}.yaml", output / folder
        if (directory / "weights.safetensors").is_file():
            if (directory / "recipe.yaml").read_text(encoding="utf-8") != recipe_text(load_recipe(path, overrides)):
                raise UsageError(
                    f"{directory} contains a run with other settings; choose another folder, or remove this one."
                )
            log(f"[{number}/{len(runs)}] {folder}: done already")
            continue
        log(f"[{number}/{len(runs)}] {folder}")
        resume = (directory / "recipe.yaml").is_file()
        if not train_recipe(path, directory, overrides, resume=resume, progress=progress):
            return False
    return True


def _phantom_cohort(directory: Path, cohort: PaperCohort, log: Log, progress: Progress | None) -> Path:
    """The dataset of a phantom cohort, rendered if it does not exist."""
    marker = directory / IDENTITY_FILE
    if not directory.is_dir():
        log(f"Rendering {len(cohort):,} phantoms")
        build_paper_cohort(directory, cohort, progress=progress)
    elif not marker.is_file() or marker.read_text(encoding="utf-8") != cohort.identity:
        raise UsageError(
            f"{directory} contains another cohort than this scale uses; choose another folder for the runs."
        )
    return directory


def check_splits(dataset: Path, recipe: Recipe | DetectorRecipe) -> None:
    """Refuse, before hours of training, a dataset without the splits that a recipe calibrates and tests on.

    Raises:
        RecipeError: a split that the recipe needs has no labelled knee.
    """
    with np.load(dataset / ARRAYS_FILE) as knees:
        labelled = np.isfinite(knees["targets"]).any(axis=1)
        present = set(knees["split"][labelled].tolist())
    data = recipe.data if isinstance(recipe, Recipe) else None
    needed = () if data is None else ("train", data.test_split, *(("val",) if data.calibration_share is None else ()))
    missing = [name for name in needed if name not in present]
    if missing:
        raise RecipeError(
            f"{dataset} has no labelled knee of split {', '.join(missing)}; it has {', '.join(sorted(present))}. "
            "Use data.test_split to choose the test split and data.calibration_share to calibrate on training knees."
        )

"""`reproduce`: the grid of recipes behind the paper's tables, on one cohort and at one scale, run after run.

A run that has come to its end is skipped, one that was stopped goes on, so the same call serves again until the grid
is whole.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kneegrade.errors import RecipeError, UsageError
from kneegrade.training.config import DetectorRecipe, Recipe, load_recipe
from kneegrade.training.phantom_datasets import PaperCohort, build_paper_cohort
from kneegrade.training.train_grader import recipe_text, train_recipe

Say = Callable[[str], None]
Progress = Callable[[int, int, float | None], None]

TABLES = ("resnet50", "kpn", "cl", "proposed", "resnet50-20", "resnet50-40", "proposed-20", "proposed-40")
SHARES = ("kpn-20", "kpn-40", "cl-20", "cl-40")
BASELINES = ("resnet18", "resnet34")
SUPPLEMENT = ("tau-0.25", "tau-0.75", "tau-1.0", "tau-1.5", "resnet50-regression", "proposed-regression")
BEYOND = (
    "proposed-joint", "kpn-ordinal", "kpn-reduced", "kpn-global", "siamese", "resnet50-layer3",
)  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """How large the grid is.

    Attributes:
        cohort: of phantoms, where no other is given.
        recipes: rows, in the order in which they are run.
        seeds: of every row.
        settings: overrides of every recipe.
        trunks: trunk of the recipe → trunk used instead.
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
    """Where the paper's recipes lie: in the installed package, or in the source tree.

    Raises:
        UsageError: in neither.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "recipes" / "paper", package.parents[1] / "recipes" / "paper"):
        if folder.is_dir():
            return folder
    raise UsageError("The paper's recipes are missing; install kneegrade again.")


def grid(scale: Scale, store: Path, settings: Sequence[str] = ()) -> list[tuple[str, str, list[str]]]:
    """(recipe, run's name, overrides) of every run, in order: all rows of the first seed, then of the next."""
    folder = recipe_folder()
    runs = []
    for seed in scale.seeds:
        for name in scale.recipes:
            own = [f"data.stores={json.dumps([str(store)])}", f"train.seed={seed}", *scale.settings]
            recipe = load_recipe(folder / f"{name}.yaml")
            if isinstance(recipe, Recipe) and recipe.model.trunk in scale.trunks:
                own.append(f"model.trunk={scale.trunks[recipe.model.trunk]}")
            runs.append((name, f"{name}-seed{seed}", [*own, *settings]))
    return runs


def reproduce(
    output: Path, scale: Scale, store: Path | None = None, settings: Sequence[str] = (), *,
    say: Say = print, progress: Progress | None = None, drawing: Callable[[int, int], None] | None = None,
) -> bool:  # fmt: skip
    """Train every run of a scale into `output`/<recipe>-seed<n>; True when all have come to their end.

    Args:
        output: folder of the runs; made if it is not there.
        scale: one of `SCALES`, or another.
        store: knees with splits; if None, phantoms as the scale says, drawn into `output`/cohort once.
        settings: further overrides of every recipe, after the scale's.
        say: is told what is being done.
        progress: of the run at hand.
        drawing: of the cohort.

    Raises:
        UsageError: no recipe of that name, or a folder that holds another grid.
        RecipeError: a recipe or a store that cannot be used.
    """
    unknown = [name for name in scale.recipes if not (recipe_folder() / f"{name}.yaml").is_file()]
    if unknown:
        raise UsageError(f"There is no recipe {', '.join(unknown)} in {recipe_folder().name}.")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("`reproduce` runs as one process; `accelerate launch … train` spreads a single run.")
    output.mkdir(parents=True, exist_ok=True)
    if store is None:
        store = _drawn(output / "cohort", scale.cohort, say, drawing)
    runs = grid(scale, store.resolve(), settings)
    check_splits(store, load_recipe(recipe_folder() / f"{runs[0][0]}.yaml", runs[0][2]))
    for number, (name, folder, overrides) in enumerate(runs, start=1):
        path, directory = recipe_folder() / f"{name}.yaml", output / folder
        if (directory / "weights.safetensors").is_file():
            if (directory / "recipe.yaml").read_text(encoding="utf-8") != recipe_text(load_recipe(path, overrides)):
                raise UsageError(f"{directory} holds a run with other settings; name another folder, or remove it.")
            say(f"[{number}/{len(runs)}] {folder}: done already")
            continue
        say(f"[{number}/{len(runs)}] {folder}")
        resume = (directory / "recipe.yaml").is_file()
        if not train_recipe(path, directory, overrides, resume=resume, progress=progress):
            return False
    return True


def _drawn(store: Path, cohort: PaperCohort, say: Say, drawing: Callable[[int, int], None] | None) -> Path:
    """The store of a phantom cohort, drawn if it is not there yet."""
    marker = store / "identity.txt"
    if not store.is_dir():
        say(f"Drawing {len(cohort):,} phantoms")
        build_paper_cohort(store, cohort, progress=drawing)
    elif not marker.is_file() or marker.read_text(encoding="utf-8") != cohort.identity:
        raise UsageError(f"{store} holds another cohort than this scale's; name another folder for the runs.")
    return store


def check_splits(store: Path, recipe: Recipe | DetectorRecipe) -> None:
    """Refuse a store that lacks the knees which a recipe calibrates with or is scored on, before hours of training.

    Raises:
        RecipeError: it does.
    """
    with np.load(store / "knees.npz") as knees:
        labelled = np.isfinite(knees["targets"]).any(axis=1)
        present = set(knees["split"][labelled].tolist())
    data = recipe.data if isinstance(recipe, Recipe) else None
    needed = () if data is None else ("train", data.test_split, *(("val",) if data.calibration_share is None else ()))
    lacking = [name for name in needed if name not in present]
    if lacking:
        raise RecipeError(
            f"{store} has no labelled knee of split {', '.join(lacking)}; it has {', '.join(sorted(present))}. "
            "data.test_split and data.calibration_share say what is scored and what is calibrated with."
        )

"""Training of the landmark detector: its finder and its two locators, one after the other.

kneegrade train recipes/detector.yaml --output runs/detector [--resume]
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from kneegrade.anatomy.finder import finder_network
from kneegrade.anatomy.locator import coarse_network, fine_network
from kneegrade.cohorts import load_manifest
from kneegrade.errors import RecipeError
from kneegrade.learning.finder import finder_task
from kneegrade.learning.fitting import Progress, Task, fit_network
from kneegrade.learning.locator import coarse_task, fine_task
from kneegrade.learning.recipe import DetectorRecipe
from kneegrade.learning.scenes import (
    Scenes,
    composed_scenes,
    film_scenes,
    join_scenes,
    load_scenes,
    phantom_scenes,
    save_scenes,
)
from kneegrade.learning.store import Store, load_stores
from kneegrade.weights import load_part, load_weights

NETWORKS = {"coarse": coarse_network, "finder": finder_network, "fine": fine_network}


def train_detector(
    recipe: DetectorRecipe, directory: Path, progress: Progress | None = None
) -> dict[str, torch.Tensor] | None:
    """Tensors of the trained networks, `finder.…`, `coarse.…`, `fine.…`; None when a SIGTERM ended it early.

    A network of 0 steps is the start's, or left as it was drawn.

    Raises:
        RecipeError: no training knee in the stores.
        WeightsError: `start` is not a detector's weights.
    """
    store = load_stores(recipe.stores)
    rows = np.flatnonzero(store.split == "train")
    if not len(rows):
        raise RecipeError("The stores hold no knee of split train.")
    start = load_weights(recipe.start, "detector") if recipe.start else None
    tensors: dict[str, torch.Tensor] = {}
    tasks: dict[str, Callable[[], Task]] = {
        "coarse": lambda: coarse_task(store, rows, recipe),
        "finder": lambda: finder_task(_scenes(store, rows, recipe, directory), recipe),
        "fine": lambda: fine_task(store, rows, recipe),
    }
    for name, make in NETWORKS.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            task = tasks[name]() if getattr(recipe, name).steps else None
            network = task.network if task else make()
        if start:
            load_part(network, start, name)
        if task and not fit_network(task, recipe, directory, progress):
            return None
        tensors |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
    return tensors


def _scenes(store: Store, rows: np.ndarray, recipe: DetectorRecipe, directory: Path) -> Scenes:
    """What the finder learns from; made once and kept in the run's folder."""
    held = directory / "scenes.npz"
    if not held.is_file():
        real = rows[store.source[rows] != "phantom"]
        tables = [load_manifest(path) for path in recipe.films]
        tables = [table[table["split"] == "train"] for table in tables]
        parts = [film_scenes(table, recipe.film_views) for table in tables if len(table)]
        if recipe.phantom_scenes:
            parts.append(phantom_scenes(recipe.phantom_scenes, recipe.seed))
        if len(real) and recipe.composed_scenes:
            parts.append(composed_scenes(store, real, recipe.composed_scenes, recipe.seed))
        if not parts:
            raise RecipeError("The finder has nothing to learn from: name films, or phantom or composed scenes.")
        save_scenes(held, join_scenes(parts))
    return load_scenes(held)

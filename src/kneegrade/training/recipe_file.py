"""Recipes in YAML files: `load_recipe(path, ["train.epochs=5"])` reads a recipe and replaces single values."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from kneegrade.errors import RecipeError
from kneegrade.training.config import Recipe, Section
from kneegrade.training.detector.detector_recipe import DetectorRecipe

RENAMED_KEYS: dict[type[Section], tuple[tuple[str, str, str], ...]] = {  # schema → (section, old key, new key)
    Recipe: (("data", "stores", "datasets"), ("", "teaching", "distillation")),
    DetectorRecipe: (("", "stores", "datasets"), ("", "finder", "knee_localizer")),
}


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> "Recipe | DetectorRecipe":
    """The recipe in a YAML file, a `DetectorRecipe` if it contains `kind: detector`.

    `overrides`, `section.key=value`, replace single values.

    Raises:
        RecipeError: the file is missing or is not YAML, or a key or value does not fit the schema.
    """
    try:
        tree: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"The recipe {path} cannot be read as YAML: {type(error).__name__}.") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"The recipe {path} is not a mapping of sections; recipes/ has examples.")
    for setting in overrides:
        override(tree, setting)
    schema: type[Recipe | DetectorRecipe] = DetectorRecipe if tree.get("kind") == "detector" else Recipe
    for section, old, new in RENAMED_KEYS[schema]:
        mapping = tree.get(section) if section else tree
        if isinstance(mapping, dict) and old in mapping:
            prefix = f"{section}." if section else ""
            raise RecipeError(f"{path.name}: {prefix}{old} is now {prefix}{new}.")
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        errors = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RecipeError(f"The recipe {path.name} does not fit its schema: {errors}.") from error


def override(tree: dict[str, Any], setting: str) -> None:
    """Set one value of nested mappings, from `section.key=value` with the value in YAML.

    Raises:
        RecipeError: the setting is not of that form, a section is a value, or the value is not YAML.
    """
    keys, equals, value = setting.partition("=")
    if not equals:
        raise RecipeError(f"{setting!r} is not of the form section.key=value.")
    *parents, last = keys.split(".")
    for key in parents:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise RecipeError(f"{setting!r}: {key} is a value, not a section.")
    try:
        tree[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"{setting!r}: the value is not YAML.") from error

"""mkdocs hook: fills in the pages that are generated from the program, so that they cannot drift from it."""

import inspect
import json
from typing import Any

import typer
from markers import filled
from pydantic import BaseModel

from kneegrade.batch import TABLES, Column
from kneegrade.commands import app
from kneegrade.training.config import Recipe
from kneegrade.training.detector.detector_recipe import DetectorRecipe


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its generated part in place of the marker."""
    return filled(markdown, {"commands": commands, "recipes": recipes, "batch_tables": batch_tables})


def commands() -> str:
    """Every command with its arguments, options and their help, as Markdown."""
    root = typer.main.get_command(app)
    return "\n".join(_command(root, "kneegrade", level=2))


def _command(command: Any, path: str, level: int) -> list[str]:
    lines = []
    for name, sub in getattr(command, "commands", {}).items():
        if sub.hidden:
            continue
        title = f"{path} {name}"
        lines += [f"{'#' * level} {title}", "", (sub.help or "").strip(), ""]
        rows = [row for parameter in sub.params if (row := _row(parameter))]
        if rows:
            lines += ["| argument or option | default | meaning |", "|---|---|---|", *rows, ""]
        lines += _command(sub, title, level + 1)
    return lines


def _row(parameter: Any) -> str | None:
    if parameter.name == "help":
        return None
    name = (
        ", ".join(f"`{option}`" for option in parameter.opts)
        if parameter.param_type_name == "option"
        else f"`{parameter.metavar or parameter.name.upper()}`"
    )
    return f"| {name} | {_default(parameter)} | {_cell(getattr(parameter, 'help', '') or '')} |"


def _default(parameter: Any) -> str:
    """The default as `--help` shows it: "required", a value, or the text that describes it."""
    if parameter.required:
        return "required"
    if isinstance(shown := getattr(parameter, "show_default", None), str):
        return _cell(shown)
    value = parameter.default() if callable(parameter.default) else parameter.default
    return "" if value is None or value is False else f"`{getattr(value, 'value', value)}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def batch_tables() -> str:
    """The columns of the tables of `kneegrade batch`, as Markdown."""
    lines = []
    for name, columns in TABLES.items():
        lines += [f"## {name}", "", "| column | type | content |", "|---|---|---|"]
        lines += [f"| `{c.name}` | {_type(c)} | {_cell(c.meaning)} |" for c in columns] + [""]
    return "\n".join(lines)


def _type(column: Column) -> str:
    if column.type.num_fields != 1:
        return str(column.type)
    return f"list of {column.length or 'any number of'} {column.type.value_type}"


def recipes() -> str:
    """Every section of the two kinds of recipe, with the default and meaning of its keys, as Markdown."""
    lines = []
    for title, model in (("Grader", Recipe), ("Landmark detector (`kind: detector`)", DetectorRecipe)):
        lines += [f"## {title}", "", *_section(model)]
        names: dict[type[BaseModel], list[str]] = {}
        for name, field in model.model_fields.items():
            for kind in _sections(field.annotation):
                names.setdefault(kind, []).append(f"`{name}`")
        for kind, same in names.items():
            lines += [f"### {', '.join(same)}", "", *_section(kind)]
    return "\n".join(lines)


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The sections in a type such as `Loss` or `Loss | None`."""
    kinds = (annotation, *getattr(annotation, "__args__", ()))
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _section(model: type[BaseModel]) -> list[str]:
    """The introduction of a section's docstring, and a table of its keys.

    Raises:
        KeyError: the docstring does not describe a key.
    """
    doc = inspect.cleandoc(model.__doc__ or "")
    introduction, _, attributes = doc.partition("Attributes:\n")
    meanings = _attributes(attributes)
    rows = [
        f"| `{name}` | {_key_default(field)} | {_cell(field.description or meanings[name])} |"
        for name, field in model.model_fields.items()
    ]
    return [introduction.strip(), "", "| key | default | meaning |", "|---|---|---|", *rows, ""]


def _attributes(text: str) -> dict[str, str]:
    """Name → description, from the body of an "Attributes:" section in Google style."""
    meanings: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(text).splitlines():
        if line and not line.startswith(" "):
            name, _, first = line.partition(": ")
            meanings[name] = first
        else:
            meanings[name] += " " + line.strip()
    return meanings


def _key_default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "see below"
    return f"`{json.dumps(value, default=str)}`"  # as it is written in YAML

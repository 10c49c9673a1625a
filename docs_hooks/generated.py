"""mkdocs hook: fills in the pages that are generated from the program, so that they cannot drift from it."""

from typing import Any

import typer
from pydantic import BaseModel

from kneegrade.commands import app
from kneegrade.training.config import DetectorRecipe, Recipe


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its generated part in place of the marker."""
    for name, make in (("commands", commands), ("recipes", recipes)):
        marker = f"<!-- generated: {name} -->"
        if marker in markdown:
            markdown = markdown.replace(marker, make())
    return markdown


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
        else parameter.name.upper()
    )
    default = "" if parameter.default in (None, False) else f"`{parameter.default}`"
    text = (getattr(parameter, "help", "") or "").replace("|", "\\|").replace("\n", " ")
    return f"| {name} | {'required' if parameter.required else default} | {text} |"


def recipes() -> str:
    """Every section of the two kinds of recipe with its keys and defaults, as Markdown."""
    lines = []
    for title, model in (("Grader", Recipe), ("Landmark detector (`kind: detector`)", DetectorRecipe)):
        lines += [f"## {title}", "", _plain(model.__doc__), "", *_keys(model)]
        for name, field in model.model_fields.items():
            kinds = [
                kind for kind in (field.annotation, *getattr(field.annotation, "__args__", ())) if _is_section(kind)
            ]
            for kind in kinds:
                lines += [f"### `{name}`", "", _plain(kind.__doc__), "", *_keys(kind)]
    return "\n".join(lines)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _plain(doc: str | None) -> str:
    text = "\n".join(line.strip() for line in (doc or "").strip().splitlines())
    return text.replace("Attributes:", "")


def _keys(model: type[BaseModel]) -> list[str]:
    rows = []
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else f"`{field.get_default(call_default_factory=True)!r}`"
        default = "section" if "(" in default and _is_section(type(field.default)) else default
        rows.append(f"| `{name}` | {default} |")
    return ["| key | default |", "|---|---|", *rows, ""]

"""mkdocs hook: the pages on `kneegrade serve`, generated from the models of its settings and from OpenAPI."""

import inspect
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from kneegrade.server.destinations.destination_settings import DimseSettings, FhirSettings, StowSettings, TlsSettings
from kneegrade.server.rest.problem import MEANINGS
from kneegrade.server.rest.rest_app import rest_routes
from kneegrade.server.settings import (
    GradingSettings,
    NodeSettings,
    RestSettings,
    ResultsSettings,
    ServerTlsSettings,
    ServeSettings,
    SpoolSettings,
)
from kneegrade.server.spool.film_spool import Spool

SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("Top of the file", ServeSettings),
    ("`[spool]`", SpoolSettings),
    ("`[grading]`", GradingSettings),
    ("`[node]`", NodeSettings),
    ("`[rest]`", RestSettings),
    ("`[node.tls]` and `[rest.tls]`", ServerTlsSettings),
    ("`[results]`", ResultsSettings),
    ('`[[destination]]` with `kind = "dimse"`', DimseSettings),
    ('`[[destination]]` with `kind = "stow"`', StowSettings),
    ('`[[destination]]` with `kind = "fhir"`', FhirSettings),
    ("`tls` of a destination", TlsSettings),
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its generated parts in place of the markers."""
    for make in (serve_settings, routes, refusals):
        marker = f"<!-- generated: {make.__name__} -->"
        if marker in markdown:
            markdown = markdown.replace(marker, make())
    return markdown


def serve_settings() -> str:
    """Every section with the default and meaning of its keys, as Markdown."""
    return "\n".join(line for title, model in SECTIONS for line in _section(title, model))


def _section(title: str, model: type[BaseModel]) -> Iterator[str]:
    meanings = _meanings(model)
    introduction = inspect.cleandoc(model.__doc__ or "").partition("Attributes:\n")[0].strip()
    yield from (f"## {title}", "", introduction, "", "| key | default | meaning |", "|---|---|---|")
    for name, field in model.model_fields.items():
        meaning = "settings of their own, see below" if meanings[name] == "see there." else meanings[name]
        yield f"| `{name}` | {_default(field)} | {meaning} |"
    yield ""


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """Key → meaning, from the docstrings of the model and its bases; a KeyError follows where one is missing."""
    meanings = {"kind": "of the destination."}
    for kind in reversed(model.__mro__):
        text = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2] if kind in _models(model) else ""
        name = ""
        for line in inspect.cleandoc(text).splitlines():
            if line and not line.startswith(" "):
                name, _, first = line.partition(": ")
                meanings[name] = first
            elif name:
                meanings[name] += " " + line.strip()
    return {name: text.strip().replace("|", "\\|") for name, text in meanings.items()}


def _models(model: type[BaseModel]) -> list[type]:
    return [kind for kind in model.__mro__ if issubclass(kind, BaseModel) and kind is not BaseModel]


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or isinstance(value, BaseModel) or value in ((), {}):
        return ""
    return f"`{json.dumps(value)}`"  # as it is written in TOML


def routes() -> str:
    """The routes with their scopes, as Markdown."""
    lines = ["| route | scope | what it does |", "|---|---|---|"]
    for path, methods in _description()["paths"].items():
        for method, route in methods.items():
            said = " ".join(str(route.get("description", "")).split())
            lines.append(f"| `{method.upper()} {path}` | {_scope(path, method)} | {said} |")
    return "\n".join(lines)


def _description() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder) / "spool")
        settings = ServeSettings(
            spool=SpoolSettings(directory=spool.directory), rest=RestSettings(tokens=Path(folder) / "tokens")
        )
        app: FastAPI = rest_routes(settings, spool)
        from kneegrade.server.rest.rest_app import api_description

        described = api_description(app)
        spool.close()
    return described


def _scope(path: str, method: str) -> str:
    if path == "/healthz":
        return "none"
    return "`metrics`" if path == "/metrics" else "`send`" if method == "post" else "`read`"


def refusals() -> str:
    """The statuses of refusals and their meanings, as Markdown."""
    rows = [f"| {status} | {meaning} |" for status, meaning in MEANINGS.items()]
    return "\n".join(["| status | meaning |", "|---|---|", *rows])

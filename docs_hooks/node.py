"""mkdocs hook: the tables of the page on the DICOM node, generated from `kneegrade.server`."""

import inspect
from dataclasses import fields
from typing import Any

from kneegrade.imaging.dicom.transfer_syntaxes import decoder_of, known_transfer_syntaxes
from kneegrade.imaging.limits import MEBIBYTE
from kneegrade.server.node.node_limits import NodeLimits
from kneegrade.server.node.node_service import COMMENTS, FILM_CLASSES, SUCCESS

MEANINGS = {SUCCESS: "The film is on disk, or was before; or it is a picture that kneegrade made, which is not kept."}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its generated parts in place of the markers."""
    for name, make in (("node-classes", classes), ("node-limits", limits), ("node-statuses", statuses)):
        marker = f"<!-- generated: {name} -->"
        if marker in markdown:
            markdown = markdown.replace(marker, make())
    return markdown


def classes() -> str:
    """SOP classes and transfer syntaxes that are accepted."""
    lines = ["| SOP class | UID |", "|---|---|", "| Verification SOP Class (C-ECHO) | 1.2.840.10008.1.1 |"]
    lines += [f"| {one.name} | {one} |" for one in FILM_CLASSES]
    lines += ["", "| transfer syntax of films | UID |", "|---|---|"]
    lines += [f"| {one.name} | {one} |" for one in known_transfer_syntaxes() if decoder_of(one)]
    return "\n".join(lines)


def limits() -> str:
    """The limits with their defaults; the meanings are those of the docstring."""
    text = inspect.cleandoc(NodeLimits.__doc__ or "").partition("Attributes:\n")[2]
    meanings = {}
    for line in text.splitlines():
        name, _, meaning = line.strip().partition(": ")
        meanings[name] = meaning
    lines = ["| limit | default | meaning |", "|---|---|---|"]
    for one in fields(NodeLimits):
        lines.append(f"| `{one.name}` | {_shown(one.name, one.default)} | {meanings[one.name]} |")
    return "\n".join(lines)


def _shown(name: str, value: Any) -> str:
    if name.endswith("_bytes"):
        return f"{value // MEBIBYTE} MiB" if value >= MEBIBYTE else f"{value // 1024} KiB"
    return f"{value:g} s" if name.endswith("_seconds") else str(value)


def statuses() -> str:
    """Status codes of C-STORE."""
    lines = ["| status | meaning |", "|---|---|"]
    lines += [f"| 0x{code:04X} | {meaning} |" for code, meaning in sorted((MEANINGS | COMMENTS).items())]
    return "\n".join(lines)

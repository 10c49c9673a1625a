"""`kneegrade info`: versions, weights and compute device."""

import json
from typing import Any

import typer

from kneegrade.commands.options import JsonOption


def info(as_json: JsonOption = False) -> None:
    """Show versions, weights and the compute device."""
    facts = _facts()
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        if name != "weights":
            typer.echo(f"{name:10} {value}")
    for kind, weights in facts["weights"].items():
        typer.echo(f"{kind:10} {weights['name']}  sha256 {weights['sha256'][:16]}…")


def _facts() -> dict[str, Any]:
    """Versions of kneegrade and of its main libraries, the device that "auto" chooses, and the shipped weights."""
    import platform
    from importlib.metadata import version

    import torch

    from kneegrade.version import __version__
    from kneegrade.weights import SHIPPED, read_description, shipped_path, weights_reference

    return {
        "kneegrade": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pydicom": version("pydicom"),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "weights": {kind: weights_reference(read_description(shipped_path(kind))) for kind in SHIPPED},
    }

"""`kneegrade info`: versions, weights, compute device, and on request the speed of this machine."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kneegrade.commands.options import JsonOption

if TYPE_CHECKING:
    from kneegrade.speed import Speed


def info(
    as_json: JsonOption = False,
    speed: Annotated[
        bool, typer.Option("--speed", help="Measure the speed of runtimes and precisions on this machine.")
    ] = False,
) -> None:  # fmt: skip
    """Show versions, weights and the compute device."""
    facts = _facts()
    speeds = _measured() if speed else []
    if as_json:
        typer.echo(json.dumps({**facts, "speed": [vars(each) for each in speeds]} if speed else facts, indent=1))
        return
    for name, value in facts.items():
        if name != "weights":
            typer.echo(f"{name:10} {value}")
    for kind, weights in facts["weights"].items():
        typer.echo(f"{kind:10} {weights['name']}  sha256 {weights['sha256'][:16]}…")
    if speed:
        _print_speeds(speeds)


def _facts() -> dict[str, Any]:
    """Versions of kneegrade and of its main libraries, the device that "auto" chooses, and the shipped weights."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from kneegrade.version import __version__
    from kneegrade.weights import SHIPPED, read_description, shipped_path, weights_reference

    try:
        openvino = version("openvino")
    except PackageNotFoundError:
        openvino = "not installed"
    return {
        "kneegrade": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "openvino": openvino,
        "pydicom": version("pydicom"),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "weights": {kind: weights_reference(read_description(shipped_path(kind))) for kind in SHIPPED},
    }


def _measured() -> "list[Speed]":
    """The speed of all settings; they are counted on standard error meanwhile."""
    from kneegrade.speed import measured_speeds

    speeds = []
    for each in measured_speeds():
        speeds.append(each)
        typer.echo(f"\rMeasured {len(speeds)} settings …", nl=False, err=True)
    typer.echo("\r" + " " * 30 + "\r", nl=False, err=True)
    return speeds


def _print_speeds(speeds: "list[Speed]") -> None:
    from kneegrade.speed import recommended

    typer.echo("\nMilliseconds a knee on the CPU, from pixels to grades (median):")
    typer.echo(f"{'runtime':10} {'precision':10} {'threads':>7} {'ms':>7}")
    for each in speeds:
        typer.echo(f"{each.runtime:10} {each.precision:10} {each.threads:7} {each.ms:7.0f}")
    best = recommended(speeds)
    if (best.runtime, best.precision) == ("torch", "float32"):
        typer.echo(
            "For many films use the default, --runtime torch --precision float32: nothing else is clearly faster."
        )
    else:
        typer.echo(f"For many films use --runtime {best.runtime} --precision {best.precision}.")
    if best.precision == "bf16":
        typer.echo("bf16 changes some grade of about 3 in 100 knees; stay with one precision in a study.")
    if len({each.runtime for each in speeds}) == 1:
        typer.echo('OpenVINO was not measured, because it is not installed: pip install "kneegrade[openvino]".')

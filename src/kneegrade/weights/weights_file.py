"""Weights on disk: a safetensors file and a JSON sidecar of the same name that describes it and holds its SHA-256.

No pickle anywhere: nothing in these files can run.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kneegrade.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

SHIPPED = {"grader": "kneegrade-taught", "detector": "detector"}


@dataclass(frozen=True, eq=False)
class Weights:
    """Checked weights.

    Attributes:
        name: as the sidecar says.
        sha256: of the safetensors file, checked.
        tensors: float tensors in float32.
        description: the whole sidecar.
    """

    name: str
    sha256: str
    tensors: Mapping[str, "Tensor"]
    description: Mapping[str, Any]

    def part(self, prefix: str) -> dict[str, "Tensor"]:
        """The tensors below `prefix.`, without it."""
        start = prefix + "."
        return {key[len(start) :]: value for key, value in self.tensors.items() if key.startswith(start)}


def shipped_path(kind: str) -> Path:
    """Path of the packaged weights of one kind, "grader" or "detector"."""
    return Path(str(files("kneegrade").joinpath(f"weights/{SHIPPED[kind]}.safetensors")))


def read_description(path: Path) -> dict[str, Any]:
    """The sidecar of a safetensors file, without reading the weights.

    Raises:
        WeightsError: no sidecar, or one that is not a JSON object with `name`, `kind` and `sha256`.
    """
    sidecar = path.with_suffix(".json")
    try:
        description = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"The weights' description {sidecar.name} is missing or is not JSON.") from error
    if not isinstance(description, dict) or not {"name", "kind", "sha256"} <= description.keys():
        raise WeightsError(f"The weights' description {sidecar.name} lacks name, kind or sha256.")
    return description


def load_weights(path: Path, kind: str) -> Weights:
    """Weights of `kind` from `path`, their checksum verified before anything is parsed.

    Raises:
        WeightsError: missing or damaged file, another kind, or a checksum that differs by as little as one bit.
    """
    from safetensors.torch import load

    description = read_description(path)
    if description["kind"] != kind:
        raise WeightsError(f"{path.name} holds {description['kind']} weights, expected {kind} weights.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"The weights {path.name} are missing; install them again.") from error
    found = hashlib.sha256(data).hexdigest()
    if found != description["sha256"]:
        raise WeightsError(
            f"The weights {path.name} are damaged: their SHA-256 starts with {found[:12]}, "
            f"{description['sha256'][:12]} was expected. Install them again."
        )
    return Weights(description["name"], found, unpacked(load(data)), description)


def load_part(
    network: "nn.Module", held: Weights, prefix: str, renamed: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Load the tensors below `prefix.` into a network.

    Args:
        network: the module to fill.
        held: checked weights.
        prefix: of the tensors' names.
        renamed: first part of a name in files of earlier versions → its present name.

    Raises:
        WeightsError: they are not this network's.
    """
    state = {}
    for key, value in held.part(prefix).items():
        first, _, rest = key.partition(".")
        state[f"{renamed[first]}.{rest}" if first in renamed else key] = value
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"The weights {held.name} do not fit this version of kneegrade.") from error


def identity_of(description: Mapping[str, Any]) -> dict[str, str]:
    """Name and SHA-256 of described weights, for what refers to them."""
    return {key: description[key] for key in ("name", "sha256")}


def packed(tensors: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """The tensors as a file holds them, on the CPU.

    Weights of convolutions and linear layers (names ending in `weight`, two axes or more) are in bfloat16, all else as
    it is; what normalisations count batches with is left out.
    """
    import torch

    return {
        key: (t.to(torch.bfloat16) if key.endswith("weight") and t.ndim >= 2 else t).contiguous().cpu()
        for key, t in tensors.items()
        if not key.endswith("num_batches_tracked")
    }


def unpacked(tensors: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """The tensors as `load_weights` gives them, from those that a file holds: float tensors in float32.

    `unpacked(packed(state))` is what a network has after it was saved and loaded. Whatever is measured of a network or
    fitted to it is taken from it in that state.
    """
    return {key: t.float() if t.is_floating_point() else t for key, t in tensors.items()}


def save_weights(path: Path, tensors: Mapping[str, "Tensor"], description: Mapping[str, Any]) -> str:
    """Write `path` and its sidecar, each to a temporary file first; the SHA-256 comes back.

    The file holds `packed(tensors)`.
    """
    from safetensors.torch import save

    data = save(packed(tensors))
    digest = hashlib.sha256(data).hexdigest()
    sidecar = json.dumps({**description, "sha256": digest}, indent=1, ensure_ascii=False) + "\n"
    for target, content in ((path, data), (path.with_suffix(".json"), sidecar.encode())):
        partial = target.with_name(target.name + ".tmp")
        partial.write_bytes(content)
        os.replace(partial, target)
    return digest

"""Weights on disk: a safetensors file, and a JSON sidecar of the same name with its description and both SHA-256.

No pickle is involved: loading these files cannot execute code.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kneegrade.errors import WeightsError
from kneegrade.files import replacing

if TYPE_CHECKING:
    from torch import Tensor, nn

SHIPPED = {"grader": "kneegrade-lite0", "detector": "detector", "markers": "markers"}  # kind -> file stem
REQUIRED = ("name", "kind", "sha256")  # texts in every sidecar
DESCRIPTION_SHA256 = "description_sha256"  # key of the sidecar's own checksum


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights whose checksum was verified.

    Attributes:
        name: name in the sidecar.
        sha256: SHA-256 of the safetensors file, verified.
        tensors: tensors by name; floating-point tensors are float32.
        description: content of the sidecar.
    """

    name: str
    sha256: str
    tensors: Mapping[str, "Tensor"]
    description: Mapping[str, Any]

    def part(self, prefix: str) -> dict[str, "Tensor"]:
        """The tensors whose names begin with `prefix.`, with the prefix removed from the names."""
        start = prefix + "."
        return {key[len(start) :]: value for key, value in self.tensors.items() if key.startswith(start)}


def shipped_path(kind: str) -> Path:
    """Path of the weights shipped with the package, of kind "grader", "detector" or "markers"."""
    return Path(str(files("kneegrade").joinpath(f"weights/{SHIPPED[kind]}.safetensors")))


def read_description(path: Path) -> dict[str, Any]:
    """The content of the sidecar of the safetensors file `path`; the weights are not read.

    Raises:
        WeightsError: the sidecar is missing, is not a JSON object with the texts `name`, `kind` and `sha256`, or its
            content does not have the checksum that it states.
    """
    if not path.name or (path.exists() and not path.is_file()):  # a folder, a pipe or a device
        raise WeightsError(f"The weights {path} are not a regular file; give a safetensors file.")
    sidecar = path.with_suffix(".json")
    if sidecar.exists() and not sidecar.is_file():
        raise WeightsError(f"The description of the weights, {sidecar.name}, is not a regular file; give another one.")
    try:
        description = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"The description of the weights, {sidecar.name}, is missing or is not valid JSON; install the weights "
            "again."
        ) from error
    if not isinstance(description, dict) or not all(isinstance(description.get(key), str) for key in REQUIRED):
        raise WeightsError(
            f"The description of the weights, {sidecar.name}, lacks name, kind or sha256; install the weights again."
        )
    digest = description.pop(DESCRIPTION_SHA256, None)
    if digest is not None and digest != description_sha256(description):  # earlier versions wrote none
        raise WeightsError(
            f"The description of the weights, {sidecar.name}, is damaged or was edited: its content does not have the "
            "SHA-256 that it states; install the weights again."
        )
    return description


def description_sha256(description: Mapping[str, Any]) -> str:
    """The SHA-256 of the content of a sidecar without its own checksum; layout and order of the keys do not matter."""
    content = {key: value for key, value in description.items() if key != DESCRIPTION_SHA256}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load_weights(path: Path, kind: str) -> Weights:
    """The weights in `path`, with the checksum verified before anything is parsed.

    Args:
        path: safetensors file with a JSON sidecar.
        kind: expected kind, "grader", "detector", "implants" or "markers".

    Raises:
        WeightsError: the file or its sidecar is missing or damaged, the kind is another one, or the checksum differs.
    """
    from safetensors.torch import load

    description = read_description(path)
    if description["kind"] != kind:
        raise WeightsError(f"{path.name} contains {description['kind']} weights; expected {kind} weights.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"The weights file {path.name} is missing or cannot be read; install it again.") from error
    found = hashlib.sha256(data).hexdigest()
    if found != description["sha256"]:
        raise WeightsError(
            f"The weights file {path.name} is damaged: its SHA-256 starts with {found[:12]}, expected "
            f"{description['sha256'][:12]}; install it again."
        )
    try:
        tensors = load(data)
    except Exception as error:  # its type depends on what the file is instead
        raise WeightsError(f"{path.name} is not a safetensors file; give a file that kneegrade has written.") from error
    return Weights(description["name"], found, unpacked(tensors), description)


def load_part(
    network: "nn.Module", weights: Weights, prefix: str, renamed: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Load the tensors whose names begin with `prefix.` into a network.

    Args:
        network: the module that receives the tensors.
        weights: verified weights.
        prefix: first part of the tensor names.
        renamed: first part of a name in files of earlier versions -> its current name.

    Raises:
        WeightsError: names or shapes do not match the network.
    """
    state = {}
    for key, value in weights.part(prefix).items():
        first, _, rest = key.partition(".")
        state[f"{renamed[first]}.{rest}" if first in renamed else key] = value
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(
            f"The weights {weights.name} do not fit this version of kneegrade; install matching weights."
        ) from error


def weights_reference(description: Mapping[str, Any]) -> dict[str, str]:
    """Name and SHA-256 from a description, by which other files refer to these weights."""
    return {key: description[key] for key in ("name", "sha256")}


def packed(tensors: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """The tensors in the form that is stored in a file, contiguous and on the CPU.

    Weights of convolutions and linear layers (names that end in `weight`, two or more axes) become bfloat16; other
    tensors keep their dtype. The batch counters of normalisation layers (`num_batches_tracked`) are dropped.
    """
    import torch

    return {
        key: (t.to(torch.bfloat16) if key.endswith("weight") and t.ndim >= 2 else t).contiguous().cpu()
        for key, t in tensors.items()
        if not key.endswith("num_batches_tracked")
    }


def unpacked(tensors: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Stored tensors in the form that `load_weights` returns: floating-point tensors as float32.

    `unpacked(packed(state))` is the state of a network after saving and loading. Measurements and calibration use the
    network in that state, because it includes the rounding to bfloat16.
    """
    return {key: t.float() if t.is_floating_point() else t for key, t in tensors.items()}


def save_weights(path: Path, tensors: Mapping[str, "Tensor"], description: Mapping[str, Any]) -> str:
    """Write `packed(tensors)` to `path` and the description to its sidecar, each atomically.

    Args:
        path: safetensors file to write.
        tensors: tensors by name.
        description: content of the sidecar; `sha256` is added.

    Returns:
        SHA-256 of the safetensors file.

    Raises:
        UsageError: a file cannot be written.
    """
    from safetensors.torch import save

    data = save(packed(tensors))
    digest = hashlib.sha256(data).hexdigest()
    about = {**description, "sha256": digest}
    about[DESCRIPTION_SHA256] = description_sha256(json.loads(json.dumps(about)))  # as it will be read
    sidecar = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
    for target, content in ((path, data), (path.with_suffix(".json"), sidecar.encode())):
        with replacing(target, "wb") as stream:
            stream.write(content)
    return digest

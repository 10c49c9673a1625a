"""Several trained networks as one weights file: an ensemble that averages them."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from kneegrade.errors import WeightsError
from kneegrade.network import Ensemble, model_config_of
from kneegrade.training.fit import base_name
from kneegrade.uncertainty import Calibration
from kneegrade.uncertainty.postprocess import CALIBRATION
from kneegrade.weights import Weights, load_weights, save_weights


def combine_weights(paths: Sequence[Path], output: Path) -> str:
    """Write the ensemble of several graders' networks; return the SHA-256 of the file.

    The ensemble has no calibration (temperatures 1, biases 0) and no quality control, because those of a member are not
    those of the mean. The mixture for coherence is that of the first member. Licences that differ are joined as an SPDX
    expression (A AND B), and the licence is null if a member states none.

    Args:
        paths: safetensors files of two or more single networks with the same pooling and softmax heads.
        output: safetensors file; its description is written beside it.

    Raises:
        WeightsError: a file is missing or damaged, contains an ensemble, or the networks cannot be averaged.
    """
    parts = [load_weights(path, "grader") for path in paths]
    if any("members" in part.description for part in parts):
        raise WeightsError("An ensemble cannot be a member of another ensemble; name the weights of single networks.")
    configs = [model_config_of(part) for part in parts]
    try:
        config = Ensemble(configs).config
    except ValueError as error:
        raise WeightsError(f"These weights cannot be combined: {error}.") from error
    tensors = {f"mixture.{key}": value for key, value in parts[0].part("mixture").items()}
    tensors |= {f"{CALIBRATION}.{key}": value for key, value in Calibration().state_dict().items()}
    for number, part in enumerate(parts):
        tensors |= {f"network.members.{number}.{key}": value for key, value in part.part("network").items()}
    name = base_name(parts[0].description)
    return save_weights(output, tensors, {
        "name": f"{name}-ensemble", "kind": "grader", "licence": _licence(parts),
        "attribution": _attributions(parts), "learnt_from": _learnt_from(parts), "model": asdict(config),
        "members": [asdict(each) for each in configs],
        "member_weights": [{"name": part.name, "sha256": part.sha256} for part in parts],
    })  # fmt: skip


def _attributions(parts: Sequence[Weights]) -> list[str]:
    """The attributions of all members, each once."""
    return list(dict.fromkeys(line for part in parts for line in part.description.get("attribution") or ()))


def _licence(parts: Sequence[Weights]) -> str | None:
    """The licences of all members, each once; None if a member states none."""
    licences = [part.description.get("licence") for part in parts]
    return " AND ".join(dict.fromkeys(map(str, licences))) if all(licences) else None


def _learnt_from(parts: Sequence[Weights]) -> str | None:
    """The sentences about the training data of all members, each once; None if no member has one."""
    sentences = [part.description.get("learnt_from") for part in parts]
    if not any(sentences):
        return None
    stated = [each or f"{part.name}: not stated." for each, part in zip(sentences, parts, strict=True)]
    return " ".join(dict.fromkeys(stated))

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch

from kneegrade.errors import WeightsError
from kneegrade.weights import load_weights, packed, save_weights, shipped_path, unpacked


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "w.safetensors"
    tensors = {"a.weight": torch.randn(4, 4).bfloat16().float(), "a.bias": torch.randn(4)}
    save_weights(path, tensors, {"name": "w", "kind": "grader"})
    return path, tensors


def test_saved_weights_are_loaded_unchanged(saved):
    path, tensors = saved
    weights = load_weights(path, "grader")
    assert weights.name == "w"
    for key, value in weights.part("a").items():
        torch.testing.assert_close(value, tensors[f"a.{key}"], rtol=0, atol=0)


def test_loaded_tensors_equal_unpacked_packed_tensors(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "conv.weight": torch.randn(4, 3, 3, 3, generator=generator).to(memory_format=torch.channels_last),
        "norm.weight": torch.randn(4, generator=generator),
        "norm.num_batches_tracked": torch.tensor(7),
        "bias": torch.randn(4, 4, generator=generator),
        "visible": torch.ones(3, dtype=torch.bool),
    }
    weights = packed(tensors)
    assert {key: value.dtype for key, value in weights.items()} == {
        "conv.weight": torch.bfloat16, "norm.weight": torch.float32, "bias": torch.float32, "visible": torch.bool,
    }  # fmt: skip
    save_weights(tmp_path / "w.safetensors", tensors, {"name": "w", "kind": "grader"})
    loaded = load_weights(tmp_path / "w.safetensors", "grader").tensors
    assert loaded.keys() == weights.keys()
    for key, value in unpacked(weights).items():
        assert torch.equal(loaded[key], value), key
    assert not torch.equal(loaded["conv.weight"], tensors["conv.weight"])


@pytest.mark.parametrize("position", [0, 10, -1])
def test_a_flipped_bit_is_detected(saved, position):
    path, _ = saved
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"damaged.*SHA-256"):
        load_weights(path, "grader")


def test_wrong_kind_missing_file_and_invalid_description_are_errors(saved):
    path, _ = saved
    with pytest.raises(WeightsError, match="detector"):
        load_weights(path, "detector")
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(WeightsError, match="missing"):
        load_weights(path, "grader")
    path.write_bytes(data)
    path.with_suffix(".json").write_text("[]")
    with pytest.raises(WeightsError, match="description"):
        load_weights(path, "grader")
    path.with_suffix(".json").unlink()
    with pytest.raises(WeightsError, match="description"):
        load_weights(path, "grader")


def test_a_folder_or_a_pipe_in_place_of_weights_is_an_error_at_once(saved):
    path, _ = saved
    for wrong in (Path(), Path(".."), path.parent):
        with pytest.raises(WeightsError, match="not a regular file"):
            load_weights(wrong, "grader")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(WeightsError, match="not a regular file"):
        load_weights(path, "grader")


@pytest.mark.parametrize("kind", ["grader", "detector", "markers"])
def test_shipped_weights_are_valid_attributed_and_below_20_mb(kind):
    path = shipped_path(kind)
    weights = load_weights(path, kind)
    assert path.stat().st_size <= 20e6
    assert any("CC BY 4.0" in line for line in weights.description["attribution"])
    assert weights.description["licence"] == "Apache-2.0"
    assert "recipe" in weights.description
    assert '"/' not in json.dumps(weights.description)  # no absolute path of the machine that trained them


def test_an_edited_description_is_refused_and_one_without_checksum_is_read(saved):
    path, _ = saved
    sidecar = path.with_suffix(".json")
    about = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps(about | {"name": "x"}))
    with pytest.raises(WeightsError, match="edited"):
        load_weights(path, "grader")
    del about["description_sha256"]  # as earlier versions wrote it
    sidecar.write_text(json.dumps(about))
    assert load_weights(path, "grader").description == about


def test_another_file_with_the_right_checksum_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    torch.save({"a": torch.zeros(2)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps({"name": "w", "kind": "grader", "sha256": digest}))
    with pytest.raises(WeightsError, match="not a safetensors file"):
        load_weights(path, "grader")

"""Promise 5: weights are what they say. A changed file of weights or its changed description is refused."""

import hashlib
import json
import pickle
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from attack_tools import SEED, say, tries
from safetensors.torch import load, save

from kneegrade.errors import WeightsError
from kneegrade.grader import Grader
from kneegrade.weights import shipped_path
from kneegrade.weights.weights_file import DESCRIPTION_SHA256, description_sha256

SHIPPED = shipped_path("grader")
DATA, SIDECAR = SHIPPED.read_bytes(), SHIPPED.with_suffix(".json").read_text(encoding="utf-8")
ABOUT = json.loads(SIDECAR)
Change = Callable[[Path, random.Random], None]


def described(path: Path, data: bytes) -> None:
    """Write weights with a sidecar whose checksums are right, as one who wants to deceive would."""
    path.unlink()
    path.write_bytes(data)
    about = {**ABOUT, "sha256": hashlib.sha256(data).hexdigest()}
    rewrite(path, about | {DESCRIPTION_SHA256: description_sha256(about)})


def rewrite(path: Path, about: object) -> None:
    path.with_suffix(".json").write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")


def flip_weights(path: Path, dice: random.Random) -> None:
    data = bytearray(DATA)
    data[dice.randrange(len(data) if dice.random() < 0.5 else 4000)] ^= 1 << dice.randrange(8)
    path.unlink()
    path.write_bytes(data)


def flip_sidecar(path: Path, dice: random.Random) -> None:
    """One byte of the description changed so that its content differs, if it still can be read."""
    data, is_same = bytearray(), True
    while is_same or DESCRIPTION_SHA256.encode() not in data:  # without its name the checksum is that of no content
        data = bytearray(SIDECAR.encode())
        data[dice.randrange(len(data))] = dice.randrange(32, 127) if dice.random() < 0.7 else dice.randrange(256)
        try:
            is_same = {**json.loads(data.decode()), DESCRIPTION_SHA256: 0} == {**ABOUT, DESCRIPTION_SHA256: 0}
        except ValueError:
            is_same = False
    path.with_suffix(".json").write_bytes(data)


def truncate(path: Path, dice: random.Random) -> None:
    if dice.random() < 0.5:
        path.unlink()
        path.write_bytes(DATA[: dice.randrange(len(DATA))])
    else:
        path.with_suffix(".json").write_text(SIDECAR[: dice.randrange(len(SIDECAR) - 2)], encoding="utf-8")


def change_value(path: Path, dice: random.Random) -> None:
    """Another value somewhere in the description, or a key less."""
    about = json.loads(SIDECAR)
    node = about
    while True:
        key = dice.choice(list(node))
        if key == DESCRIPTION_SHA256:
            continue
        if not isinstance(node[key], dict) or not node[key] or dice.random() < 0.3:
            break
        node = node[key]
    if dice.random() < 0.4:
        del node[key]
    else:
        node[key] = dice.choice([value for value in (None, [], {}, "x", -1, 1e308, True, ["x"]) if value != node[key]])
    rewrite(path, about)


def odd_sidecar(path: Path, dice: random.Random) -> None:
    odd = [b"", b"[]", b"null", b"NaN", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"9" * 5000, DATA[:5000],
           b'{"name": 1, "kind": "grader", "sha256": 2}', b'{"name": "a", "kind": ["grader"], "sha256": "b"}'
          ]  # fmt: skip
    path.with_suffix(".json").write_bytes(dice.choice(odd))


def renamed_pickle(path: Path, dice: random.Random) -> None:
    """A pickle that would write a file, under the name of weights, with right checksums."""

    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (path.parent / "executed",)

    described(path, pickle.dumps(Harmful(), protocol=dice.randrange(6)))


def renamed_checkpoint(path: Path, dice: random.Random) -> None:
    torch.save(load(DATA), path.parent / "weights.pt")
    described(path, (path.parent / "weights.pt").read_bytes())


def changed_header(path: Path, dice: random.Random) -> None:
    """Another length of the safetensors header, or another byte in it, with right checksums."""
    if dice.random() < 0.3:
        described(path, struct.pack("<Q", dice.choice([0, 1, 1 << 20, 1 << 62, (1 << 64) - 1])) + DATA[8:])
    else:
        end = 8 + int(struct.unpack_from("<Q", DATA)[0])
        at = dice.randrange(8, end)
        while DATA[at : at + 1].isspace():
            at = dice.randrange(8, end)
        described(path, DATA[:at] + b"~" + DATA[at + 1 :])


def changed_tensors(path: Path, dice: random.Random) -> None:
    """A tensor of the network missing, of another shape or under another name, with right checksums."""
    tensors = load(DATA)
    key = dice.choice([key for key in tensors if key.startswith("network.")])
    tensor = tensors.pop(key)
    change = dice.randrange(3)
    if change:
        tensors[f"{key}x" if change == 1 else key] = torch.cat([tensor.reshape(1, -1)] * 2)
    described(path, save(tensors))


def other_weights(path: Path, dice: random.Random) -> None:
    """A link to other weights, to a folder, a device or nothing in place of the file or of its description."""
    target = dice.choice([shipped_path("detector"), shipped_path("markers"), Path("/dev/zero"), Path("/"), Path("/no")])
    changed = path if dice.random() < 0.5 else path.with_suffix(".json")
    changed.unlink()
    is_weights = target.suffix == ".safetensors"
    changed.symlink_to(target.with_suffix(changed.suffix) if is_weights else target)


CHANGES: dict[Change, int] = {
    flip_weights: 4, flip_sidecar: 6, truncate: 2, change_value: 6, odd_sidecar: 2, renamed_pickle: 1,
    renamed_checkpoint: 1, changed_header: 2, changed_tensors: 2, other_weights: 3,
}  # fmt: skip


def refusal(folder: Path, change: Change, number: int) -> str:
    """The sentence with which the changed weights are refused; anything else is an error."""
    path = folder / f"{number}" / "weights.safetensors"
    path.parent.mkdir()
    path.symlink_to(SHIPPED)
    path.with_suffix(".json").write_text(SIDECAR, encoding="utf-8")
    change(path, random.Random(SEED * 1000 + number))
    try:
        Grader("cpu", path)
    except WeightsError as error:
        assert "\n" not in error.message  # noqa: PT017
        assert not (path.parent / "executed").exists()
        return error.message
    finally:
        shutil.rmtree(path.parent)
    raise AssertionError(f"{number}: changed weights ({change.__name__}) were loaded")


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    changes = [change for change, share in CHANGES.items() for _ in range(share)]
    count, faults = tries(200, len(changes)), []
    for number in range(count):
        change = changes[number % len(changes)]
        try:
            refusal(tmp_path, change, number)
        except Exception as error:
            faults.append(f"{number} {change.__name__}: {type(error).__name__}: {error}"[:300])
    say(5, f"{count} changes of weights and their description: {count - len(faults)} refused in a sentence")
    assert faults == []


def test_unchanged_weights_are_loaded_so_that_a_loaded_change_would_be_seen(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="were loaded"):
        refusal(tmp_path, lambda path, dice: None, 0)
    with pytest.raises(AssertionError, match="were loaded"):  # only the layout differs
        refusal(tmp_path, lambda path, dice: rewrite(path, dict(reversed(ABOUT.items()))), 1)

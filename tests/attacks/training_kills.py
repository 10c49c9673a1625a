"""A small training that is killed again and again, as a program: `training_kills.py FOLDER KILLS FULL_DISKS [PLANT]`.

Prints one JSON object: what became of the runs, and whether the losses and weights are those of an undisturbed run.
PLANT is a fault that must be seen: "average" or "optimizer" is missing in checkpoints, or they are written "in place".

Runs are forked from this process, which has imported torch, because a start takes longer than the training.
"""

import io
import json
import os
import pickle
import random
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from kneegrade.errors import KneeGradeError
from kneegrade.training import trainer
from kneegrade.training.phantom_datasets import build_phantom_dataset
from kneegrade.training.train_grader import train_recipe

SEED = 24
EPOCHS = 6
LAST_SAVED: dict[int, float] = {}  # moment of the last checkpoint of a process that writes them in place


def recipe_in(folder: Path) -> Path:
    """A recipe that trains a small network on 24 phantom knees."""
    build_phantom_dataset(folder / "knees", 24, "uniform", seed=5, extent_in_plateau_widths=1.5)
    recipe = {
        "name": "tiny",
        "data": {"datasets": [str(folder / "knees")], "calibration_share": 0.25, "labelled_share": 0.7},
        "model": {"trunk": "resnet18", "reduce": 8, "roi_px": 64},
        "loss": {"warmup_epochs": 1, "grades_from": "packaged"},
        "augmentation": {"log_gamma": 0.2, "noise": 0.02, "landmark_dropout": 0.1},
        "train": {"epochs": EPOCHS, "batch_size": 6, "unlabelled_batch_size": 4, "ema": 0.9, "bf16": False},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def started(recipe: Path, output: Path, largest_file: int | None = None) -> int:
    """The process id of a run that resumes; it ends with 0 when it is finished, with 3 when it was refused."""
    pid = os.fork()
    if pid:
        return pid
    status = 9
    try:
        if largest_file is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
        status = 0 if train_recipe(recipe, output, resume=True) else 1
    except KneeGradeError as error:
        status = 3 if "\n" not in error.message else 4
    finally:
        os._exit(status)


def ended(pid: int) -> int:
    """The exit status of a run; 128 and more for signals."""
    _, status = os.waitpid(pid, 0)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def losses(output: Path) -> list[dict[str, object]]:
    """The log without times."""
    entries = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key != "time"} for entry in entries]


def lost_steps(output: Path) -> int:
    """Steps that were logged and are not in the checkpoint."""
    try:
        lines = (output / "log.jsonl").read_text().splitlines()
        logged = max(int(json.loads(line)["step"]) for line in lines if line.endswith("}"))
        (checkpoint,) = output.glob("*.pt")
        saved = int(torch.load(checkpoint, weights_only=True)["step"])
    except (OSError, ValueError, EOFError, RuntimeError, pickle.UnpicklingError):  # a damaged one is refused later
        return 0
    return max(0, logged - saved)


def wait_for_steps(output: Path, seconds: float) -> None:
    """Wait until a run has logged something, at most so long."""
    log, end = output / "log.jsonl", time.monotonic() + seconds
    before = log.stat().st_mtime_ns if log.exists() else 0
    while time.monotonic() < end and not (log.exists() and log.stat().st_mtime_ns > before):
        time.sleep(0.005)


def plant(fault: str) -> None:
    """Checkpoints lose a part, or are written in place and slowly."""
    save, load = trainer.save_checkpoint, trainer.load_checkpoint
    if fault == "in place":
        trainer.save_checkpoint = save_in_place
        return

    def without(parts: dict[str, object]) -> dict[str, object]:
        return {name: part for name, part in parts.items() if name != fault}

    trainer.save_checkpoint = lambda path, text, step, parts: save(path, text, step, without(parts))
    trainer.load_checkpoint = lambda path, text, parts: load(path, text, without(parts))


def save_in_place(path: Path, identity: str, step: int, parts: dict[str, Any]) -> None:
    """Write a checkpoint over the last one, in two halves, so slowly that it takes as long as the training."""
    state = {name: part.state_dict() for name, part in parts.items() if part is not None}
    content = io.BytesIO()
    torch.save({"recipe": identity, "step": step, "state": state}, content)
    middle = len(content.getvalue()) // 2
    with path.open("wb", buffering=0) as stream:
        stream.write(content.getvalue()[:middle])
        time.sleep(time.monotonic() - LAST_SAVED.get(os.getpid(), time.monotonic() - 0.3))  # half of the time
        stream.write(content.getvalue()[middle:])
    LAST_SAVED[os.getpid()] = time.monotonic()


def main(folder: Path, kills: int, full_disks: int) -> None:
    """Train undisturbed, then with kills and full disks, and compare."""
    torch.set_num_threads(1)
    recipe, whole, output = recipe_in(folder), folder / "whole", folder / "killed"
    start = time.monotonic()
    assert ended(started(recipe, whole)) == 0
    whole_seconds = time.monotonic() - start
    expected, weights = losses(whole), (whole / "weights.safetensors").read_bytes()
    size = next(whole.glob("*.pt")).stat().st_size
    dice, found = random.Random(SEED), {"killed": 0, "disk full": 0, "finished": 0, "other": 0, "with a checkpoint": 0}
    lost, differing = 0, 0
    for is_disk in dice.sample([False] * kills + [True] * full_disks, kills + full_disks):
        pid = started(recipe, output, dice.randrange(1000, size) if is_disk else None)
        if not is_disk:
            if dice.random() < 0.8:
                wait_for_steps(output, whole_seconds)
            time.sleep(dice.random() * 0.5 * whole_seconds)
            os.kill(pid, signal.SIGKILL)
        status = ended(pid)
        found[{0: "finished", 137: "killed", 3: "disk full" if is_disk else "other"}.get(status, "other")] += 1
        lost = max(lost, lost_steps(output))
        found["with a checkpoint"] += bool(list(output.glob("*.pt")))
        if status == 0 or (output / "weights.safetensors").exists():  # start again
            differing += (losses(output), (output / "weights.safetensors").read_bytes()) != (expected, weights)
            output.rename(folder / f"done{len(list(folder.iterdir()))}")
    status = ended(started(recipe, output))
    found["other"] += status != 0  # it cannot be resumed
    differing += status == 0 and (losses(output), (output / "weights.safetensors").read_bytes()) != (expected, weights)
    left = [path.name for path in output.glob(".*.tmp")]
    steps = max(int(str(entry["step"])) for entry in expected) // EPOCHS
    print(json.dumps(found | {"differing": differing, "lost_steps": lost, "steps_per_epoch": steps, "left": left}))


if __name__ == "__main__":
    for planted in sys.argv[4:]:
        plant(planted)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

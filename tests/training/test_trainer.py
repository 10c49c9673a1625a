import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kneegrade.errors import RecipeError
from kneegrade.training.config import Recipe
from kneegrade.training.run_log import RunLog
from kneegrade.training.train_grader import GraderTask
from kneegrade.training.trainer import LoopSettings, TrainingTask, learning_rate_factor, make_scheduler, train


def tiny(dataset: Path, **settings) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tiny",
            "data": {"datasets": [str(dataset)], "calibration_share": 0.25, "labelled_share": 0.7},
            "model": {"trunk": "resnet18", "reduce": 8, "roi_px": 64},
            "loss": {"warmup_epochs": 1, "grades_from": "packaged"},
            "augmentation": {"log_gamma": 0.2, "noise": 0.02, "landmark_dropout": 0.1},
            "train": {"epochs": 2, "batch_size": 6, "unlabelled_batch_size": 4, "ema": 0.9, "bf16": False, **settings},
        }
    )


class LineFit(TrainingTask):
    """y = 2 x, learned by one linear layer."""

    name, identity = "line", "line"

    def __init__(self, **settings):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = torch.nn.Linear(1, 1)
        defaults = {"epochs": 2, "steps_per_epoch": 30, "learning_rate": 0.1, "schedule": "cosine", "weight_decay": 0.0}
        self.settings = LoopSettings(**defaults | settings)

    def batch(self, epoch, step):
        x = torch.rand(8, 1, generator=torch.Generator().manual_seed(100 * epoch + step))
        return (x,), (2 * x,)

    def losses(self, output, labels, epoch):
        return {"loss": (output - labels[0]).square().mean()}


def terminate_at(step: int):
    """Progress callback that sends SIGTERM to this process."""

    def progress(done: int, total: int, loss: float | None) -> None:
        if done == step:
            signal.raise_signal(signal.SIGTERM)

    return progress


def log_of(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]


def test_a_grader_run_that_sigterm_stops_resumes_bit_for_bit(phantom_dataset, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    stopped.mkdir()
    uninterrupted = GraderTask(tiny(phantom_dataset), whole)
    assert train(uninterrupted, whole)

    assert not train(GraderTask(tiny(phantom_dataset), stopped), stopped, progress=terminate_at(3))
    resumed = GraderTask(tiny(phantom_dataset), stopped)
    assert train(resumed, stopped, resume=True)
    expected = uninterrupted.network.state_dict()
    for key, value in resumed.network.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)


@pytest.mark.parametrize("schedule", ["paper", "cosine", "cosine_to_zero", "one_cycle"])
def test_every_schedule_resumes_bit_for_bit(tmp_path, schedule):
    uninterrupted, resumed = LineFit(schedule=schedule), LineFit(schedule=schedule)
    assert train(uninterrupted)
    assert not train(LineFit(schedule=schedule), tmp_path, progress=terminate_at(41))
    assert train(resumed, tmp_path, resume=True)
    assert torch.equal(resumed.network.weight, uninterrupted.network.weight)
    steps = [entry["step"] for entry in log_of(tmp_path)]
    assert steps == [1, 21, 30, 31, 51, 60]


def test_a_run_without_a_directory_writes_nothing_and_leaves_the_signal_handler(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    handlers = []
    assert train(LineFit(), progress=lambda *_: handlers.append(signal.getsignal(signal.SIGTERM)))
    assert set(handlers) == {before}
    assert list(tmp_path.iterdir()) == []


def test_the_trained_network_has_the_averaged_weights(tmp_path):
    task = LineFit(ema=0.5)
    assert train(task, tmp_path)
    average = torch.load(tmp_path / "line.pt", weights_only=True)["state"]["average"]["state"]
    assert torch.equal(task.network.weight, average["weight"])
    assert not task.network.training


def test_another_recipe_cannot_resume_a_run(phantom_dataset, tmp_path):
    train(GraderTask(tiny(phantom_dataset, epochs=1), tmp_path), tmp_path)
    with pytest.raises(RecipeError, match="another recipe"):
        train(GraderTask(tiny(phantom_dataset, epochs=3), tmp_path), tmp_path, resume=True)


@pytest.mark.parametrize("kind", ["former loop", "other parts", "damaged"])
def test_a_checkpoint_that_this_loop_did_not_write_is_refused(tmp_path, kind):
    """The former loop counted `step` within `epoch`: read as a whole it would repeat the run on trained weights."""
    assert train(LineFit(), tmp_path)
    checkpoint = tmp_path / "line.pt"
    saved = torch.load(checkpoint, weights_only=True)
    if kind == "former loop":
        torch.save({**saved, "epoch": 1, "step": 0}, checkpoint)
    elif kind == "other parts":
        torch.save({**saved, "state": {}}, checkpoint)
    else:
        checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    with pytest.raises(RecipeError, match=r"line\.pt is damaged or was written by another version"):
        train(LineFit(), tmp_path, resume=True)


def test_the_papers_schedule_halves_after_epochs_10_and_30_of_60():
    epochs = (0, 9.99, 10, 29.9, 30, 59)
    assert [learning_rate_factor("paper", epoch, 60) for epoch in epochs] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert learning_rate_factor("paper", 1, 6) == 0.5


def test_one_cycle_is_torchs():
    settings = LineFit(schedule="one_cycle").settings
    optimizers = [torch.optim.AdamW(torch.nn.Linear(1, 1).parameters(), lr=0.1) for _ in range(2)]
    ours = make_scheduler(optimizers[0], settings, 0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizers[1], 0.1, total_steps=60)
    for _ in range(60):
        assert optimizers[0].param_groups[0]["lr"] == optimizers[1].param_groups[0]["lr"]
        assert optimizers[0].param_groups[0]["betas"] == optimizers[1].param_groups[0]["betas"]
        for optimizer, scheduler in zip(optimizers, (ours, theirs), strict=True):
            optimizer.step()
            scheduler.step()


def test_entries_beyond_the_checkpoint_are_removed_on_resuming(tmp_path):
    with RunLog(tmp_path) as log:
        for step in (1, 20, 40):
            log.write(step, {"loss": float(step)})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4')
    with RunLog(tmp_path, steps_done=20) as log:
        log.write(40, {"loss": 7.0, "calibration": {"x/kl": {"kappa": 0.5}}})
    assert [(line["step"], line["loss"]) for line in log_of(tmp_path)] == [(1, 1.0), (20, 20.0), (40, 7.0)]


def test_entries_of_other_networks_are_kept_on_resuming(tmp_path):
    for name in ("coarse", "fine"):
        with RunLog(tmp_path, name=name) as log:
            log.write(1, {"loss": 1.0})
            log.write(40, {"loss": 2.0})
    with RunLog(tmp_path, steps_done=20, name="fine"):
        pass
    assert [(line["network"], line["step"]) for line in log_of(tmp_path)] == [
        ("coarse", 1),
        ("coarse", 40),
        ("fine", 1),
    ]
    assert list((tmp_path / "tensorboard" / "coarse").glob("events*"))


class SameBatch(GraderTask):
    """A task whose batches are all the same."""

    def batch(self, epoch, step):
        return super().batch(0, 0)


@pytest.mark.parametrize(
    "model",
    [
        {"pooling": "global", "stages": 4},
        {"pooling": "siamese", "stages": 4},
        {"pooling": "keypoints+global"},
        {"heads": "ordinal"},
        {"regression": True},
    ],
    ids=lambda model: "-".join(map(str, model.values())),
)
def test_the_loss_on_one_batch_decreases_for_every_kind_of_network(phantom_dataset, tmp_path, model):
    recipe = tiny(phantom_dataset, learning_rate=1e-3, batch_size=12, ema=None).model_dump(mode="json")
    recipe["model"].update(model)
    recipe["loss"].update(lambda_mse=1.0 if "regression" in model else 0.0, lambda_gmm=0.0)
    recipe["augmentation"] = {"translation_px": 0, "rotation_deg": 0, "scale": 0}
    task = SameBatch(Recipe.model_validate(recipe), tmp_path)
    task.settings = replace(task.settings, epochs=20, steps_per_epoch=1, evaluate_epochs=20)
    losses = []
    train(task, progress=lambda done, total, loss: losses.append(loss))
    assert len(losses) == 20
    assert min(losses[-3:]) < 0.9 * losses[0]


def test_frozen_stages_keep_their_weights_and_the_rest_is_trained(phantom_dataset, tmp_path):
    task = GraderTask(tiny(phantom_dataset, frozen_stages=1, epochs=1), tmp_path)
    before = {k: v.clone() for k, v in task.network.state_dict().items()}
    train(task, tmp_path)
    moved = {
        key
        for key, value in task.network.state_dict().items()
        if not torch.equal(value, before[key]) and "running" not in key and "num_b" not in key
    }
    assert not any(key.startswith(("trunk.conv1", "trunk.bn1", "trunk.layer1")) for key in moved)
    assert any(key.startswith("trunk.layer2") for key in moved)
    assert any(key.startswith("heads") for key in moved)

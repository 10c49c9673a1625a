"""The training loop. Every network of kneegrade is trained by `train`, from a `TrainingTask` that plugs into it.

    kneegrade train recipes/shipped.yaml --output runs/grader [--set train.epochs=2] [--resume]
    accelerate launch --multi_gpu --num_processes 8 -m kneegrade train RECIPE --output DIR

A task provides the network, its batches, its loss and its settings: `train_grader.GraderTask` for the grading network,
`train_detector.DetectorTask` for each network of the landmark detector, `train_implants.ImplantTask` for the implant
network.

The run directory receives

- `log.jsonl`: a line every 20 steps and after every evaluation, and the same numbers in `tensorboard/`;
- `<task.name>.pt`: the checkpoint, written after every epoch, every few minutes, and on SIGTERM. `resume=True`
  continues from it. On one CPU process the result is bit for bit that of an uninterrupted run, because random numbers
  and learning rate are functions of the step.

Without a directory nothing is written, and SIGTERM is not handled.

With several processes (`accelerate launch`) each process draws its own part of every batch, gradients are averaged by
`DistributedDataParallel`, and the first process alone writes files. Device and precision are decided here: device by
`processes`, or "cpu" where a task requires it; precision by `LoopSettings.bf16`.
"""

import copy
import math
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from kneegrade.progress import Progress
from kneegrade.training.checkpoint import ExponentialMovingAverage, load_checkpoint, save_checkpoint
from kneegrade.training.run_log import RunLog

LOG_STEPS = 20
Tensors = tuple[Tensor, ...]
Schedule = Literal["paper", "cosine", "cosine_to_zero", "one_cycle"]


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """Settings of the loop.

    Attributes:
        epochs: number of epochs.
        steps_per_epoch: optimiser steps in an epoch.
        learning_rate: peak learning rate of parameter groups without their own.
        schedule: see `learning_rate_factor`, or "one_cycle" for `torch.optim.lr_scheduler.OneCycleLR`.
        optimiser: "adam" (weight decay as an L2 penalty) or "adamw" (decoupled weight decay).
        weight_decay: of the optimiser.
        clip_norm: largest norm of the gradient; None for no clipping.
        ema: decay of the exponential moving average of the weights; None for none.
        bf16: whether the forward pass runs under bfloat16 autocast.
        cpu: whether to train on the CPU even if there is a GPU.
        checkpoint_minutes: longest time between two checkpoints.
        evaluate_epochs: epochs between two evaluations.
    """

    epochs: int
    steps_per_epoch: int
    learning_rate: float
    schedule: Schedule
    optimiser: Literal["adam", "adamw"] = "adamw"
    weight_decay: float
    clip_norm: float | None = None
    ema: float | None = None
    bf16: bool = False
    cpu: bool = False
    checkpoint_minutes: float = 5.0
    evaluate_epochs: int = 1


class TrainingTask(ABC):
    """A network with all that is needed to train it.

    Attributes:
        name: stem of the checkpoint's file name.
        network: trained in place; in the memory format in which it is trained.
        settings: of the loop.
        identity: a checkpoint can only be resumed by a task of the same identity (the recipe as JSON).
        log_name: name of the network in a log that several tasks share; None if the log is this task's alone.
    """

    name: str
    network: nn.Module
    settings: LoopSettings
    identity: str
    log_name: str | None = None

    @abstractmethod
    def batch(self, epoch: int, step: int) -> tuple[Tensors, Tensors]:
        """Positional inputs of the network, and the labels for `losses`; a function of its arguments if resumable."""

    @abstractmethod
    def losses(self, output: Any, labels: Tensors, epoch: int) -> dict[str, Tensor]:
        """Scalars by name: `loss` is minimised, all are logged."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the optimiser; a group may have its own "lr"."""
        return [{"params": list(self.network.parameters())}]

    def modules(self) -> dict[str, nn.Module]:
        """Further modules that belong to the checkpoint, by name."""
        return {}

    def evaluate(self, network: Any) -> dict[str, Any]:
        """Entries for the log, computed with a copy of the (averaged) network; empty for no evaluation."""
        return {}


def train(
    task: TrainingTask, directory: Path | None = None, *, resume: bool = False, progress: Progress | None = None
) -> bool:
    """Train `task.network` in place; return whether training came to its end.

    The trained network is on the CPU, in evaluation mode, and has the averaged weights if there is a moving average.

    Args:
        task: the network and its data.
        directory: where log and checkpoint are written; None to write nothing.
        resume: continue from the checkpoint in `directory`, if there is one.
        progress: called after every step with (steps done, steps in total, loss or None).

    Returns:
        False if a SIGTERM ended training early. The checkpoint has then been written.

    Raises:
        RecipeError: the checkpoint belongs to another recipe.
    """
    settings, network, state = task.settings, task.network, processes()
    device = torch.device("cpu") if settings.cpu else state.device
    network.to(device)
    model = _distributed(network, state)
    optimizer = make_optimizer(task)
    average = ExponentialMovingAverage(network, settings.ema) if settings.ema else None
    parts = {"network": network, "optimizer": optimizer, "average": average, **task.modules()}
    checkpoint = None if directory is None else directory / f"{task.name}.pt"
    done = load_checkpoint(checkpoint, task.identity, parts) if resume and checkpoint and checkpoint.is_file() else 0
    scheduler = make_scheduler(optimizer, settings, done)
    total, saved = settings.epochs * settings.steps_per_epoch, time.monotonic()
    log_directory = directory if state.is_main_process else None
    with _sigterm_event(directory is not None) as sigterm, RunLog(log_directory, done, task.log_name) as log:
        for step in range(done, total):
            epoch, step_in_epoch = divmod(step, settings.steps_per_epoch)
            epoch_ends = step_in_epoch + 1 == settings.steps_per_epoch

            # One step: forward, backward, update.
            network.train()
            inputs, labels = (tuple(t.to(device) for t in part) for part in task.batch(epoch, step_in_epoch))
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
                output = model(*inputs)
            losses = task.losses(output, labels, epoch)
            optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()  # type: ignore[no-untyped-call]
            if settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
            optimizer.step()
            if average is not None:
                average.update(network)

            # Log; `.item()` waits for the GPU, therefore not at every step.
            logged = step_in_epoch % LOG_STEPS == 0 or epoch_ends
            values = {name: value.item() for name, value in losses.items()} if logged else {}
            if logged:
                log.write(step + 1, {"epoch": epoch, "rate": optimizer.param_groups[0]["lr"], **values})
            if progress:
                progress(step + 1, total, values.get("loss"))
            scheduler.step()

            # Evaluate, save, stop.
            if epoch_ends and ((epoch + 1) % settings.evaluate_epochs == 0 or step + 1 == total):
                entry = task.evaluate(_averaged(network, average))
                if entry:
                    log.write(step + 1, {"epoch": epoch, **entry})
            stopping = _all_processes_stop(sigterm.is_set(), state, device, logged)
            overdue = time.monotonic() - saved > 60 * settings.checkpoint_minutes
            if checkpoint and state.is_main_process and (stopping or epoch_ends or overdue):
                save_checkpoint(checkpoint, task.identity, step + 1, parts)
                saved = time.monotonic()
            if stopping:
                return False
    if average is not None:
        average.copy_to(network)
    network.eval().cpu()
    return True


def processes() -> PartialState:
    """The processes of this run, one or those of `accelerate launch`, and their device: CUDA if available, or CPU."""
    return PartialState(cpu=not torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU"))


def step_generator(*key: int) -> torch.Generator:
    """A random generator that is a function of the key, for example of seed, epoch and step."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


def learning_rate_factor(schedule: Schedule, epoch: float, epochs: int) -> float:
    """Learning rate as a multiple of the peak rate.

    - "paper": halved after epochs 10 and 30 of 60, i.e. after a sixth and a half of the epochs.
    - "cosine": linear warm-up over the first 3 %, then half a cosine, plus 0.001.
    - "cosine_to_zero": the same without the 0.001; the warm-up starts at 0.01.

    Args:
        schedule: one of the above.
        epoch: epochs done, fractional.
        epochs: in total.
    """
    if schedule == "paper":
        return float(0.5 ** ((6 * epoch >= epochs) + (2 * epoch >= epochs)))
    share = epoch / epochs
    cosine = 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    if schedule == "cosine":
        return min(share / 0.03, cosine) + 1e-3
    return min(share / 0.03 + 1e-2, cosine)


def make_scheduler(optimizer: torch.optim.Optimizer, settings: LoopSettings, done: int) -> LRScheduler:
    """Scheduler that is stepped after every optimiser step, `done` steps after the start."""
    if settings.schedule == "one_cycle":
        total = settings.epochs * settings.steps_per_epoch
        return OneCycleLR(optimizer, settings.learning_rate, total_steps=total, last_epoch=done - 1)

    def factor(step: int) -> float:
        epoch, step_in_epoch = divmod(step, settings.steps_per_epoch)
        return learning_rate_factor(
            settings.schedule, epoch + step_in_epoch / settings.steps_per_epoch, settings.epochs
        )

    return LambdaLR(optimizer, factor, last_epoch=done - 1)


def make_optimizer(task: TrainingTask) -> torch.optim.Optimizer:
    """The optimiser of a task's parameter groups."""
    settings = task.settings
    kind = torch.optim.Adam if settings.optimiser == "adam" else torch.optim.AdamW
    return kind(task.parameter_groups(), lr=settings.learning_rate, weight_decay=settings.weight_decay)


def _distributed(network: nn.Module, state: PartialState) -> nn.Module:
    """The network, which averages its gradients over the processes if there are several."""
    if state.num_processes == 1:
        return network
    return DistributedDataParallel(network, device_ids=[state.device] if state.device.type == "cuda" else None)


def _averaged(network: nn.Module, average: ExponentialMovingAverage | None) -> nn.Module:
    """A copy of the network in evaluation mode, with the averaged weights if there are any."""
    network = copy.deepcopy(network)
    if average is not None:
        average.copy_to(network)
    return network.eval()


@contextmanager
def _sigterm_event(active: bool) -> Iterator[threading.Event]:
    """An event that SIGTERM sets while the block runs."""
    received = threading.Event()
    if not active:
        yield received
        return
    previous = signal.signal(signal.SIGTERM, lambda signum, frame: received.set())
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, previous)


def _all_processes_stop(received: bool, state: PartialState, device: torch.device, synchronized: bool) -> bool:
    """Whether to stop after this step.

    Several processes must stop at the same step, else one would wait for the others for ever. They exchange whether any
    of them has received SIGTERM at the steps at which all of them log.
    """
    if state.num_processes == 1:
        return received
    if not synchronized:
        return False
    votes = torch.tensor(float(received), device=device)
    torch.distributed.all_reduce(votes)
    return bool(votes.item() > 0)

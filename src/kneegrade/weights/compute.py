"""`Compute`: device, runtime, precision and CPU threads of the networks. They are decided here and nowhere else.

*Runtime.* torch, or OpenVINO (`kneegrade.weights.openvino_runtime`), for which the networks are converted in memory.

*Precision.* float32 by default. bfloat16 on request: it is faster only on processors with matrix units for it, and on
others slower. `kneegrade info --speed` measures it.

*Threads.* On a CPU, convolutions divide their sums between the threads that they may use, and choose their algorithm
by the number of images in a batch. The last digits of a result would depend on both. In torch, a network therefore
reads one image at a time, on one thread; with several threads, the images of a film are read at the same time.
`one_thread` does the same for the computations around the networks. Results are then bit for bit the same for any
number of threads and any other images. OpenVINO uses all its threads for one image, and its last digits depend on
their number.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any, Literal, get_args

import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn

from kneegrade.errors import UsageError
from kneegrade.weights.inference import choose_device, fuse_batchnorm

Runtime = Literal["torch", "openvino"]
Precision = Literal["float32", "bf16"]


@dataclass(frozen=True)
class Compute:
    """How networks are computed.

    Attributes:
        device: "cpu" or "cuda".
        runtime: "torch" or "openvino".
        precision: "float32" or "bf16" (convolutions in bfloat16).
        threads: CPU threads of the networks; not used on CUDA.
    """

    device: str = "cpu"
    runtime: Runtime = "torch"
    precision: Precision = "float32"
    threads: int = 1

    @classmethod
    def choose(
        cls, device: str = "auto", runtime: str = "torch", precision: str = "float32", threads: int | None = None
    ) -> "Compute":
        """The settings, checked.

        Args:
            device: "auto" (CUDA if available; the CPU for OpenVINO), "cpu" or "cuda".
            runtime: "torch" or "openvino".
            precision: "float32" or "bf16".
            threads: CPU threads; one by default.

        Raises:
            UsageError: an unknown or impossible setting, or OpenVINO is not installed.
        """
        _check("Runtime", runtime, get_args(Runtime))
        _check("Precision", precision, get_args(Precision))
        if threads is not None and threads < 1:
            raise UsageError(f"{threads} threads were asked for; use one or more.")
        if runtime == "openvino":
            from kneegrade.weights.openvino_runtime import check_openvino

            check_openvino()
            if device == "cuda":
                raise UsageError("The runtime openvino computes on the CPU; use --device cpu, or --runtime torch.")
            device = "cpu"
        return cls(choose_device(device), runtime, precision, threads or 1)  # type: ignore[arg-type]

    def prepared(self, network: nn.Module, *example: Tensor) -> nn.Module:
        """A network that gives the same outputs as `network`, for inference with these settings.

        Args:
            network: module from tensors to a tensor or a tuple of tensors, each with one row per image.
            example: one image: the inputs of the network, with one row each.
        """
        fused = fuse_batchnorm(network).requires_grad_(False)
        if self.runtime == "openvino":
            from kneegrade.weights.openvino_runtime import OpenVinoNetwork

            return OpenVinoNetwork(fused, example, bf16=self.precision == "bf16", threads=self.threads)
        fused = fused.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return TorchNetwork(fused, self)


class TorchNetwork(nn.Module):
    """A network in torch; on the CPU it reads one image at a time, on one thread each.

    Args:
        network: prepared for inference, on the device.
        compute: the settings.
    """

    def __init__(self, network: nn.Module, compute: Compute) -> None:
        super().__init__()
        self.network, self.compute = network, compute

    def forward(self, *inputs: Tensor) -> Any:
        """The outputs of the network for B images."""
        if self.compute.device != "cpu":
            return self._run(inputs)
        images = one_by_one(inputs)
        if self.compute.threads == 1 or len(images) == 1:
            return joined([self._run(image) for image in images])
        return joined(list(_pool(self.compute.threads).map(self._run, images)))

    @torch.inference_mode()
    def _run(self, inputs: Sequence[Tensor]) -> Any:
        bf16 = self.compute.precision == "bf16"
        with one_thread(), torch.autocast(self.compute.device, torch.bfloat16, enabled=bf16):
            return self.network(*inputs)


def one_by_one(inputs: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """The inputs of each of B images, with one row each."""
    return [tuple(part[i : i + 1] for part in inputs) for i in range(len(inputs[0]))]


def joined(outputs: Sequence[Any]) -> Any:
    """The outputs of single images as those of a batch: tensors, or tuples of tensors."""
    if len(outputs) == 1:
        return outputs[0]
    if isinstance(outputs[0], Tensor):
        return torch.cat(list(outputs))
    return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))


def _check(what: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UsageError(f"{what} {value!r} is unknown; use {' or '.join(allowed)}.")


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="kneegrade-network")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork


class _OneThread:
    """Limit of torch and BLAS to one thread, which may be opened several times at once.

    The first opening sets it for the process, the last closing restores what was set before.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._number, self._torch_threads, self._blas = 0, 1, ThreadpoolController()
        self._blas_limit: Any = None

    def open(self) -> None:
        with self._lock:
            if self._number == 0:
                self._torch_threads = torch.get_num_threads()
                self._blas_limit = self._blas.limit(limits=1, user_api="blas")
            self._number += 1
        torch.set_num_threads(1)  # OpenMP has a number of its own in each thread

    def close(self) -> None:
        with self._lock:
            self._number -= 1
            if self._number == 0:
                torch.set_num_threads(self._torch_threads)
                self._blas_limit.restore_original_limits()


@cache
def _one_thread() -> _OneThread:
    return _OneThread()


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch and BLAS compute on one CPU thread, whatever the process uses otherwise. Also a decorator."""
    limit = _one_thread()
    limit.open()
    try:
        yield
    finally:
        limit.close()

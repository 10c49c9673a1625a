"""`OpenVinoNetwork`: a torch network, converted in memory, that OpenVINO computes on the CPU.

OpenVINO is optional (`pip install "kneegrade[openvino]"`) and is imported when a network is converted.
"""

import sys
import warnings
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from threading import local
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from kneegrade.errors import UsageError
from kneegrade.weights.compute import joined, one_by_one


def check_openvino() -> None:
    """Raise a `UsageError` if OpenVINO is not installed."""
    if find_spec("openvino") is None:
        raise UsageError(
            'The runtime openvino needs a package that is not installed: pip install "kneegrade[openvino]".'
        )


def _import_openvino() -> Any:
    """The package openvino without its telemetry, which reports imports and conversions to a server.

    openvino works without the package openvino_telemetry, so kneegrade hides that package unless the program that uses
    kneegrade has imported it itself.
    """
    sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))  # importing it raises ImportError
    import openvino

    return openvino


@cache
def _core() -> Any:
    """The OpenVINO core of this process, which lives as long as the process.

    Its CPU plugin gives the thread that loads it a stack for signal handlers, and unmaps that stack when the plugin is
    unloaded, in whichever thread that happens. If the garbage collector of another thread freed the last network, the
    next signal (Ctrl-C, the end of a child process) would end the process with a segmentation fault.
    """
    return _import_openvino().Core()


class OpenVinoNetwork(nn.Module):
    """A network compiled for one image per call; the images of a batch are read one after the other.

    Args:
        network: module from tensors to a tensor or a tuple of tensors, in evaluation mode, on the CPU.
        example: one image: the inputs of the network, with one row each.
        bf16: compute in bfloat16; float32 otherwise.
        threads: CPU threads that one image uses.
    """

    def __init__(self, network: nn.Module, example: Sequence[Tensor], *, bf16: bool, threads: int) -> None:
        super().__init__()
        openvino = _import_openvino()
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the tracer warns of sizes that become constants, as they should here
            model = openvino.convert_model(
                network, example_input=tuple(example), input=[list(part.shape) for part in example]
            )
        self._compiled = _core().compile_model(model, "CPU", {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "ENABLE_CPU_PINNING": False,  # processes that work side by side would be pinned to the same processors
        })  # fmt: skip
        self._single = len(self._compiled.outputs) == 1
        self._requests = local()  # a request serves one thread

    def forward(self, *inputs: Tensor) -> Any:
        """The outputs of the network for B images."""
        return joined([self._read(image) for image in one_by_one(inputs)])

    def _read(self, image: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        request = getattr(self._requests, "request", None)
        if request is None:
            request = self._requests.request = self._compiled.create_infer_request()
        results = request.infer([np.ascontiguousarray(part.numpy()) for part in image], share_inputs=True)
        outputs = tuple(torch.from_numpy(results[index].copy()) for index in range(len(self._compiled.outputs)))
        return outputs[0] if self._single else outputs

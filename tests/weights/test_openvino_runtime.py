"""Networks that OpenVINO computes."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from kneegrade.errors import UsageError
from kneegrade.weights import openvino_runtime
from kneegrade.weights.compute import Compute


class TwoOutputs(nn.Module):
    """A map and a number per image; masked, like a trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4)

    def forward(self, image: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.norm(self.convolution(image * inside))
        return maps, maps.mean((1, 2, 3))


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(openvino_runtime, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'pip install "kneegrade\[openvino\]"'):
        Compute.choose(runtime="openvino")


def test_openvino_refuses_cuda():
    pytest.importorskip("openvino", reason='needs OpenVINO: pip install "kneegrade[openvino]"')
    with pytest.raises(UsageError, match="openvino computes on the CPU"):
        Compute.choose("cuda", runtime="openvino")


def test_a_converted_network_gives_the_outputs_of_torch_for_each_image():
    pytest.importorskip("openvino", reason='needs OpenVINO: pip install "kneegrade[openvino]"')
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = TwoOutputs().eval()
    images = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    inside = images > 0.2
    prepared = Compute(runtime="openvino").prepared(network, images[:1], inside[:1])
    with torch.no_grad():
        for got, expected in zip(prepared(images, inside), network(images, inside), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    alone = prepared(images[1:2], inside[1:2])
    assert torch.equal(alone[0], prepared(images, inside)[0][1:2])


AFTER_THE_NETWORK = """
import os, signal, threading, time
import torch
from kneegrade.weights.openvino_runtime import OpenVinoNetwork

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
networks = [OpenVinoNetwork(torch.nn.ReLU(), [torch.ones(1, 2)], bf16=False, threads=1)]
thread = threading.Thread(target=networks.clear)
thread.start(), thread.join()
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs POSIX signals")
def test_a_signal_after_a_network_was_freed_in_another_thread_is_handled():
    pytest.importorskip("openvino", reason='needs OpenVINO: pip install "kneegrade[openvino]"')
    done = subprocess.run(
        [sys.executable, "-c", AFTER_THE_NETWORK],
        capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr

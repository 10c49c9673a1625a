"""Settings of the computation, and results that do not depend on threads and on other images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kneegrade.errors import UsageError
from kneegrade.phantom import FilmOptions, render_film
from kneegrade.weights.compute import Compute, one_thread

SOURCE = Path(__file__).parents[2] / "src"
PROGRAM = """
import json, sys
import numpy as np
from kneegrade import Grader
grader = Grader("cpu", threads=int(sys.argv[1]))
reports = [grader.grade(np.load(path)) for path in sys.argv[2:]]
knees = [knee for report in reports for film in report.radiographs for knee in film.knees]
print(json.dumps([
    {"grades": {name: [result.grade, *result.probabilities] for name, result in knee.grades.items()},
     "landmarks": knee.landmarks_px.tolist(), "joint_space": str(knee.joint_space), "quality": knee.quality.score,
     "confidence": knee.landmark_confidence, "coherence": knee.coherence.log_probability,
     "evidence": {name: share.tolist() for name, share in knee.evidence.contributions.items()}}
    for knee in knees]))
"""


def network(channels_in: int = 1) -> nn.Module:
    """A small network whose pointwise convolution divides its sums between threads."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.Conv2d(channels_in, 240, 3, 2, 1), nn.BatchNorm2d(240), nn.ReLU(), nn.Conv2d(240, 80, 1))
        return nn.Sequential(*layers).eval()


def test_default_is_float32_in_torch_on_one_thread():
    assert Compute.choose("cpu") == Compute("cpu", "torch", "float32", 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"runtime": "onnx"}, "Runtime 'onnx' is unknown; use torch or openvino."),
        ({"precision": "fp16"}, "Precision 'fp16' is unknown; use float32 or bf16."),
        ({"threads": 0}, "0 threads were asked for; use one or more."),
        ({"device": "tpu"}, "Device 'tpu' is unknown; use auto, cpu or cuda."),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UsageError) as refused:
        Compute.choose(**settings)
    assert refused.value.message == message


@pytest.mark.parametrize("threads", [1, 3])
def test_an_image_has_the_same_bits_alone_and_among_others(threads):
    images = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    alone = Compute().prepared(network(), images[:1])
    together = Compute(threads=threads).prepared(network(), images[:1])
    assert torch.equal(together(images), torch.cat([alone(images[i : i + 1]) for i in (0, 1, 2, 3, 4)]))


def test_a_prepared_network_gives_the_outputs_of_the_network():
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(Compute().prepared(network(), images[:1])(images), network()(images))
        rounded = Compute(precision="bf16").prepared(network(), images[:1])(images)
        torch.testing.assert_close(rounded.float(), network()(images), rtol=0.02, atol=0.02)
    assert rounded.dtype == torch.bfloat16


def test_one_thread_restores_what_was_set_before():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with one_thread():
            with one_thread():
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_results_are_the_same_with_one_thread_and_with_two(tmp_path):
    """In processes of their own, because numpy and torch read OMP_NUM_THREADS when they start."""
    for index, layout in enumerate(("bilateral", "single_left")):
        np.save(tmp_path / f"{index}.npy", render_film(31, index, FilmOptions(layout, longest_px=700)).pixels)
    films = [str(path) for path in sorted(tmp_path.glob("*.npy"))]
    results = []
    for threads in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, threads, *films], capture_output=True, text=True, check=True,
            env={**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "PYTHONPATH": str(SOURCE)},
        )  # fmt: skip
        results.append(json.loads(done.stdout))
    assert len(results[0]) == 3
    assert results[0] == results[1]

"""`measured_speeds`: milliseconds a knee with every runtime, precision and number of threads on this machine.

Timed are the networks and what lies between them, from the pixels in memory to the grades, on a synthetic image of one
knee (phantom). Other work on the machine slows some settings more than others, so measure on an idle machine.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import median

import numpy as np
from numpy.typing import NDArray

from kneegrade.grader import Grader
from kneegrade.phantom import render_rois, sample_knee
from kneegrade.weights.compute import Precision, Runtime

WARM_UP, ROUNDS = 2, 5
IMAGE_PX = 320  # side of the image
CLEARLY_FASTER = 0.9  # of the time with float32 in torch, below which another setting is recommended


@dataclass(frozen=True)
class Speed:
    """Measured speed of one setting.

    Attributes:
        runtime: "torch" or "openvino".
        precision: "float32" or "bf16".
        threads: CPU threads of the networks.
        ms: median milliseconds a knee.
    """

    runtime: Runtime
    precision: Precision
    threads: int
    ms: float


def measured_speeds() -> Iterator[Speed]:
    """Yield the speed of each setting on the CPU: one thread, and one per processor."""
    import joblib

    image = np.ascontiguousarray(render_rois([sample_knee(1, 0)], IMAGE_PX)[0][0].numpy())
    processors = joblib.cpu_count()
    settings: list[tuple[Runtime, Precision]] = [("torch", "float32"), ("torch", "bf16")]
    if find_spec("openvino") is not None:
        settings.append(("openvino", "float32"))
    for runtime, precision in settings:
        for threads in sorted({1, processors}):
            grader = Grader("cpu", runtime=runtime, precision=precision, threads=threads)
            yield Speed(runtime, precision, threads, _milliseconds(grader, image))


def _milliseconds(grader: Grader, image: NDArray[np.float32]) -> float:
    spent = []
    for _ in range(WARM_UP + ROUNDS):
        start = time.perf_counter()
        grader.grade(image)
        spent.append(1000 * (time.perf_counter() - start))
    return median(spent[WARM_UP:])


def recommended(speeds: list[Speed]) -> Speed:
    """The setting to choose for many films: the fastest with one thread, if it is clearly faster than the default.

    Many films are graded fastest by several processes of one thread each.
    """
    single = [speed for speed in speeds if speed.threads == 1]
    default = next(speed for speed in single if (speed.runtime, speed.precision) == ("torch", "float32"))
    fastest = min(single, key=lambda speed: speed.ms)
    exact = min((speed for speed in single if speed.precision == "float32"), key=lambda speed: speed.ms)
    if exact.ms <= CLEARLY_FASTER * default.ms and fastest.ms > CLEARLY_FASTER * exact.ms:
        return exact
    return fastest if fastest.ms <= CLEARLY_FASTER * default.ms else default

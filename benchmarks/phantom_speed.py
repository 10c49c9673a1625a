"""Rendering speed of phantoms, and a check that memory does not grow with their number.

    python benchmarks/phantom_speed.py [--device cuda --batch 64] [--number 200]

On the CPU, single knees of 320 px are sampled and rendered in one thread. On a CUDA device whole batches are rendered;
sampling and the preparation of arrays, which run on CPU cores in parallel, are timed separately. Prints JSON.
"""

import argparse
import json
import resource
import time

import torch

from kneegrade.phantom import render_rois, sample_knee
from kneegrade.phantom.render_params import render_params_of, stack
from kneegrade.phantom.rois import FOV_MM, render_batch, roi_exposure, roi_placement
from kneegrade.phantom.thickness import coarse_step


def on_cpu(number: int) -> dict[str, float]:
    torch.set_num_threads(1)
    number = max(number, 8)
    render_rois([sample_knee(0, 0)])
    memory_mb, start = [], time.perf_counter()
    for index in range(number):
        render_rois([sample_knee(1, index)])
        if index in (number // 4, number - 1):
            memory_mb.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    elapsed = time.perf_counter() - start
    return {
        "knees_per_second_one_core": round(number / elapsed, 1),
        "peak_memory_mb_after_a_quarter": round(memory_mb[0]),
        "peak_memory_mb_at_the_end": round(memory_mb[1]),
    }


def on_device(device: str, batch: int, number: int) -> dict[str, float]:
    start = time.perf_counter()
    knees = [sample_knee(1, index) for index in range(batch)]
    params = [render_params_of(knee) for knee in knees]
    prepared = (time.perf_counter() - start) / batch
    placements, exposures = [roi_placement(knee, 320) for knee in knees], [roi_exposure(knee) for knee in knees]
    batched = stack(params, device)
    render_batch(batched, placements, exposures, 320, coarse_step(320, FOV_MM))
    torch.cuda.synchronize()
    start = time.perf_counter()
    rounds = max(50, number // batch)
    for _ in range(rounds):
        render_batch(batched, placements, exposures, 320, coarse_step(320, FOV_MM))
    torch.cuda.synchronize()
    elapsed = time.perf_counter() - start
    return {
        "knees_per_second_rendered": round(rounds * batch / elapsed),
        "knees_per_second_prepared_per_core": round(1 / prepared),
        "peak_memory_mb": round(torch.cuda.max_memory_allocated() / 2**20),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--batch", type=int, default=64, help="knees per batch on a CUDA device")
    parser.add_argument("--number", type=int, default=200, help="number of knees")
    options = parser.parse_args()
    cuda = options.device.startswith("cuda")
    result = on_device(options.device, options.batch, options.number) if cuda else on_cpu(options.number)
    print(json.dumps({"device": options.device, **result}, indent=1))


if __name__ == "__main__":
    main()

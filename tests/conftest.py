"""Settings for all tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run on several workers; one thread each, in subprocesses too

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("kneegrade", deadline=None)  # timings belong to benchmarks
settings.load_profile("kneegrade")

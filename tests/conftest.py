"""Settings for all tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run on several workers; one thread each, in subprocesses too

import pytest
import torch
from hypothesis import settings

from kneegrade.schema import TARGET_NAMES

torch.set_num_threads(1)
settings.register_profile("kneegrade", deadline=None)  # timings belong to benchmarks
settings.load_profile("kneegrade")

LABEL_ROWS = (
    "knee_id,subject_id,side,visit," + ",".join(TARGET_NAMES),
    "a,P1,R,0,2,0,1,0,1,0,1",
    "b,P1,R,12,1,0,1,0,1,0,1",
    "c,P2,L,0,4,0,0,2,3,1,3",
    "d,P3,L,0,0,0,0,0,0,0,0",
    "e,P4,R,0,1,0,.A,,,,",
)


@pytest.fixture
def label_file(tmp_path):
    """A table of five labelled knees: b falls after a, c breaks hard rules, e has missing grades."""
    (tmp_path / "labels.csv").write_text("\n".join(LABEL_ROWS))
    return tmp_path / "labels.csv"

import os
from pathlib import Path

import pytest

from kneegrade.cohorts.table_files import read_table
from kneegrade.errors import CohortError


def test_a_device_or_a_named_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (Path("/dev/zero"), tmp_path / "pipe.csv"):
        with pytest.raises(CohortError, match="device or a named pipe"):
            read_table(path)

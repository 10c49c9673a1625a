"""Simulated finished runs and their tables, written once for all tests of this folder."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `simulated_runs`

from simulated_runs import ACCURACY, write_run

from kneegrade.evaluation.result_tables import write_tables


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished runs of each recipe in `ACCURACY`, and one that is not finished."""
    directory = tmp_path_factory.mktemp("runs")
    for number, (name, accuracy) in enumerate(ACCURACY.items()):
        for seed in (0, 1):
            write_run(directory / f"{name}-seed{seed}", name, accuracy, seed + 10 * number)
    (directory / "half-done").mkdir()
    (directory / "half-done" / "recipe.yaml").write_text("name: x")
    return directory


@pytest.fixture(scope="session")
def written(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tables of `runs`."""
    output = tmp_path_factory.mktemp("tables")
    files, left_out = write_tables([runs], output, replicates=200)
    assert len(left_out) == 1
    assert "half-done: left out, because the run is not finished" in left_out[0]
    assert all(path.is_file() for path in files)
    return output

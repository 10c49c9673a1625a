"""The command line, in a process of its own and in this process, and data that several tests share."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

WARNINGS = os.environ.get("KNEEGRADE_TEST_WARNINGS", "error")  # of started programs; `make test-oldest`: ignore


@pytest.fixture(scope="session")
def kneegrade() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `kneegrade` with these arguments; warnings are errors there too."""

    def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", WARNINGS, "-m", "kneegrade", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=500, check=False)

    return run


@pytest.fixture
def kneegrade_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `kneegrade` with these arguments in this process, which saves the start of another one."""
    from kneegrade.commands import main

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["kneegrade", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        shown = capsys.readouterr()
        code = end.value.code
        return subprocess.CompletedProcess(sys.argv, code if isinstance(code, int) else 0, shown.out, shown.err)

    return run


@pytest.fixture(scope="session")
def labelled_films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest of four labelled phantom films; the first person is of split "train", the others are of "test"."""
    import numpy as np
    import pandas as pd

    from kneegrade.phantom import Cohort, write_cohort

    path = write_cohort(tmp_path_factory.mktemp("films"), Cohort(4, seed=12, longest_px=900))
    table = pd.read_parquet(path)
    people = sorted(table["subject_id"].unique())
    table["split"] = np.where(table["subject_id"].isin(people[1:]), "test", "train")
    table.to_parquet(path)
    return path


@pytest.fixture(scope="session")
def evaluation(
    kneegrade: Callable[..., subprocess.CompletedProcess[str]],
    labelled_films: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Folder and output of `kneegrade evaluate --json` on the test split of `labelled_films`."""
    folder = tmp_path_factory.mktemp("evaluation")
    done = kneegrade("evaluate", "--manifest", labelled_films, "--output", folder, "--json")
    assert done.returncode == 0, done.stderr
    return folder, done

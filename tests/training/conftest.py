"""A small dataset of phantoms, rendered once for all tests of this folder."""

from pathlib import Path

import pytest

from kneegrade.training.phantom_datasets import build_phantom_dataset


@pytest.fixture(scope="session")
def phantom_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("datasets") / "phantom"
    build_phantom_dataset(directory, 24, "uniform", seed=5, extent_in_plateau_widths=1.5)
    return directory

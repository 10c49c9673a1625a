import numpy as np
import pytest
import torch

from kneegrade.coherence import smoothed_table
from kneegrade.schema import CLASSES, ONE_HOT_LENGTH, TARGETS, grade_tuple_counts
from kneegrade.uncertainty import CalibrationKnees, fit_postprocessor


@pytest.fixture(scope="session")
def table():
    return smoothed_table(grade_tuple_counts())


@pytest.fixture(scope="session")
def knees(table):
    """Noisy logits and one-hot labels of 600 knees whose grades are drawn from the table, two knees per person."""
    generator = np.random.default_rng(0)
    cells = generator.choice(table.size, 600, p=table.reshape(-1) / table.sum())
    grades = np.stack(np.unravel_index(cells, CLASSES), axis=1)
    labels, logits = np.zeros((600, ONE_HOT_LENGTH), dtype=np.float32), {}
    for index, target in enumerate(TARGETS):
        own = np.eye(target.classes, dtype=np.float32)[grades[:, index]]
        labels[:, target.one_hot] = own
        noise = generator.normal(size=own.shape).astype(np.float32)
        logits[target.name] = torch.from_numpy(3 * own + 2 * noise)
    return CalibrationKnees(logits, labels, np.repeat(np.arange(300), 2).astype(str))


@pytest.fixture(scope="session")
def fitted(knees, table):
    return fit_postprocessor(knees.part(np.arange(600) < 300), table)

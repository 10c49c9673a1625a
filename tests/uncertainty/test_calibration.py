import numpy as np
import torch

from kneegrade.coherence import one_hot
from kneegrade.schema import ONE_HOT_LENGTH, TARGETS
from kneegrade.uncertainty import Calibration, fit_calibration, negative_log_likelihood


def drawn(number=6000, seed=0):
    """Grades drawn from known probabilities; logits that are too sharp by 3 and tilted by a bias per class."""
    generator = np.random.default_rng(seed)
    true = {t.name: torch.from_numpy(generator.normal(size=(number, t.classes))).float() for t in TARGETS}
    rows = np.stack(
        [[generator.choice(t.classes, p=p) for p in true[t.name].double().softmax(1).numpy()] for t in TARGETS], axis=1
    )
    tilted = {t.name: 3 * (true[t.name] - 0.5 * torch.arange(t.classes)) for t in TARGETS}
    return true, tilted, torch.from_numpy(one_hot(rows)).float()


def test_the_plain_calibration_changes_nothing():
    _, tilted, _ = drawn(10)
    for name, logits in Calibration()(tilted).items():
        torch.testing.assert_close(logits, tilted[name])


def test_known_temperature_and_tilt_are_undone():
    true, tilted, targets = drawn()
    calibration = fit_calibration(tilted, targets)
    for name, log_temperature in calibration.log_temperature.items():
        assert abs(log_temperature.exp().item() - 3) < 0.3, name
    after = negative_log_likelihood(calibration(tilted), targets)
    assert after < negative_log_likelihood(tilted, targets) - 0.5
    assert after < negative_log_likelihood(true, targets) + 0.02


def test_missing_grades_take_no_part_and_leave_the_plain_softmax():
    _, tilted, targets = drawn(300)
    targets[:, TARGETS[3].one_hot] = torch.nan
    calibration = fit_calibration(tilted, targets)
    assert calibration.log_temperature[TARGETS[3].name].item() == 0.0
    assert targets.shape[1] == ONE_HOT_LENGTH

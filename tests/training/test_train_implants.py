import json

import numpy as np
import pandas as pd
import pytest
import torch

from kneegrade.training import train_implants
from kneegrade.training.train_implants import draw_implant, draw_implants, fit_implant_network, implant_bars
from kneegrade.uncertainty.implant_network import ImplantNetwork, implant_input
from kneegrade.weights import load_part, load_weights, save_weights


def pictures(seed, number):
    return np.random.default_rng(seed).integers(60, 140, (number, 144, 144), dtype=np.uint8)


STAPLE = [np.array([[60.0, 90, 75, 90, 1.2], [75, 90, 75, 100, 1.2]])]


def test_bars_are_where_the_phantom_has_them():
    """A knee of 2 px/mm in an image of 320 px, its origin at (160, 160)."""
    outline = np.random.default_rng(0).normal(0, 20, (74, 2))
    bar = {"start": [10, -20], "end": [10, 40], "half_width": 3}
    row = {
        "outline_mm": outline.ravel().tolist(),
        "landmarks_px": (2 * outline + 160).ravel().tolist(),
        "nuisance": json.dumps({"implant": {"bars": [bar]}}),
    }
    plain = {**row, "nuisance": json.dumps({"implant": None})}
    (bars,) = implant_bars(pd.DataFrame([plain, row]))
    np.testing.assert_allclose(bars, [[81, 54, 81, 108, 2.7]], atol=1e-6)  # × 144 / 320


def test_drawn_metal_is_bright_and_darkens_the_rest():
    picture = np.full((144, 144), 100, np.uint8)
    drawn = draw_implant(picture, np.array([[40.0, 72, 100, 72, 3]]), np.random.default_rng(0))
    assert drawn[72, 40:101].min() >= 0.85 * 255 - 1
    assert drawn[72, 70] > 200 > drawn[76, 70]  # half a pixel beyond its edge
    assert 74 <= drawn[90, 70] <= 100
    assert drawn[:60].max() == drawn[90, 70]


def test_a_trained_network_detects_a_staple_and_is_the_same_after_saving(tmp_path, monkeypatch):
    monkeypatch.setattr(train_implants, "EPOCHS", 12)
    plain, rng = pictures(0, 160), np.random.default_rng(1)
    shown = np.concatenate([plain, draw_implants(pictures(2, 160), STAPLE, rng)])
    state = torch.random.get_rng_state()
    network = fit_implant_network(shown, np.repeat([False, True], 160))
    assert torch.equal(state, torch.random.get_rng_state())
    unseen = np.concatenate([pictures(3, 40), draw_implants(pictures(4, 40), STAPLE, rng)])
    predicted = network.probability(unseen)
    assert predicted[:40].max() < predicted[40:].min()
    np.testing.assert_allclose(network.probability(unseen[7:8]), predicted[7:8], atol=1e-6)
    tensors = {f"m.{k}": v for k, v in network.state_dict().items()}
    save_weights(tmp_path / "w.safetensors", tensors, {"name": "w", "kind": "grader"})
    loaded = ImplantNetwork().eval()
    load_part(loaded, load_weights(tmp_path / "w.safetensors", "grader"), "m")
    np.testing.assert_array_equal(loaded.probability(unseen), predicted)


def test_downscaled_images_are_means():
    roi = np.zeros((288, 288), np.float32)
    roi[:2, :2] = 1.0
    roi[2, 2] = 0.5
    small = implant_input(roi)
    assert small.shape == (144, 144)
    assert (small[0, 0], small[1, 1], small[2:, 2:].max()) == (255, pytest.approx(32), 0)

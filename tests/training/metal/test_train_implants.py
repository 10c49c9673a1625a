import numpy as np
import pytest
import torch

from kneegrade.errors import WeightsError
from kneegrade.training.metal.implant_examples import ImplantExamples
from kneegrade.training.metal.train_implants import examples_of_sites, fit_implant_network, implant_limits
from kneegrade.uncertainty import ImplantLimits, ImplantNetwork, load_implants, save_implants
from kneegrade.uncertainty.implant_network import implant_input, standardised
from kneegrade.weights import save_weights


def pictures(seed, number, staples):
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 140, (number, 144, 144), dtype=np.uint8)
    images[:, 130:] = 0  # outside the film
    if staples:
        for image, (x, y) in zip(images, rng.integers(40, 100, (number, 2)), strict=True):
            image[y : y + 3, x : x + 16] = image[y : y + 12, x : x + 3] = 230
    return images


@pytest.fixture(scope="module")
def network():
    shown = np.concatenate([pictures(0, 160, False), pictures(2, 160, True)])
    metal = np.repeat([False, True], 160)
    state = torch.random.get_rng_state()
    trained = fit_implant_network(ImplantExamples(shown, metal, np.full(320, "here")), epochs=6)
    assert torch.equal(state, torch.random.get_rng_state())
    return trained


def test_a_trained_network_detects_a_staple(network):
    plain, metal = network.probability(pictures(3, 40, False)), network.probability(pictures(4, 40, True))
    assert plain.max() < metal.min()
    np.testing.assert_allclose(network.probability(pictures(4, 40, True)[7:8]), metal[7:8], atol=1e-6)


def test_the_network_does_not_see_brightness_and_contrast(network):
    images = pictures(5, 10, True).astype(np.float64)
    darker = np.where(images > 0, 20 + images / 2, 0).round().astype(np.uint8)
    before, after = network.probability(images.astype(np.uint8)), network.probability(darker)
    np.testing.assert_array_equal(before > 0.5, after > 0.5)


def test_standardised_images_have_mean_0_and_deviation_1_on_the_film():
    grey, inside, x, y = standardised(torch.from_numpy(pictures(6, 1, False))[None] / 255)[0]
    assert grey[:130].mean() == pytest.approx(0, abs=1e-4)
    assert grey[:130].std() == pytest.approx(1, abs=1e-3)
    assert (grey[130:] == 0).all()
    assert (inside[:130] == 1).all()
    assert (inside[130:] == 0).all()
    assert (x[5, 0], x[9, -1], y[0, 3], y[-1, 8]) == (-1, 1, -1, 1)


def test_saved_networks_are_the_same_after_loading(network, tmp_path):
    limits = ImplantLimits(possible=0.5, certain=0.75)
    save_implants(tmp_path / "metal.safetensors", network, limits, {"licence": "Apache-2.0"})
    loaded, found = load_implants(tmp_path / "metal.safetensors")
    assert found == limits
    images = pictures(7, 5, True)
    np.testing.assert_array_equal(loaded.probability(images), network.probability(images))


def test_networks_of_earlier_weights_are_loaded_as_they_were(tmp_path):
    """An earlier network, in a grader's weights of today."""
    torch.manual_seed(0)
    earlier = ImplantNetwork(earlier=True).eval()
    assert [p.shape[0] for p in earlier.body if hasattr(p, "kernel_size") for p in [p.weight]] == [16, 24, 32, 48, 64]
    tensors = {f"gate.implant_network.{key}": value for key, value in earlier.state_dict().items()}
    save_weights(tmp_path / "w.safetensors", tensors, {"name": "w", "kind": "grader"})
    with pytest.raises(WeightsError, match="two limits"):
        load_implants(tmp_path / "w.safetensors")
    limits = {"gate.implant_limit": torch.tensor(0.9), "gate.possible_implant_limit": torch.tensor(0.5)}
    save_weights(tmp_path / "w.safetensors", {**tensors, **limits}, {"name": "w", "kind": "grader"})
    loaded, _ = load_implants(tmp_path / "w.safetensors")
    assert loaded.earlier
    expected = earlier(torch.from_numpy(pictures(8, 3, True)).unsqueeze(1) / 255).sigmoid().detach()
    np.testing.assert_allclose(loaded.probability(pictures(8, 3, True)), expected, atol=0.01)  # bfloat16


def test_limits_are_those_of_the_median_site():
    calm, odd = np.linspace(0, 0.4, 1000), np.linspace(0, 1, 1000)
    usual = np.concatenate([np.linspace(0, 0.5, 960), np.linspace(0.9, 0.99, 40)])
    limits = implant_limits({"calm": calm, "usual": usual, "odd": odd})
    assert np.mean(usual > limits.possible) == pytest.approx(0.03, abs=0.002)
    assert np.mean(usual > limits.certain) == pytest.approx(0.005, abs=0.002)
    alone = implant_limits({"calm": calm / 2})
    assert (alone.possible, alone.certain) == (0.3, 0.95)


def test_small_sites_get_more_examples_for_each_knee():
    assert examples_of_sites([1000, 125], 600) == [400, 200]
    assert examples_of_sites([8000, 8, 1], 3000) == [2609, 128, 64]


def test_downscaled_images_are_means_over_the_film():
    roi, inside = np.zeros((288, 288), np.float32), np.ones((288, 288), dtype=bool)
    roi[:2, :2] = 1.0
    roi[2, 2] = 0.5
    inside[100:102, 100:102] = inside[110, 110:112] = inside[120, 120] = False
    inside[110:112, 110] = False  # three of four pixels
    roi[120, 121] = 0.6
    small = implant_input(roi, inside)
    assert small.shape == (144, 144)
    assert (small[0, 0], small[1, 1], small[2, 2]) == (255, 1 + round(254 / 8), 1)
    assert (small[50, 50], small[55, 55], small[60, 60]) == (0, 0, 1 + round(0.2 * 254))

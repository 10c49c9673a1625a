import json

import numpy as np
import torch

from kneegrade.anatomy.finder import FINDER_PX, finder_network, read_candidates
from kneegrade.anatomy.locator import LOCATOR_STRIDE, locator_network, read_points
from kneegrade.learning.detector import finder_loss, finder_task, fit_network, locator_loss, locator_task, turn_scenes
from kneegrade.learning.recipe import DetectorRecipe
from kneegrade.learning.scenes import composed_scenes, phantom_scenes
from kneegrade.learning.store import load_stores
from kneegrade.learning.train import train_recipe
from kneegrade.weights import load_weights


def recipe(**changes) -> DetectorRecipe:
    return DetectorRecipe.model_validate(
        {"kind": "detector", "name": "t", "stores": ["x"], "bf16": False, "finder": {"steps": 4, "batch_size": 4},
         "locator": {"steps": 4, "batch_size": 4}, **changes}
    )  # fmt: skip


def test_scenes_hold_the_poses_of_their_knees(phantom_store):
    store = load_stores((phantom_store,))
    scenes = composed_scenes(store, np.arange(len(store)), 6, seed=0)
    for image, poses in zip(scenes.images, scenes.poses, strict=True):
        for x, y, width, *down in poses[np.isfinite(poses[:, 0])]:
            assert 0 <= x < FINDER_PX
            assert width > 30
            assert np.hypot(*down) == np.float32(1) or abs(np.hypot(*down) - 1) < 1e-5
            assert image[round(float(y)), round(float(x))] > 0


def test_phantom_scenes_are_reproducible():
    first, second = phantom_scenes(3, seed=2), phantom_scenes(3, seed=2)
    np.testing.assert_array_equal(first.images, second.images)


def test_turned_scenes_turn_their_poses():
    """A bright spot at the centre of a knee stays at its centre."""
    images = torch.zeros(8, 1, FINDER_PX, FINDER_PX)
    images += 1
    images[:, :, 119:122, 99:102] = 255
    poses = torch.tensor([[[100.0, 120.0, 60.0, 0.0, 1.0], [torch.nan] * 5]]).repeat(8, 1, 1)
    pictures, moved = turn_scenes(images, poses, torch.Generator().manual_seed(0))
    for picture, (x, y, *_) in zip(pictures[:, 0], moved[:, 0].tolist(), strict=True):
        if 3 < x < FINDER_PX - 3 and 3 < y < FINDER_PX - 3:
            assert picture[round(y), round(x)] > 0.9


def test_a_perfect_answer_costs_least_and_is_read_back():
    pose = torch.tensor([[[100.0, 120.0, 64.0, 0.6, 0.8], [torch.nan] * 5]])
    maps = torch.full((1, 4, 32, 32), -12.0)
    maps[0, 0, 15, 12], maps[0, 0, 15, 13] = 8.0, 7.99
    maps[0, 1], maps[0, 2], maps[0, 3] = np.log(64 / FINDER_PX), 0.6, 0.8
    wrong = maps.clone()
    wrong[0, 0] = maps[0, 0].roll(5, 0)
    batch = (torch.zeros(1, 1, FINDER_PX, FINDER_PX), pose)
    assert finder_loss((maps, torch.zeros(1, 1)), batch) < finder_loss((wrong, torch.zeros(1, 1)), batch) / 5
    (found,) = read_candidates(maps[0], factor=2.0, threshold=0.5)
    np.testing.assert_allclose(found.pose.centre, (200.5, 240.5), atol=1.0)  # film pixels: (p + ½)·2 − ½
    assert found.pose.width == np.float32(128.0) or abs(found.pose.width - 128) < 1e-3
    np.testing.assert_allclose(found.pose.down, (0.6, 0.8), atol=1e-6)


def test_heat_maps_are_read_between_their_cells():
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    wanted = torch.rand(1, 74, 2, generator=torch.Generator().manual_seed(0)) * 30 + 8
    maps = -((x - wanted[..., 0, None, None]) ** 2 + (y - wanted[..., 1, None, None]) ** 2)
    located = read_points(maps, torch.zeros(1, 1))
    torch.testing.assert_close(located.points_px, wanted * LOCATOR_STRIDE, atol=5e-3, rtol=0)
    assert (located.mass > 0.95).all()
    batch = (torch.zeros(1), wanted * LOCATOR_STRIDE, torch.ones(1, 74, dtype=torch.bool), torch.ones(1))
    shifted = (torch.zeros(1), wanted * LOCATOR_STRIDE + 8, *batch[2:])
    side = torch.zeros(1, 1)
    assert locator_loss((maps, side), batch) < locator_loss((maps, side), shifted)


def test_both_networks_train_and_resume(phantom_store, tmp_path):
    store = load_stores((phantom_store,))
    scenes = composed_scenes(store, np.arange(len(store)), 8, seed=0)
    for task in (locator_task(store, np.arange(len(store)), recipe()), finder_task(scenes, recipe())):
        before = {k: v.clone() for k, v in task.network.state_dict().items()}
        fit_network(task, recipe(), tmp_path)
        after = task.network.state_dict()
        assert any(not torch.equal(before[k], after[k]) for k in before)
        again = finder_task(scenes, recipe()) if task.name == "finder" else task
        fit_network(again, recipe(), tmp_path)  # the checkpoint says that all is done
        for key, value in again.network.state_dict().items():
            torch.testing.assert_close(value, after[key], rtol=0, atol=0)


def test_from_recipe_to_weights(phantom_store, tmp_path):
    path = tmp_path / "tiny.yaml"
    tiny = recipe(stores=[str(phantom_store)], phantom_scenes=2, composed_scenes=4).model_dump(mode="json")
    path.write_text(json.dumps(tiny))
    assert train_recipe(path, tmp_path / "run")
    held = load_weights(tmp_path / "run" / "weights.safetensors", "detector")
    finder_network().load_state_dict(held.part("finder"))
    locator_network().load_state_dict(held.part("locator"))
    assert held.description["recipe"]["stores"] == [phantom_store.name]


def test_the_finder_has_one_cell_per_eight_pixels():
    maps, scalars = finder_network().eval()(torch.zeros(1, 1, FINDER_PX, FINDER_PX))
    assert maps.shape == (1, 4, 32, 32)
    assert scalars.shape == (1, 1)

import json

import numpy as np
import pytest
import torch
from PIL import Image

from kneegrade.anatomy import LandmarkDetector, UserLandmarks
from kneegrade.anatomy.geometry import pose_of
from kneegrade.anatomy.knee_localizer import LOCALIZER_PX, knee_localizer_network, read_candidates
from kneegrade.anatomy.landmark_files import write_pts
from kneegrade.anatomy.landmark_networks import FINE, LANDMARK_STRIDE, read_points
from kneegrade.cohorts import load_manifest, manifest_from_landmarks
from kneegrade.errors import RecipeError
from kneegrade.phantom import FilmOptions, render_film
from kneegrade.training.dataset import load_datasets
from kneegrade.training.detector.detector_losses import landmark_loss, localizer_loss
from kneegrade.training.detector.detector_recipe import DetectorRecipe
from kneegrade.training.detector.scenes import augment_scenes, composed_scenes, film_scenes, phantom_scenes
from kneegrade.training.detector.train_detector import coarse_task, fine_task, localizer_task
from kneegrade.training.train_grader import train_recipe
from kneegrade.training.trainer import train
from kneegrade.weights import load_weights


def recipe(**changes) -> DetectorRecipe:
    steps = {name: {"steps": 4, "batch_size": 4} for name in ("knee_localizer", "coarse", "fine")}
    defaults = {"kind": "detector", "name": "t", "datasets": ["x"], "bf16": False, **steps}
    return DetectorRecipe.model_validate(defaults | changes)


def test_composed_scenes_have_the_poses_of_their_knees(phantom_dataset):
    dataset = load_datasets((phantom_dataset,))
    scenes = composed_scenes(dataset, np.arange(len(dataset)), 6, seed=0)
    for image, poses in zip(scenes.images, scenes.poses, strict=True):
        for x, y, width, *down in poses[np.isfinite(poses[:, 0])]:
            assert 0 <= x < LOCALIZER_PX
            assert width > 30
            assert np.hypot(*down) == pytest.approx(1, abs=1e-5)
            assert image[round(float(y)), round(float(x))] > 0


def test_phantom_scenes_are_reproducible():
    first, second = phantom_scenes(3, seed=2), phantom_scenes(3, seed=2)
    np.testing.assert_array_equal(first.images, second.images)


def test_augmentation_moves_the_pose_with_the_image():
    """A bright spot at the centre of a knee stays at its centre."""
    images = torch.zeros(8, 1, LOCALIZER_PX, LOCALIZER_PX)
    images += 1
    images[:, :, 119:122, 99:102] = 255
    poses = torch.tensor([[[100.0, 120.0, 60.0, 0.0, 1.0], [torch.nan] * 5]]).repeat(8, 1, 1)
    pictures, moved = augment_scenes(images, poses, torch.Generator().manual_seed(0))
    for picture, (x, y, *_) in zip(pictures[:, 0], moved[:, 0].tolist(), strict=True):
        if 3 < x < LOCALIZER_PX - 3 and 3 < y < LOCALIZER_PX - 3:
            assert picture[round(y), round(x)] > 0.9


def test_localizer_maps_at_the_pose_have_the_lowest_loss_and_are_read_back():
    pose = torch.tensor([[[100.0, 120.0, 64.0, 0.6, 0.8], [torch.nan] * 5]])
    maps = torch.full((1, 4, 32, 32), -12.0)
    maps[0, 0, 15, 12], maps[0, 0, 15, 13] = 8.0, 7.99
    maps[0, 1], maps[0, 2], maps[0, 3] = np.log(64 / LOCALIZER_PX), 0.6, 0.8
    wrong = maps.clone()
    wrong[0, 0] = maps[0, 0].roll(5, 0)
    assert localizer_loss((maps, torch.zeros(1)), pose) < localizer_loss((wrong, torch.zeros(1)), pose) / 5
    (found,) = read_candidates(maps[0], factor=2.0, threshold=0.5)
    np.testing.assert_allclose(found.pose.centre, (200.5, 240.5), atol=1.0)  # film pixels: (p + ½)·2 − ½
    assert found.pose.width == pytest.approx(128, abs=1e-3)
    np.testing.assert_allclose(found.pose.down, (0.6, 0.8), atol=1e-6)


def test_landmarks_are_read_from_maps_with_subcell_accuracy():
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    truth = torch.rand(1, 74, 2, generator=torch.Generator().manual_seed(0)) * 30 + 8
    maps = -((x - truth[..., 0, None, None]) ** 2 + (y - truth[..., 1, None, None]) ** 2)
    located = read_points(maps, torch.zeros(1))
    torch.testing.assert_close(located.points_px, truth * LANDMARK_STRIDE, atol=5e-3, rtol=0)
    spread = torch.eye(2) * 0.5 * LANDMARK_STRIDE**2  # exp(-d²): half a cell squared along each axis
    torch.testing.assert_close(located.covariance_px2, spread.expand(1, 74, 2, 2), atol=0.05, rtol=0)
    output, weight, correct = (maps, torch.zeros(1)), torch.ones(1, 74), torch.ones(1)
    shifted = truth * LANDMARK_STRIDE + 8
    assert landmark_loss(output, truth * LANDMARK_STRIDE, weight, correct) < landmark_loss(
        output, shifted, weight, correct
    )


def test_landmarks_of_weight_0_do_not_change_the_loss():
    maps = torch.randn(2, 74, 16, 16, generator=torch.Generator().manual_seed(0))
    points = torch.full((2, 74, 2), 30.0)
    weight = torch.ones(2, 74)
    weight[1] = 0
    first = landmark_loss((maps, torch.zeros(2)), points, weight, torch.ones(2))
    points[1] += 17
    assert landmark_loss((maps, torch.zeros(2)), points, weight, torch.ones(2)) == first


def test_fine_batches_have_level_knees_and_some_misplaced_ones(phantom_dataset):
    """The joint of a correct crop is near its centre; landmarks of a misplaced crop have weight 0."""
    dataset = load_datasets((phantom_dataset,))
    task = fine_task(dataset, np.arange(len(dataset)), recipe(fine={"steps": 4, "batch_size": 64}))
    crops, points, weight, correct = task.sample(torch.Generator().manual_seed(0))
    assert crops.shape == (64, 1, FINE.size_px, FINE.size_px)
    assert 0 < (correct == 0).sum() < 25
    assert (weight[correct == 0] == 0).all()
    landmarks = points[correct == 1]
    width = (landmarks[:, 63] - landmarks[:, 47]).norm(dim=-1) / FINE.size_px
    torch.testing.assert_close(width, torch.full_like(width, 1 / FINE.plateau_widths), atol=0.06, rtol=0)
    assert (landmarks[:, 47, 0] < landmarks[:, 63, 0]).all()
    middle = landmarks[:, [18, 55]].mean(1) / FINE.size_px
    assert ((middle - 0.5).abs() < 0.12).all()


def test_coarse_batches_have_both_orientations(phantom_dataset):
    dataset = load_datasets((phantom_dataset,))
    task = coarse_task(dataset, np.arange(len(dataset)), recipe(coarse={"steps": 4, "batch_size": 64}))
    _, points, _, correct = task.sample(torch.Generator().manual_seed(0))
    lateral_left = points[:, 47, 0] < points[:, 63, 0]
    assert (lateral_left == (correct == 1)).all()
    assert 10 < lateral_left.sum() < 54


def test_all_networks_train_and_resume(phantom_dataset, tmp_path):
    dataset = load_datasets((phantom_dataset,))
    rows = np.arange(len(dataset))
    scenes = composed_scenes(dataset, rows, 8, seed=0)
    makers = (lambda: coarse_task(dataset, rows, recipe()), lambda: fine_task(dataset, rows, recipe()),
              lambda: localizer_task(scenes, recipe()))  # fmt: skip
    for make in makers:
        task = make()
        before = {k: v.clone() for k, v in task.network.state_dict().items()}
        assert train(task, tmp_path)
        after = task.network.state_dict()
        assert any(not torch.equal(before[k], after[k]) for k in before)
        again = make()
        assert train(again, tmp_path, resume=True)  # the checkpoint is that of the finished network
        for key, value in again.network.state_dict().items():
            torch.testing.assert_close(value, after[key], rtol=0, atol=0)


def test_films_with_landmarks_become_scenes(tmp_path):
    film = render_film(3, 1, FilmOptions("bilateral", longest_px=400))
    pixels = np.rint(film.pixels * 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "film.png")
    write_pts(tmp_path / "film.pts", np.stack([k.landmarks_px for k in film.knees]))
    table, skipped = manifest_from_landmarks(tmp_path, UserLandmarks(tmp_path, unit="px"), subject=r"(f\w+)")
    assert skipped == []
    assert table["side"].tolist() == ["R", "L"]
    assert set(table["subject_id"]) == {"film"}
    table.to_parquet(tmp_path / "films.parquet")
    scenes = film_scenes(load_manifest(tmp_path / "films.parquet"), views=3)
    assert scenes.images.shape == (3, LOCALIZER_PX, LOCALIZER_PX)
    factor = max(pixels.shape) / LOCALIZER_PX
    for pose, knee in zip(scenes.poses[0], film.knees, strict=True):
        centre = pose_of(knee.landmarks_px)
        np.testing.assert_allclose(pose[:2], (np.array(centre.centre) + 0.5) / factor - 0.5, atol=1e-3)
        assert pose[2] == pytest.approx(centre.width / factor, rel=1e-4)


def test_a_detector_recipe_without_images_for_the_knee_localizer_is_refused_before_training(phantom_dataset, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(recipe(datasets=[str(phantom_dataset)], phantom_scenes=0).model_dump(mode="json")))
    with pytest.raises(RecipeError, match="no training images for the knee localizer"):
        train_recipe(path, tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_recipe_becomes_weights(phantom_dataset, tmp_path):
    path = tmp_path / "tiny.yaml"
    tiny = recipe(datasets=[str(phantom_dataset)], phantom_scenes=2, composed_scenes=4).model_dump(mode="json")
    path.write_text(json.dumps(tiny))
    assert train_recipe(path, tmp_path / "run")
    saved = load_weights(tmp_path / "run" / "weights.safetensors", "detector")
    LandmarkDetector(tmp_path / "run" / "weights.safetensors")
    assert {key.split(".")[0] for key in saved.tensors} == {"coarse", "finder", "fine"}
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"recipe.yaml", "log.jsonl", "scenes.npz", "coarse.pt", "finder.pt", "fine.pt", "weights.json"} <= files
    assert saved.description["recipe"]["datasets"] == [phantom_dataset.name]


def test_the_knee_localizer_has_one_cell_per_eight_pixels():
    maps, scalars = knee_localizer_network().eval()(torch.zeros(1, 1, LOCALIZER_PX, LOCALIZER_PX))
    assert maps.shape == (1, 4, 32, 32)
    assert scalars.shape == (1,)

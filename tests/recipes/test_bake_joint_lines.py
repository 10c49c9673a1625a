import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from kneegrade.anatomy.geometry import roi_frame
from kneegrade.anatomy.joint_space import gap_at, joint_space_width
from kneegrade.anatomy.landmark_networks import FINE, LANDMARK_STRIDE
from kneegrade.anatomy.landmark_scheme import FEMUR_ARTICULAR
from kneegrade.cohorts import landmark_array, load_manifest
from kneegrade.phantom import Cohort, FilmOptions, render_film, write_cohort
from kneegrade.training.dataset import DATASET_PX, load_datasets
from kneegrade.training.phantom_datasets import build_phantom_dataset
from kneegrade.weights import shipped_path

SCRIPT = Path(__file__).parents[2] / "recipes" / "bake_joint_lines.py"
spec = importlib.util.spec_from_file_location("bake_joint_lines", SCRIPT)
bake = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bake)


@pytest.fixture(scope="module")
def phantom_dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("datasets") / "phantom"
    build_phantom_dataset(directory, 6, "uniform", seed=5, extent_in_plateau_widths=1.5)
    return directory


class Sees(nn.Module):
    """A landmark network that predicts given landmarks (B, 74, 2) in pixels of its square."""

    def __init__(self, points_px):
        super().__init__()
        self.cells = torch.from_numpy(points_px).float() / LANDMARK_STRIDE

    def forward(self, squares):
        side = FINE.size_px // LANDMARK_STRIDE
        x, y = torch.arange(side), torch.arange(side)
        down = (y - self.cells[..., 1:]) ** 2
        maps = -2 * (down[..., :, None] + ((x - self.cells[..., :1]) ** 2)[..., None, :])
        return maps, torch.zeros(len(squares))


def test_the_joint_space_becomes_what_the_network_sees_on_the_tables_scale(phantom_dataset):
    dataset = load_datasets((phantom_dataset,))
    pictures, points = dataset.images[:6], dataset.landmarks_px[:6]
    seen = points.astype(np.float64).copy()
    seen[:, list(FEMUR_ARTICULAR), 1] += 0.008 * DATASET_PX / 1.5  # a joint narrower by 0.8 % of the width
    squares = [roi_frame(p.astype(np.float64), FINE.size_px, FINE.plateau_widths) for p in points]
    network = Sees(np.stack([frame.to_roi(p) for frame, p in zip(squares, seen, strict=True)]))
    redrawn = bake.redrawn_joint_lines(network, pictures, points)
    width = DATASET_PX / 1.5
    for new, old, there in zip(redrawn, points, seen, strict=True):
        wanted = np.maximum(bake.SCALE * gap_at(there, np.array([0.825])) + bake.OFFSET * width, 0)
        change = np.clip(wanted - gap_at(old, np.array([0.825])), -0.05 * width, 0.05 * width)
        got = joint_space_width(new.astype(np.float64)).lateral
        assert abs(got - (gap_at(old, np.array([0.825])) + change)[0]) < 0.004 * width
        np.testing.assert_array_equal(new[:, 0], old[:, 0])
        outside = [*range(12), *range(25, 47), *range(64, 74), 18, 55]
        np.testing.assert_array_equal(new[outside], old[outside])


def test_a_manifest_keeps_its_rows_and_gets_landmarks_in_film_pixels(tmp_path):
    film = render_film(3, 0, FilmOptions(layout="single_right", longest_px=600))
    Image.fromarray((film.pixels * 255).astype(np.uint8)).save(tmp_path / "film.png")
    points = film.knees[0].landmarks_px
    table = pd.DataFrame({"image_path": [str(tmp_path / "film.png")], "landmarks_px": [points.reshape(-1)], "kl": [1]})
    frame = roi_frame(points, DATASET_PX, 1.5)
    square = roi_frame(frame.to_roi(points), FINE.size_px, FINE.plateau_widths)
    baked = bake.baked_manifest(table, Sees(square.to_roi(frame.to_roi(points))[None]))
    moved = baked["landmarks_px"][0].reshape(74, 2)
    assert baked["kl"].tolist() == [1]
    shaft = [*range(12), *range(25, 47), *range(64, 74)]
    np.testing.assert_allclose(moved[shaft], points[shaft], atol=0.05)
    assert np.abs(moved - points).max() > 0.2


def test_the_script_writes_a_manifest_that_finds_its_films_or_leaves_the_old_one(tmp_path, monkeypatch):
    """Image paths of a manifest are relative to its folder; the new manifest is in another folder."""
    monkeypatch.chdir(tmp_path)
    before = load_manifest(write_cohort(Path("films"), Cohort(2, seed=1, longest_px=500)))
    Path("new").mkdir()
    arguments = ["bake_joint_lines.py", "films/truth.parquet", str(shipped_path("detector")), "-o", "new/m.parquet"]
    monkeypatch.setattr("sys.argv", arguments)
    bake.main()
    after = load_manifest(Path("new/m.parquet"))
    assert [Path(path).resolve() for path in after["image_path"]] == [Path(p).resolve() for p in before["image_path"]]
    pd.testing.assert_frame_equal(
        after.drop(columns=["image_path", "landmarks_px"]), before.drop(columns=["image_path", "landmarks_px"])
    )
    assert 0.1 < np.abs(landmark_array(after) - landmark_array(before)).max() < 10
    written, read = Path("new/m.parquet").read_bytes(), iter([bake.read_radiograph])

    def interrupted(path):
        return next(read, interrupt)(path)

    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(bake, "read_radiograph", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bake.main()
    assert Path("new/m.parquet").read_bytes() == written
    assert [path.name for path in Path("new").iterdir()] == ["m.parquet"]

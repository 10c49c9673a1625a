import numpy as np
import pytest

from kneegrade.errors import RecipeError
from kneegrade.schema import ONE_HOT_LENGTH
from kneegrade.training.dataset import (
    DATASET_PX,
    EMPTY,
    PENDING,
    PUT,
    SKIPPED,
    DatasetWriter,
    crop_knee,
    encode,
    load_datasets,
    manifest_rows,
)

PICTURE = np.full((DATASET_PX, DATASET_PX), 9, dtype=np.uint8)
LANDMARKS, VISIBLE = np.zeros((74, 2), dtype=np.float32), np.ones(74, dtype=np.bool_)


def close(writer, split="train"):
    """Close a writer of knees of one person each, without grades."""
    number = len(writer.state)
    targets = np.full((number, ONE_HOT_LENGTH), np.nan, dtype=np.float32)
    subject = np.array([f"p{row}" for row in range(number)])
    return writer.close(targets, subject, np.full(number, split), np.full(number, "test"))


def test_zero_means_outside_the_film():
    encoded = encode(np.array([[0.0, 1.0, 0.5]], dtype=np.float32), np.array([[True, True, False]]))
    assert encoded.tolist() == [[1, 255, 0]]


def test_a_film_and_its_mirror_image_give_the_same_crop():
    """Landmarks run from lateral to medial in every knee, so the crop depends on neither side nor mirroring."""
    generator = np.random.default_rng(0)
    pixels = generator.random((300, 280)).astype(np.float32)
    angle = np.linspace(0, 1, 37)
    femur = np.stack([80 + 120 * angle, 130 - 20 * np.sin(angle * 9)], axis=1)
    tibia = np.stack([80 + 120 * angle, 160 + 20 * np.cos(angle * 7)], axis=1)
    landmarks = np.concatenate([femur, tibia])
    mirrored = np.stack([pixels.shape[1] - 1 - landmarks[:, 0], landmarks[:, 1]], axis=1)
    original = crop_knee(pixels, landmarks, 1.2)
    flipped = crop_knee(np.ascontiguousarray(pixels[:, ::-1]), mirrored, 1.2)
    np.testing.assert_allclose(flipped[0].astype(int), original[0].astype(int), atol=1)
    np.testing.assert_allclose(flipped[1], original[1], atol=1e-3)


def test_a_folder_without_a_dataset_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"is not a dataset; make one .* `kneegrade dataset`"):
        load_datasets((tmp_path / "nowhere",))


@pytest.mark.parametrize("content", [b"junk", b""])
def test_a_damaged_dataset_is_refused(content, tmp_path):
    (tmp_path / "knees.npz").write_bytes(content)
    with pytest.raises(RecipeError, match="is damaged"):
        load_datasets((tmp_path,))


def test_states_of_rows_survive_a_stop_and_only_put_knees_are_in_the_dataset(tmp_path):
    writer = DatasetWriter(tmp_path / "data", 4, "four knees")
    writer.put(0, PICTURE, LANDMARKS, VISIBLE)
    writer.skip(1, "first\nreason")
    writer.leave_empty(2)
    assert [writer.rows(state).tolist() for state in (PUT, SKIPPED, EMPTY, PENDING)] == [[0], [1], [2], [3]]
    writer.flush()
    resumed = DatasetWriter(tmp_path / "data", 4, "four knees")
    assert [resumed.rows(state).tolist() for state in (PUT, SKIPPED, EMPTY, PENDING)] == [[0], [], [2], [1, 3]]
    resumed.skip(1, "second\nreason")
    resumed.put(3, PICTURE + 1, LANDMARKS, VISIBLE, landmark_weight=0.5)
    assert close(resumed) == ["second reason"]
    dataset = load_datasets((tmp_path / "data",))
    assert dataset.images[:, 0, 0].tolist() == [9, 10]
    assert dataset.landmark_weight.tolist() == [1, 0.5]
    assert manifest_rows(tmp_path / "data").tolist() == [0, 3]
    assert not (tmp_path / "data.tmp").exists()


def test_keys_of_the_file_and_early_files_without_landmark_weights_and_manifest_rows(tmp_path):
    writer = DatasetWriter(tmp_path / "data", 1, "one knee")
    writer.put(0, PICTURE, LANDMARKS, VISIBLE, landmark_weight=0.25)
    close(writer)
    file = tmp_path / "data" / "knees.npz"
    arrays = dict(np.load(file))
    assert set(arrays) == {
        "rows", "manifest_rows", "landmarks_px", "visible", "trust", "targets", "subject", "split", "source",
    }  # fmt: skip
    assert arrays.pop("trust").tolist() == [0.25]
    assert arrays.pop("manifest_rows").tolist() == [0]
    np.savez(file, **arrays)
    assert load_datasets((tmp_path / "data",)).landmark_weight.tolist() == [1]
    assert manifest_rows(tmp_path / "data").tolist() == [0]

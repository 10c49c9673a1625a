import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kneegrade.errors import RecipeError
from kneegrade.learning.cutting import build_store
from kneegrade.learning.store import encode, load_stores
from kneegrade.phantom import render_roi, sample_knee


@pytest.fixture
def manifest(tmp_path) -> pd.DataFrame:
    """Three phantoms as PNG files, one of them broken on purpose."""
    rows = []
    for index in range(3):
        knee = sample_knee(3, index)
        pixels, landmarks = render_roi(knee, 300, 110.0)
        path = tmp_path / f"{index}.png"
        Image.fromarray((pixels * 255).astype(np.uint8)).save(path)
        rows.append({"image_path": str(path), "subject_id": str(index), "split": "train", "source": "png",
                     "kl": knee.grades["kl"], "landmarks_px": landmarks.ravel()})  # fmt: skip
    (tmp_path / "1.png").write_bytes(b"broken")
    return pd.DataFrame(rows)


def test_a_bad_picture_is_named_and_left_out(manifest, tmp_path):
    seen = []
    bad = build_store(manifest, tmp_path / "store", progress=lambda done, total: seen.append((done, total)))
    assert len(bad) == 1
    assert "1.png" in bad[0]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    store = load_stores((tmp_path / "store",))
    assert store.subject.tolist() == ["0", "2"]
    assert [int(t[:5].argmax()) for t in store.targets] == [manifest["kl"][0], manifest["kl"][2]]
    assert not list(tmp_path.glob("*.tmp"))


def test_stored_knees_are_level_and_lateral_left(manifest, tmp_path):
    build_store(manifest, tmp_path / "store")
    points = load_stores((tmp_path / "store",)).landmarks_px
    np.testing.assert_allclose(points[:, 47, 1], points[:, 63, 1], atol=1e-3)
    assert (points[:, 47, 0] < points[:, 63, 0]).all()


def test_several_stores_are_one(manifest, tmp_path):
    build_store(manifest, tmp_path / "a")
    build_store(manifest, tmp_path / "b")
    assert len(load_stores((tmp_path / "a", tmp_path / "b"))) == 4


def test_an_existing_folder_is_not_overwritten_and_no_store_is_a_sentence(manifest, tmp_path):
    (tmp_path / "store").mkdir()
    with pytest.raises(RecipeError, match="exists"):
        build_store(manifest, tmp_path / "store")
    with pytest.raises(RecipeError, match="not a store"):
        load_stores((tmp_path / "nowhere",))


def test_zero_means_outside():
    coded = encode(np.array([[0.0, 1.0, 0.5]], dtype=np.float32), np.array([[True, True, False]]))
    assert coded.tolist() == [[1, 255, 0]]

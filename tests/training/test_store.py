import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kneegrade.anatomy import UserLandmarks
from kneegrade.anatomy.landmark_files import write_pts
from kneegrade.anatomy.landmark_scheme import ARTICULAR
from kneegrade.errors import RecipeError
from kneegrade.phantom import DicomOptions, FilmOptions, render_film, render_roi, sample_knee, write_film
from kneegrade.training.build_dataset import build_dataset
from kneegrade.training.dataset import encode, load_datasets


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
    bad = build_dataset(manifest, tmp_path / "store", progress=lambda done, total: seen.append((done, total)))
    assert len(bad) == 1
    assert "1.png" in bad[0]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    store = load_datasets((tmp_path / "store",))
    assert store.subject.tolist() == ["0", "2"]
    assert [int(t[:5].argmax()) for t in store.targets] == [manifest["kl"][0], manifest["kl"][2]]
    assert not list(tmp_path.glob("*.tmp"))


def test_stored_knees_are_level_and_lateral_left(manifest, tmp_path):
    build_dataset(manifest, tmp_path / "store")
    points = load_datasets((tmp_path / "store",)).landmarks_px
    np.testing.assert_allclose(points[:, 47, 1], points[:, 63, 1], atol=1e-3)
    assert (points[:, 47, 0] < points[:, 63, 0]).all()


def test_several_stores_are_one(manifest, tmp_path):
    build_dataset(manifest, tmp_path / "a")
    build_dataset(manifest, tmp_path / "b")
    assert len(load_datasets((tmp_path / "a", tmp_path / "b"))) == 4


def test_an_existing_folder_is_not_overwritten_and_no_store_is_a_sentence(manifest, tmp_path):
    (tmp_path / "store").mkdir()
    with pytest.raises(RecipeError, match="exists"):
        build_dataset(manifest, tmp_path / "store")
    with pytest.raises(RecipeError, match="not a store"):
        load_datasets((tmp_path / "nowhere",))


def test_zero_means_outside():
    coded = encode(np.array([[0.0, 1.0, 0.5]], dtype=np.float32), np.array([[True, True, False]]))
    assert coded.tolist() == [[1, 255, 0]]


@pytest.fixture
def films(tmp_path) -> pd.DataFrame:
    """Two bilateral films without landmarks, and a third that is broken."""
    rows = []
    for index in range(3):
        film = render_film(8, index, FilmOptions("bilateral", pixel_spacing_mm=0.35))
        path = tmp_path / f"{index}.dcm"
        write_film(path, film, DicomOptions(modality="CR", compression="none"))
        for shown in film.knees:
            rows.append({"image_path": str(path), "subject_id": str(index), "side": shown.side, "split": "train",
                         "source": "film", "kl": shown.knee.grades["kl"], "truth": shown.landmarks_px})  # fmt: skip
    (tmp_path / "2.dcm").write_bytes(b"broken")
    return pd.DataFrame(rows)


def test_landmarks_are_found_and_go_to_the_right_side(films, tmp_path):
    bad = build_dataset(films.drop(columns="truth"), tmp_path / "found", workers=2)
    assert [line.split(", ")[1][0] for line in bad] == ["R", "L"]
    found = load_datasets((tmp_path / "found",))
    assert (found.trust < 1).all()
    marked = films.iloc[:4].assign(landmarks_px=[p.ravel() for p in films["truth"][:4]])
    build_dataset(marked.drop(columns="truth"), tmp_path / "marked")
    true = load_datasets((tmp_path / "marked",))
    assert found.targets[:, :5].argmax(1).tolist() == true.targets[:, :5].argmax(1).tolist()
    articular = list(ARTICULAR)
    off = np.linalg.norm(found.landmarks_px[:, articular] - true.landmarks_px[:, articular], axis=-1)
    assert np.median(off) < 6  # of 384 pixels; the other knee would be hundreds away
    assert len(np.load(tmp_path / "found" / "images.npy", mmap_mode="r")) == 4


def test_a_stopped_store_goes_on_and_tries_the_bad_films_again(manifest, tmp_path):
    class StoppedError(Exception):
        pass

    def stop(done, total):
        if done == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        build_dataset(manifest, tmp_path / "store", progress=stop)
    Image.fromarray(np.full((300, 300), 90, dtype=np.uint8)).save(tmp_path / "1.png")  # mended in the meantime
    seen = []
    bad = build_dataset(manifest, tmp_path / "store", progress=lambda done, total: seen.append(done))
    assert bad == []
    assert seen[-1] == 3
    assert len(load_datasets((tmp_path / "store",))) == 3


def test_an_unfinished_store_of_other_knees_is_not_thrown_away(manifest, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_dataset(manifest, tmp_path / "store", progress=stop)
    with pytest.raises(RecipeError, match="unfinished store of other knees"):
        build_dataset(manifest.iloc[:2], tmp_path / "store")


def test_a_store_without_one_knee_does_not_appear(manifest, tmp_path):
    with pytest.raises(RecipeError, match=r"Not one of 1 knees could be cut; the first: .*1\.png"):
        build_dataset(manifest.iloc[[1]].reset_index(drop=True), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_person_in_two_splits_of_two_stores_is_refused(manifest, tmp_path):
    build_dataset(manifest, tmp_path / "a")
    build_dataset(manifest.assign(split="test"), tmp_path / "b")
    with pytest.raises(RecipeError, match="2 people are in more than one split"):
        load_datasets((tmp_path / "a", tmp_path / "b"))


def test_a_users_own_landmarks_take_the_detectors_place(films, tmp_path):
    """Named by barcode; a film without any is left to the detector, and so is a knee that was not marked."""
    films = films.iloc[:4].assign(barcode=["", "", "0166", "0166"])
    truth = films.pop("truth")
    marks = tmp_path / "marks"
    marks.mkdir()
    right_first = sorted(range(4), key=lambda row: (films["image_path"].iloc[row], films["side"].iloc[row] != "R"))
    write_pts(marks / "0166.pts", np.stack([truth.iloc[row] for row in right_first[2:]]) + 1.0)
    assert build_dataset(films, tmp_path / "store", marked=UserLandmarks(marks, unit="px")) == []
    store = load_datasets((tmp_path / "store",))
    assert (store.trust[:2] < 1).all()
    assert store.trust[2:].tolist() == [1, 1]
    with pytest.raises(RecipeError, match=r"holds no landmarks of any of the 1 films.*0\.dcm"):
        build_dataset(films.iloc[:2], tmp_path / "none", marked=UserLandmarks(marks, unit="px"))
    one = tmp_path / "one"
    one.mkdir()
    write_pts(one / "1.pts", truth.iloc[right_first[2]][None])
    build_dataset(films, tmp_path / "half", marked=UserLandmarks(one, unit="px"))
    half = load_datasets((tmp_path / "half",)).trust[2:]
    assert sorted(half == 1) == [False, True]
    build_dataset(films.assign(landmarks_px=[p.ravel() + 1.0 for p in truth]), tmp_path / "same")
    same = load_datasets((tmp_path / "same",))
    np.testing.assert_allclose(store.landmarks_px[2:], same.landmarks_px[2:], atol=0.1)

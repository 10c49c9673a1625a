import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kneegrade.anatomy import LandmarkDetector, UserLandmarks
from kneegrade.anatomy.geometry import ROI_PLATEAU_WIDTHS
from kneegrade.anatomy.landmark_files import write_pts
from kneegrade.anatomy.landmark_scheme import ARTICULAR
from kneegrade.cohorts.film_manifests import manifest_from_films, manifest_from_landmarks
from kneegrade.errors import RecipeError
from kneegrade.imaging import read_radiograph
from kneegrade.phantom import DicomOptions, FilmOptions, render_film, render_roi, sample_knee, write_film
from kneegrade.training.build_dataset import build_dataset, knee_picture
from kneegrade.training.dataset import DATASET_PX, load_datasets


@pytest.fixture
def manifest(tmp_path) -> pd.DataFrame:
    """Three phantoms as PNG files; the second file is damaged."""
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


def test_a_damaged_picture_is_reported_and_left_out(manifest, tmp_path):
    calls = []
    left_out = build_dataset(manifest, tmp_path / "data", progress=lambda done, films: calls.append((done, films)))
    assert len(left_out) == 1
    assert "1.png" in left_out[0]
    assert calls == [(1, 3), (2, 3), (3, 3)]
    dataset = load_datasets((tmp_path / "data",))
    assert dataset.subject.tolist() == ["0", "2"]
    assert [int(t[:5].argmax()) for t in dataset.targets] == [manifest["kl"][0], manifest["kl"][2]]
    assert not list(tmp_path.glob("*.tmp"))


def test_knees_are_level_and_lateral_on_the_left(manifest, tmp_path):
    build_dataset(manifest, tmp_path / "data")
    points = load_datasets((tmp_path / "data",)).landmarks_px
    np.testing.assert_allclose(points[:, 47, 1], points[:, 63, 1], atol=1e-3)
    assert (points[:, 47, 0] < points[:, 63, 0]).all()


def test_several_datasets_are_joined(manifest, tmp_path):
    build_dataset(manifest, tmp_path / "a")
    build_dataset(manifest, tmp_path / "b")
    assert len(load_datasets((tmp_path / "a", tmp_path / "b"))) == 4


def test_an_existing_folder_is_not_overwritten(manifest, tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(RecipeError, match="exists"):
        build_dataset(manifest, tmp_path / "data")


@pytest.fixture
def films(tmp_path) -> pd.DataFrame:
    """Two bilateral films without landmarks, and a third one that is damaged."""
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


def test_detected_landmarks_belong_to_the_right_side(films, tmp_path):
    left_out = build_dataset(films.drop(columns="truth"), tmp_path / "detected", workers=2)
    assert [line.split(", ")[1][0] for line in left_out] == ["R", "L"]
    detected = load_datasets((tmp_path / "detected",))
    assert (detected.landmark_weight < 1).all()
    marked = films.iloc[:4].assign(landmarks_px=[p.ravel() for p in films["truth"][:4]])
    build_dataset(marked.drop(columns="truth"), tmp_path / "marked")
    true = load_datasets((tmp_path / "marked",))
    assert detected.targets[:, :5].argmax(1).tolist() == true.targets[:, :5].argmax(1).tolist()
    articular = list(ARTICULAR)
    error = np.linalg.norm(detected.landmarks_px[:, articular] - true.landmarks_px[:, articular], axis=-1)
    assert np.median(error) < 6  # of 384 pixels; the other knee would be hundreds of pixels away
    assert len(np.load(tmp_path / "detected" / "images.npy", mmap_mode="r")) == 4


def test_a_stopped_call_is_continued_and_damaged_films_are_tried_again(manifest, tmp_path):
    class StoppedError(Exception):
        pass

    def stop(done, films):
        if done == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        build_dataset(manifest, tmp_path / "data", progress=stop)
    Image.fromarray(np.full((300, 300), 90, dtype=np.uint8)).save(tmp_path / "1.png")  # repaired in the meantime
    calls = []
    left_out = build_dataset(manifest, tmp_path / "data", progress=lambda done, films: calls.append(done))
    assert left_out == []
    assert calls[-1] == 3
    assert len(load_datasets((tmp_path / "data",))) == 3


def test_an_unfinished_dataset_of_other_knees_is_kept(manifest, tmp_path):
    def stop(done, films):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_dataset(manifest, tmp_path / "data", progress=stop)
    with pytest.raises(RecipeError, match="unfinished dataset of other knees"):
        build_dataset(manifest.iloc[:2], tmp_path / "data")


def test_a_dataset_without_any_knee_is_not_written(manifest, tmp_path):
    with pytest.raises(RecipeError, match=r"None of the 1 knees could be cropped; the first: .*1\.png"):
        build_dataset(manifest.iloc[[1]].reset_index(drop=True), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_person_in_two_splits_of_two_datasets_is_refused(manifest, tmp_path):
    build_dataset(manifest, tmp_path / "a")
    build_dataset(manifest.assign(split="test"), tmp_path / "b")
    with pytest.raises(RecipeError, match="2 subjects are in more than one split"):
        load_datasets((tmp_path / "a", tmp_path / "b"))


def test_the_users_landmarks_replace_the_detectors(films, tmp_path):
    """Named by barcode; the detector finds the knees of films, or sides, that the user did not mark."""
    films = films.iloc[:4].assign(barcode=["", "", "0166", "0166"])
    truth = films.pop("truth")
    marks = tmp_path / "marks"
    marks.mkdir()
    right_first = sorted(range(4), key=lambda row: (films["image_path"].iloc[row], films["side"].iloc[row] != "R"))
    write_pts(marks / "0166.pts", np.stack([truth.iloc[row] for row in right_first[2:]]) + 1.0)
    assert build_dataset(films, tmp_path / "data", marked=UserLandmarks(marks, unit="px")) == []
    dataset = load_datasets((tmp_path / "data",))
    assert (dataset.landmark_weight[:2] < 1).all()
    assert dataset.landmark_weight[2:].tolist() == [1, 1]
    with pytest.raises(RecipeError, match=r"contains no landmarks for any of the 1 films.*0\.dcm"):
        build_dataset(films.iloc[:2], tmp_path / "none", marked=UserLandmarks(marks, unit="px"))
    one = tmp_path / "one"
    one.mkdir()
    write_pts(one / "1.pts", truth.iloc[right_first[2]][None])
    build_dataset(films, tmp_path / "half", marked=UserLandmarks(one, unit="px"))
    half = load_datasets((tmp_path / "half",)).landmark_weight[2:]
    assert sorted(half == 1) == [False, True]
    build_dataset(films.assign(landmarks_px=[p.ravel() + 1.0 for p in truth]), tmp_path / "same")
    same = load_datasets((tmp_path / "same",))
    np.testing.assert_allclose(dataset.landmarks_px[2:], same.landmarks_px[2:], atol=0.1)


def test_knee_picture_needs_a_side_and_a_readable_film(manifest):
    table = manifest.assign(side="R")
    assert knee_picture(table.iloc[[0]]).shape == (DATASET_PX, DATASET_PX)
    assert knee_picture(table.iloc[[1]]) is None
    assert knee_picture(manifest.iloc[[0]]) is None
    assert knee_picture(table.iloc[[0]].assign(image_path="nowhere.png")) is None


def test_pictures_of_a_stretched_film_are_the_crops_that_are_graded(tmp_path):
    """Whether the detector, the manifest or the user provides the landmarks."""
    film = render_film(1, 0, FilmOptions("single_left", longest_px=900))
    height, width = film.pixels.shape
    grey = Image.fromarray(np.rint(film.pixels * 255).astype(np.uint8)).resize((round(1.3 * width), height))
    (tmp_path / "films").mkdir()
    grey.save(tmp_path / "films" / "film.png")
    detector = LandmarkDetector(roi_px=DATASET_PX)
    (knee,), _ = detector.find(read_radiograph(tmp_path / "films" / "film.png"))
    assert knee.pixel_aspect > 1.2
    write_pts(tmp_path / "film.pts", knee.landmarks_px)
    stored, _ = manifest_from_films(tmp_path / "films", detector)
    marked, _ = manifest_from_landmarks(tmp_path / "films", UserLandmarks(tmp_path / "film.pts"))
    plain = stored.drop(columns=["landmarks_px", "pixel_aspect"])
    tables = {"stored": stored, "marked": marked.assign(side=knee.side), "detected": plain, "of_user": plain}
    for name, table in tables.items():
        user = UserLandmarks(tmp_path / "film.pts") if name == "of_user" else None
        build_dataset(table, tmp_path / name, extent_in_plateau_widths=ROI_PLATEAU_WIDTHS, marked=user)
        (picture,) = load_datasets((tmp_path / name,)).images
        assert np.corrcoef(picture[knee.inside], knee.roi[knee.inside])[0, 1] > 0.998, name
    build_dataset(stored.assign(pixel_aspect=1.0), tmp_path / "stretched", extent_in_plateau_widths=ROI_PLATEAU_WIDTHS)
    (picture,) = load_datasets((tmp_path / "stretched",)).images
    assert np.corrcoef(picture[knee.inside], knee.roi[knee.inside])[0, 1] < 0.98

"""Labels of readers as other commands take them."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reading_folders import write_reading_folder

from kneegrade.cohorts import load_labels
from kneegrade.cohorts.build_manifest import csv_manifest
from kneegrade.cohorts.manifest import landmark_array, load_manifest
from kneegrade.evaluation.audit import audit_labels
from kneegrade.reporting import write_inputs
from kneegrade.schema import TARGET_NAMES
from kneegrade.server.reading.blind_study import Study, open_study
from kneegrade.server.reading.folder_store import FolderStore
from kneegrade.server.reading.labels import label_notes, label_rows, reading_rows, write_labels
from kneegrade.server.reading.reading_desk import ReadingDesk
from kneegrade.server.reading.review import Reading
from kneegrade.server.reading.standing_readings import standing_readings


def read(store, number, *, status="read", reader="anna", **changes):
    """Save a reading of a film in which the first knee has these changes."""
    desk, key = ReadingDesk(store), store.worklist()[number].key
    film = desk.film(key, reader)
    reading = film["reading"] | {"status": status}
    reading["knees"][0] = reading["knees"][0] | changes
    return desk.save(key, reader, Reading.model_validate(reading), based_on=film["revision"])


@pytest.fixture
def read_folder(folder):
    """Four films: corrected grade and landmark, not gradable on the right, signed, only begun."""
    store = FolderStore(folder)
    points = store.film(store.worklist()[0].key).knees[0]["landmarks_px"]
    moved = [[x + 1.5, y] if i == 50 else [x, y] for i, (x, y) in enumerate(points)]
    read(store, 0, grades=dict(zip(TARGET_NAMES, (3, 0, 1, 0, 0, 0, 2), strict=True)), landmarks_px=moved)
    read(store, 1, gradable=False, reason="metal")
    read(store, 2, status="signed", reader="ben")
    read(store, 3, status="draft")
    write_labels(store, folder)
    return folder


def test_cohort_csv_takes_the_labels_as_they_are(read_folder):
    table = csv_manifest(read_folder / "labels.csv")
    assert len(table) == 5  # 2 + 1 + 2 gradable knees of finished readings
    row = table[(table["subject_id"] == "film-01") & (table["side"] == "R")].iloc[0]
    assert [row[name] for name in TARGET_NAMES] == [3, 0, 1, 0, 0, 0, 2]
    text = pd.read_csv(read_folder / "labels.csv")
    assert list(text["reader"].unique()) == ["anna", "ben"]
    assert text["time"].str.endswith("+00:00").all()


def test_audit_takes_the_labels_as_they_are(read_folder):
    for name in ("labels.csv", "labels.parquet"):
        audited = audit_labels(load_labels(read_folder / name))
        assert len(audited) == 5
        assert audited.loc[audited["codes"].str.contains("kl3_needs_jsn"), "subject_id"].tolist() == ["film-01"]


def test_the_parquet_table_is_a_manifest_with_the_corrected_landmarks(read_folder):
    table = load_manifest(read_folder / "labels.parquet")
    corrected = table["knee_id"] == "read-film-01-000-R"
    points = landmark_array(table)[corrected.to_numpy()][0]
    detected = np.array(
        FolderStore(read_folder).film(FolderStore(read_folder).worklist()[0].key).knees[0]["landmarks_px"]
    )
    assert np.flatnonzero(np.abs(points - detected).max(1) > 1).tolist() == [50]
    assert set(table["revision"]) == {1}
    assert table[list(TARGET_NAMES)].equals(csv_manifest(read_folder / "labels.csv")[list(TARGET_NAMES)])


def test_readings_have_every_finished_reading_and_those_of_kneegrade(read_folder):
    table = pd.read_csv(read_folder / "readings.csv")
    assert table["reader"].value_counts().to_dict() == {"kneegrade": 6, "anna": 4, "ben": 2}
    labels = labels_of(read_folder)
    joined = labels.merge(table[table["reader"] != "kneegrade"], on=["image_path", "subject_id", "side", "visit"])
    assert len(joined) == len(labels)
    refused = table[table["gradable"] == 0]
    assert refused["reason"].tolist() == ["metal"]
    assert refused["kl"].isna().all()


def test_without_a_finished_reading_there_is_no_manifest(folder):
    assert [path.name for path in write_labels(FolderStore(folder), folder)] == ["labels.csv", "readings.csv"]


def test_texts_that_a_spreadsheet_would_run_are_escaped(folder):
    store = FolderStore(folder)
    read(store, 0, gradable=False, reason="=1+1")
    write_labels(store, folder)
    assert "'=1+1" in (folder / "readings.csv").read_text()


def kneegrade(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kneegrade", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.slow
def test_calibrate_dataset_and_train_take_the_labels_as_they_are(tmp_path):
    folder = write_reading_folder(tmp_path, 60)
    store = FolderStore(folder)
    for number in range(60):
        read(store, number)
    labels = folder / "labels.parquet"
    assert "labels.parquet" in kneegrade("viewer", folder, "--export").stdout
    done = kneegrade("calibrate", "--manifest", labels, "--split", "train", "--site", "clinic", "-o", tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "weights.safetensors").is_file()
    done = kneegrade("dataset", labels, "-o", tmp_path / "dataset", "--workers", "1")
    assert done.returncode == 0, done.stderr
    recipe = Path(__file__).parents[3] / "recipes" / "paper" / "proposed.yaml"
    dataset = f"data.datasets=[{tmp_path / 'dataset'}]"
    settings = (dataset, "model.trunk=resnet18", "train.epochs=1", "train.batch_size=8")
    options = [option for setting in settings for option in ("--set", setting)]
    done = kneegrade("train", recipe, *options, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "weights.safetensors").is_file()


def labels_of(folder):
    return pd.read_csv(folder / "labels.csv")


def test_films_that_were_moved_keep_their_labels(read_folder):
    before, manifest = labels_of(read_folder), (read_folder / "labels.parquet").read_bytes()
    (read_folder.parent / "films").rename(read_folder.parent / "elsewhere")
    store = FolderStore(read_folder)
    write_labels(store, read_folder)
    pd.testing.assert_frame_equal(labels_of(read_folder), before)
    assert (read_folder / "labels.parquet").read_bytes() == manifest
    assert "3 read films are not where they were graded" in label_notes(store, read_folder)[0]


def test_labels_do_not_name_another_film_that_has_the_old_name(read_folder):
    films = read_folder.parent / "films"
    (films / "film-03.png").replace(films / "film-01.png")
    store = FolderStore(read_folder)
    keys = [film.key for film in store.worklist()]
    rows = [(row["image_path"], row["reader"]) for row in label_rows(store)]
    assert (rows[0][0], *rows[1:]) == (str(films / "film-02.png"), *[(str(films / "film-01.png"), "ben")] * 2)
    found = {row["film"]: row["image_path"] for row in reading_rows(store)}
    assert (found[keys[0]], found[keys[2]]) == ("", str(films / "film-01.png"))
    assert "1 read films are not found, and files with another content" in label_notes(store, read_folder)[0]


def test_no_export_removes_an_earlier_manifest(read_folder):
    (read_folder / "reviews.jsonl").unlink()
    write_labels(FolderStore(read_folder), read_folder)
    assert len(load_manifest(read_folder / "labels.parquet")) == 5


def test_films_of_an_archive_have_labels(read_folder):
    films = read_folder.parent / "films"
    archive = Path(shutil.make_archive(str(read_folder.parent / "all"), "zip", films))
    shutil.rmtree(films)
    write_inputs([archive], read_folder)
    store = FolderStore(read_folder)
    write_labels(store, read_folder)
    assert len(labels_of(read_folder)) == 5
    assert labels_of(read_folder)["image_path"][0] == f"{archive}/film-01.png"
    assert ["3 read films are in archives" in note for note in label_notes(store, read_folder)] == [True, False]


def blind(store, kl, readers, study="pilot"):
    """Save finished blind readings of the first film with this KL grade on both sides."""
    study = Study(study, tuple(film.key for film in store.worklist()), 0.0, 0)
    for reader in readers:
        desk, key = ReadingDesk(store, study, reader == "adjudication"), store.worklist()[0].key
        reading = desk.film(key, reader)["reading"] | {"status": "read"}
        for knee in reading["knees"]:
            knee["grades"] = {"kl": kl}
        desk.save(key, reader, Reading.model_validate(reading), based_on=0)


def standing_kl(store):
    return standing_readings(store)[store.worklist()[0].key].reading["knees"][0]["grades"].get("kl")


def test_an_adjudication_stands_before_a_later_shared_reading(folder):
    store = FolderStore(folder)
    blind(store, 4, ["anna", "adjudication"])
    read(store, 0, grades={"kl": 2})
    assert standing_kl(store) == 4


def test_a_confirmation_does_not_replace_blind_readings(folder):
    store = FolderStore(folder)
    blind(store, 4, ["anna", "ben"])
    read(store, 0)
    assert standing_kl(store) == 4
    read(store, 0, grades={"kl": 2})
    assert standing_kl(store) == 2


def test_a_study_gives_labels_when_all_its_readers_have_read(folder):
    keys = [film.key for film in FolderStore(folder).worklist()]
    open_study(folder, "pilot", keys, repeats=0, seed=0, readers=["anna", "ben"])
    open_study(folder, "pilot", [], repeats=0, seed=0, readers=["ben", "carla"])
    store = FolderStore(folder)
    blind(store, 4, ["anna", "ben"])
    assert keys[0] not in standing_readings(store)
    assert label_notes(store, folder)[0].startswith("1 films of the study pilot wait for carla")
    blind(store, 4, ["carla"])
    assert standing_kl(store) == 4
    assert not [note for note in label_notes(store, folder) if "wait for" in note]


def test_a_study_that_waits_for_a_reader_does_not_hold_up_another_study(folder):
    keys = [film.key for film in FolderStore(folder).worklist()]
    for name, readers in (("done", ["anna", "ben"]), ("waits", ["carla", "dora"])):
        open_study(folder, name, keys, repeats=0, seed=0, readers=readers)
    store = FolderStore(folder)
    blind(store, 4, ["anna", "ben"], "done")
    blind(store, 1, ["carla"], "waits")
    assert standing_kl(store) == 4
    assert label_notes(store, folder)[0].startswith("1 films of the study waits wait for dora")


def test_only_the_differences_of_its_own_study_are_adjudicated(folder):
    store = FolderStore(folder)
    keys = tuple(film.key for film in store.worklist())
    for name, second in (("same", 2), ("differ", 3)):
        blind(store, 2, ["anna"], name)
        blind(store, second, ["ben"], name)
    listed = {
        name: [film["key"] for film in ReadingDesk(store, Study(name, keys, 0.0, 0), True).worklist("carla")["films"]]
        for name in ("same", "differ")
    }
    assert listed == {"same": [], "differ": [keys[0]]}

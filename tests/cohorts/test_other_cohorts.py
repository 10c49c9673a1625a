import json
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from kneegrade.cohorts import (
    Counts,
    FakeOptions,
    csv_manifest,
    load_manifest,
    most_manifest,
    oai_manifest,
    phantom_manifest,
    write_fake_most,
    write_fake_oai,
)
from kneegrade.cohorts.build_manifest import split_by_subject
from kneegrade.cohorts.most import most_readings
from kneegrade.cohorts.oai import oai_files, oai_readings
from kneegrade.errors import CohortError
from kneegrade.imaging import read_radiograph
from kneegrade.phantom import Cohort, write_cohort
from kneegrade.schema import TARGET_NAMES


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    root = tmp_path_factory.mktemp("oai")
    write_fake_oai(root, FakeOptions(subjects=9, seed=3, longest_px=220))
    return root, json.loads((root / "planted.json").read_text())


def halves(table):
    """How many half grades were flagged."""
    return int(table["half_grades"].str.split(",").map(lambda names: len([name for name in names if name])).sum())


def check_planted(root, planted):
    """Every quirk is met as often as it was planted."""
    counts = Counts()
    table = oai_manifest(root, counts=counts)
    lost = 2 * planted.get("films not on disk", 0)
    assert counts.met["rows read"] == planted["rows"]
    assert counts.met["rows that repeat another, dropped"] == planted["rows that repeat another"]
    assert counts.met["read by two projects, one chosen"] == planted["early films read again by project 37"]
    assert counts.met["READPRJ 42 counted as 37"] == planted.get("READPRJ 42", 0)
    packed = planted.get("films packed as .tar.gz", 0)
    assert counts.met["films still packed as .tar.gz: unpack them, or give --unpack-to"] == packed
    assert counts.met["knees whose film is not on disk"] == lost + 2 * packed
    assert counts.met["series of other joints or sequences, left out"] == planted["series of other joints"]
    assert counts.met["knees with a measured joint space"] == planted["knees with a measured joint space"]
    assert table["image_path"].nunique() == planted["films"]
    assert len(table) == 2 * planted["films"]
    assert (table["barcode"].str.len() == 12).all()
    return table, counts


def test_the_fake_oai_is_read_as_it_was_planted(fake):
    table, _ = check_planted(*fake)
    assert set(table["visit"]) <= {0, 12, 72}
    assert (table["barcode"].str.len() == 12).all()


@pytest.mark.filterwarnings("ignore:Unknown encoding")
def test_its_films_open_and_bear_their_barcode(fake):
    root, planted = fake
    table = oai_manifest(root)
    inverted = 0
    for path, rows in table.groupby("image_path"):
        header = pydicom.dcmread(path, stop_before_pixels=True, defer_size=1)
        assert header.AccessionNumber == rows["barcode"].iloc[0]
        assert f"oai-{header.PatientID}" == rows["subject_id"].iloc[0]
        inverted += header.PhotometricInterpretation == "MONOCHROME1"
    assert inverted == planted.get("MONOCHROME1 films", 0)
    assert read_radiograph(Path(table["image_path"][0])).pixels.shape[0] > 100


@pytest.mark.slow
def test_sixty_people_with_every_quirk(tmp_path):
    write_fake_oai(tmp_path, FakeOptions(subjects=60, seed=0, longest_px=200))
    planted = json.loads((tmp_path / "planted.json").read_text())
    check_planted(tmp_path, planted)
    for quirk in ("half grades", "READPRJ 42", "films not on disk", "films packed as .tar.gz",
                  "knees with no grade read", "MONOCHROME1 films",
                  "barcodes without their zeros", "DICOM files of an unknown character set", "series of other joints",
                  "early films read again by project 37", "rows that repeat another"):  # fmt: skip
        assert planted[quirk] > 0, quirk
    readings = oai_readings(oai_files(tmp_path))  # those without a film too
    assert halves(readings) == planted["half grades"]
    assert readings[list(TARGET_NAMES)].isna().all(axis=1).sum() == planted["knees with no grade read"]
    unread = readings["osteophyte_femur_medial"].isna() & readings["kl"].notna()
    assert unread.sum() == planted["knees without osteophyte grades"]
    counts = Counts()
    whole = oai_manifest(tmp_path, counts=counts, unpack_to=tmp_path / "unpacked")
    assert counts.met["films unpacked from .tar.gz"] == planted["films packed as .tar.gz"]
    assert whole["image_path"].nunique() == planted["films"] + planted["films packed as .tar.gz"]
    labelled = oai_manifest(tmp_path, protocol="paper")
    assert {"train", "val", "test"} == set(labelled["split"])


def test_the_fake_most_is_read_as_it_was_planted(tmp_path):
    write_fake_most(tmp_path, FakeOptions(subjects=6, seed=2, longest_px=200))
    planted = json.loads((tmp_path / "planted.json").read_text())
    counts = Counts()
    table = most_manifest(tmp_path, counts=counts)
    assert table["image_path"].nunique() == planted["films of PA 10°"]
    assert table["image_path"].str.contains("PA10").all()
    assert set(table["visit"]) == {0, 30}
    assert halves(table) == planted.get("half grades", 0)
    missing = int(table[list(TARGET_NAMES)].isna().sum().sum())
    assert missing == planted.get("codes 8 and 9", 0) + planted.get("letters", 0)


def test_most_names_what_is_wrong(tmp_path):
    with pytest.raises(CohortError, match="no table mostv01235xray"):
        most_readings(tmp_path)
    (tmp_path / "MOSTV01235XRAY.txt").write_text("MOSTID\tV0XRKL\nMB00001\t7\n")
    with pytest.raises(CohortError, match="row 2, column V0XRKL: '7'"):
        most_readings(tmp_path)
    (tmp_path / "MOSTV01235XRAY.txt").write_text("MOSTID\tV0XRKL\nMB00001\t1\nMB00001\t2\n")
    with pytest.raises(CohortError, match="row 3, column MOSTID: 'MB00001'; expected one row per person"):
        most_readings(tmp_path)


def clinic(tmp_path, rows, header="film;patient;knee;KL;JSNm"):
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "clinic.csv").write_text("\n".join([header, *rows]), encoding="latin-1")
    (tmp_path / "map.yaml").write_text(
        "columns: {image_path: film, subject_id: patient, side: knee, kl: KL, jsn_medial: JSNm}\n"
        "sides: {R: rechts, L: links}\nmissing: [9]\nvisit: 3\n"
    )
    return tmp_path / "clinic.csv", tmp_path / "map.yaml"


def test_a_clinics_own_table(tmp_path):
    counts = Counts()
    paths = clinic(
        tmp_path, ["a.png;P1;Rechts;2;9", "a.png;P1;links;0;1", "b.png;P2;rechts;3;2", "no.png;P3;links;1;0"]
    )
    table = csv_manifest(*paths, counts=counts)
    assert table["side"].tolist() == ["R", "L", "R"]
    assert table["kl"].tolist() == [2, 0, 3]
    assert pd.isna(table["jsn_medial"][0])
    assert table["source"].unique().tolist() == ["clinic"]
    assert table["visit"].unique().tolist() == [3]
    assert counts.met["knees without a film, left out"] == 1


def test_a_clinics_own_split_is_kept(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "t.csv").write_text("image_path,subject_id,side,kl,split\na.png,P1,R,2,test\na.png,P1,L,0,test\n")
    assert csv_manifest(tmp_path / "t.csv")["split"].tolist() == ["test", "test"]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["a.png;P1;oben;2;0"], "column KNEE: 'oben'; expected one of rechts, links"),
        (["a.png;;links;2;0"], "column PATIENT: ''; expected a person"),
        (["a.png;P1;links;5;0"], "column KL: '5'"),
        (["a.png;P1;links;1;0", "a.png;P1;links;2;0"], "row 3, column kl: '2'; expected 1, as in row 2"),
        (["x.png;P1;links;1;0"], "None of the 1 readings has its film"),
    ],
)
def test_what_is_wrong_in_a_clinics_table_is_said(tmp_path, rows, told):
    with pytest.raises(CohortError, match=told):
        csv_manifest(*clinic(tmp_path, rows))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("columns: {kl: KL}\nx: 1\n", "x: Extra"),
        ("columns: {grade: KL}\n", "names grade"),
        ("columns: {image_path: film, subject_id: patient, side: knee, kl: KLG}\n", "lacks the columns KLG"),
        ("columns: {kl: KL}\nsides: {rechts: R}\n", "sides.rechts"),
        ("columns: [", "cannot be read"),
    ],
)
def test_a_wrong_mapping_is_said(tmp_path, text, told):
    table, mapping = clinic(tmp_path, ["a.png;P1;links;1;0"])
    mapping.write_text(text)
    with pytest.raises(CohortError, match=told):
        csv_manifest(table, mapping)


def test_splits_are_two_to_one_to_one_in_every_stratum():
    generator = np.random.default_rng(0)
    table = pd.DataFrame(
        {"subject_id": [f"s{i // 2}" for i in range(800)], "kl": pd.array(generator.integers(0, 5, 800), dtype="Int64")}
    )
    split = table["subject_id"].map(split_by_subject(table))
    worst = table.groupby("subject_id")["kl"].transform("max")
    for grade in (2, 3, 4):
        shares = split[worst == grade].value_counts(normalize=True)
        assert shares["train"] == pytest.approx(0.5, abs=0.06)
        assert shares["val"] == pytest.approx(0.25, abs=0.06)
    assert split_by_subject(table, 1) != split_by_subject(table, 0)


def test_phantom_films_are_split_like_a_study(tmp_path):
    write_cohort(tmp_path, Cohort(8, "uniform", seed=5, implants=0.3))
    counts = Counts()
    table = phantom_manifest(tmp_path, counts=counts)
    truth = pd.read_parquet(tmp_path / "truth.parquet")
    assert len(table) == len(truth)
    assert table["kl"].isna().sum() == counts.met["knees whose joint is replaced, no grades"] == 4
    assert set(table["split"]) == {"train", "val", "test"}
    assert len(table["landmarks_px"].iloc[0]) == 148
    table.to_parquet(tmp_path / "m.parquet")
    assert len(load_manifest(tmp_path / "m.parquet")) == len(table)


def test_what_is_no_folder_of_phantom_films_is_a_sentence(tmp_path):
    with pytest.raises(CohortError, match=r"no truth\.parquet"):
        phantom_manifest(tmp_path)
    write_cohort(tmp_path, Cohort(1, kind="rois"))
    with pytest.raises(CohortError, match="single regions"):
        phantom_manifest(tmp_path)

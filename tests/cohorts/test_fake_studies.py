import json
from pathlib import Path

import pydicom
import pytest

from kneegrade.cohorts import Counts, FakeOptions, most_manifest, oai_manifest, write_fake_most, write_fake_oai
from kneegrade.cohorts.oai import oai_files, oai_readings
from kneegrade.imaging import read_radiograph
from kneegrade.schema import TARGET_NAMES


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    root = tmp_path_factory.mktemp("oai")
    write_fake_oai(root, FakeOptions(subjects=9, seed=3, longest_px=220))
    return root, json.loads((root / "planted.json").read_text())


def count_half_grades(table):
    """Return the number of flagged half grades."""
    return int(table["half_grades"].str.split(",").map(lambda names: len([name for name in names if name])).sum())


def check_planted(root, planted):
    """Check that every special case is counted as often as it was written."""
    counts = Counts()
    table = oai_manifest(root, counts=counts)
    lost = 2 * planted.get("films not on disk", 0)
    assert counts.by_name["rows read"] == planted["rows"]
    assert counts.by_name["duplicate rows, excluded"] == planted["rows that repeat another"]
    assert (
        counts.by_name["second readings of a knee by another project, excluded"]
        == planted["early films read again by project 37"]
    )
    assert counts.by_name["readings of project 42, counted as project 37"] == planted.get("READPRJ 42", 0)
    packed = planted.get("films packed as .tar.gz", 0)
    assert counts.by_name["films packed as .tar.gz, excluded (unpack them or use --unpack-to)"] == packed
    assert counts.by_name["knees whose film is listed but not on disk"] == lost + 2 * packed
    assert counts.by_name["series of other joints or sequences, excluded"] == planted["series of other joints"]
    assert counts.by_name["knees with a measured joint space width"] == planted["knees with a measured joint space"]
    assert table["image_path"].nunique() == planted["films"]
    assert len(table) == 2 * planted["films"]
    assert (table["barcode"].str.len() == 12).all()
    return table, counts


def test_fake_oai_counts_match_planted(fake):
    table, _ = check_planted(*fake)
    assert set(table["visit"]) <= {0, 12, 72}
    assert (table["barcode"].str.len() == 12).all()


@pytest.mark.filterwarnings("ignore:Unknown encoding")
def test_fake_oai_films_have_their_barcode(fake):
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
def test_sixty_people_have_every_special_case(tmp_path):
    write_fake_oai(tmp_path, FakeOptions(subjects=60, seed=0, longest_px=200))
    planted = json.loads((tmp_path / "planted.json").read_text())
    check_planted(tmp_path, planted)
    for case in ("half grades", "READPRJ 42", "films not on disk", "films packed as .tar.gz",
                  "knees with no grade read", "MONOCHROME1 films",
                  "barcodes without their zeros", "DICOM files of an unknown character set", "series of other joints",
                  "early films read again by project 37", "rows that repeat another"):  # fmt: skip
        assert planted[case] > 0, case
    readings = oai_readings(oai_files(tmp_path))  # including those without a film
    assert count_half_grades(readings) == planted["half grades"]
    assert readings[list(TARGET_NAMES)].isna().all(axis=1).sum() == planted["knees with no grade read"]
    unread = readings["osteophyte_femur_medial"].isna() & readings["kl"].notna()
    assert unread.sum() == planted["knees without osteophyte grades"]
    counts = Counts()
    whole = oai_manifest(tmp_path, counts=counts, unpack_to=tmp_path / "unpacked")
    assert counts.by_name["films unpacked from .tar.gz"] == planted["films packed as .tar.gz"]
    assert whole["image_path"].nunique() == planted["films"] + planted["films packed as .tar.gz"]
    labelled = oai_manifest(tmp_path, protocol="paper")
    assert {"train", "val", "test"} == set(labelled["split"])


def test_fake_most_counts_match_planted(tmp_path):
    write_fake_most(tmp_path, FakeOptions(subjects=6, seed=2, longest_px=200))
    planted = json.loads((tmp_path / "planted.json").read_text())
    counts = Counts()
    table = most_manifest(tmp_path, counts=counts)
    assert table["image_path"].nunique() == planted["films of PA 10°"]
    assert table["image_path"].str.contains("PA10").all()
    assert set(table["visit"]) == {0, 30}
    assert count_half_grades(table) == planted.get("half grades", 0)
    missing = int(table[list(TARGET_NAMES)].isna().sum().sum())
    assert missing == planted.get("codes 8 and 9", 0) + planted.get("letters", 0)

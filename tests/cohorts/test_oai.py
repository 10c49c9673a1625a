import numpy as np
import pandas as pd
import pytest

from kneegrade.cohorts import Counts, cohort_summary, load_manifest, oai_manifest
from kneegrade.cohorts.oai import COLUMNS, oai_films, oai_readings
from kneegrade.errors import CohortError
from kneegrade.schema import TARGET_NAMES

ENDS = [COLUMNS[name] for name in TARGET_NAMES]


def write_table(root, code, rows, lower=False, name=None):
    """rows: (ID, SIDE, READPRJ, barcode, [seven cells])."""
    header = ["ID", "SIDE", "READPRJ", f"V{code}BARCDBU", *(f"V{code}{end}" for end in ENDS)]
    lines = ["|".join([*map(str, row[:4]), *row[4]]) for row in rows]
    text = "\r\n".join(["|".join(name.lower() if lower else name for name in header), *lines]) + "\r\n"
    root.mkdir(parents=True, exist_ok=True)
    (root / (name or f"kXR_SQ_BU{code}.txt")).write_bytes(text.encode("latin-1"))


def seven(kl, *others):
    return [str(kl), *map(str, others or (0,) * 6)]


def test_spellings_codes_and_half_grades(tmp_path):
    write_table(tmp_path, "00", [
        (9000001, "1: Right", 15, "016600000001", seven(2, "1: 1", "1.4", 0, "1: 1", ".A: Not Expected", ".")),
        (9000001, "2: Left", 15, "16600000001", seven(0)),
    ])  # fmt: skip
    readings = oai_readings(tmp_path).set_index("side")
    assert readings.loc["R", "kl"] == 2
    assert readings.loc["R", ["jsn_lateral", "jsn_medial"]].tolist() == [1, 1]
    assert readings.loc["R", "half_grades"] == "jsn_medial"
    assert pd.isna(readings.loc["R", "osteophyte_tibia_lateral"])
    assert readings.loc["R", "osteophyte_tibia_lateral_missing"] == "Not Expected"
    assert readings.loc["R", "osteophyte_tibia_medial_missing"] == "."
    assert (readings["barcode"] == "016600000001").all()


def test_early_visits_take_project_15_and_late_ones_37_or_42(tmp_path):
    write_table(tmp_path, "00", [(9000001, 1, 37, "1", seven(3)), (9000001, 1, 15, "1", seven(2)),
                                 (9000002, 1, 37, "2", seven(4))])  # fmt: skip
    write_table(tmp_path, "08", [(9000001, 1, 42, "3", seven(1)), (9000001, 1, 37, "3", seven(2)),
                                 (9000002, 2, 42, "4", seven(3))], lower=True)  # fmt: skip
    counts = Counts()
    readings = oai_readings(tmp_path, counts=counts).set_index(["subject_id", "visit"])
    assert readings["kl"].to_dict() == {
        ("9000001", 0): 2, ("9000002", 0): 4, ("9000001", 72): 2, ("9000002", 72): 3
    }  # fmt: skip
    assert counts.met["read by two projects, one chosen"] == 2
    assert counts.met["read by another project alone"] == 1
    assert counts.met["READPRJ 42 counted as 37"] == 1


def test_equal_rows_are_dropped_and_contradicting_ones_refused(tmp_path):
    rows = [(9000001, 1, 15, "1", seven(2)), (9000001, 1, 15, "1", seven(2))]
    write_table(tmp_path, "00", rows)
    counts = Counts()
    assert len(oai_readings(tmp_path, counts=counts)) == 1
    assert counts.met["rows that repeat another, dropped"] == 1
    write_table(tmp_path, "00", [rows[0], (9000001, 1, 15, "1", seven(3))])
    with pytest.raises(CohortError, match="row 3, column kl: '3'; expected 2, as in row 2"):
        oai_readings(tmp_path)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ((9000001, 3, 15, "1", seven(2)), "column SIDE: '3'; expected one of 1, 2"),
        ((9000001, 1, 16, "1", seven(2)), "column READPRJ: '16'; expected one of 15, 37, 42"),
        ((900001, 1, 15, "1", seven(2)), "column ID: '900001'; expected seven digits"),
        ((9000001, 1, 15, "1", seven(5)), "column V00XRKL: '5'; expected a grade from 0 to 4"),
        ((9000001, 1, 15, "1", seven(1, "4")), "column V00XRJSL: '4'; expected a grade from 0 to 3"),
    ],
)
def test_wrong_values_are_sentences(tmp_path, row, told):
    write_table(tmp_path, "00", [row])
    with pytest.raises(CohortError, match=told):
        oai_readings(tmp_path)


def test_a_missing_table_an_unknown_visit_and_a_wrong_table_are_named(tmp_path):
    with pytest.raises(CohortError, match="no table kXR_SQ_BU"):
        oai_readings(tmp_path)
    write_table(tmp_path, "00", [(9000001, 1, 15, "1", seven(2))])
    with pytest.raises(CohortError, match="Visits 02"):
        oai_readings(tmp_path, ["00", "02"])
    write_table(tmp_path, "00", [(9000001, 1, 15, "1", seven(2))], name="kxr_sq_bu01.txt")
    with pytest.raises(CohortError, match="lacks the columns V01BARCDBU, V01XRKL"):
        oai_readings(tmp_path, ["01"])


def release(root, films, contents):
    root.mkdir(parents=True, exist_ok=True)
    for folder in films:
        (root / folder).mkdir(parents=True)
        (root / folder / "001").write_bytes(b"film")
    lines = ["Folder,ParticipantID,StudyDate,Barcode,StudyDescription,SeriesDescription"]
    lines += [f"{folder},{person},20040101,{barcode},OAI,{series}" for folder, person, barcode, series in contents]
    (root / "contents.csv").write_text("\n".join(lines))


KNEE, HAND = "Bilateral PA Fixed Flexion Knee", "PA Right Hand"


@pytest.fixture
def download(tmp_path):
    """Six people; one film is not on disk, one barcode in no list, one leads to another person's film."""
    people = [9000001 + i for i in range(8)]
    whole, none = seven(2, 1, 1, 1, 1, 1, 1), ".A"
    rows = []
    for number, person in enumerate(people):
        cells = whole if number % 2 == 0 else seven(number % 3, 0, 0, none, none, none, none)
        rows += [(person, side, 15, f"0166{number:08d}", cells) for side in (1, 2)]
    write_table(tmp_path / "tables", "00", rows)
    contents = [(f"0.C.2/{p}/20040101/{i:08d}", p, f"0166{i:08d}", KNEE) for i, p in enumerate(people) if i != 6]
    contents[3] = (contents[3][0], people[0], *contents[3][2:])
    contents.append((f"0.C.2/{people[0]}/20040101/99", people[0], "019900000000", HAND))
    release(tmp_path / "OAI_00m", [row[0] for i, row in enumerate(contents) if i != 5 and row[3] == KNEE], contents)
    return tmp_path


def test_films_are_found_by_barcode_and_what_is_lost_is_counted(download):
    films = oai_films(download)
    assert len(films) == 7
    assert films["path"].notna().sum() == 6
    counts = Counts()
    table = oai_manifest(download, counts=counts)
    assert len(table) == 10
    assert counts.met["barcodes in no contents.csv"] == 2
    assert counts.met["films in contents.csv, not on disk"] == 2
    assert counts.met["barcodes that lead to another person's film"] == 2
    assert counts.met["knees without a film, left out"] == 6
    assert table["view"].eq("PA").all()
    text = cohort_summary(table, counts)
    assert "10 knees of 5 people on 5 films" in text
    assert "knees without a film, left out: 6" in text


def test_both_knees_of_a_film_share_it_and_the_split(download):
    table = oai_manifest(download)
    assert (table.groupby("image_path")["split"].nunique() == 1).all()
    assert (table.groupby("image_path")["side"].nunique() == 2).all()


def test_the_papers_protocol_keeps_all_seven_grades_or_none(download):
    table = oai_manifest(download, protocol="paper")
    read = table[list(TARGET_NAMES)].notna()
    assert (read.all(axis=1) | ~read.any(axis=1)).all()
    unlabelled = table[~read.any(axis=1)]
    assert len(unlabelled)
    assert (unlabelled["split"] == "train").all()
    natural = oai_manifest(download, protocol="natural")
    assert natural["kl"].notna().all()
    assert natural["osteophyte_femur_medial"].isna().any()


def test_a_manifest_survives_its_file(download, tmp_path):
    oai_manifest(download).to_parquet(tmp_path / "m.parquet")
    read = load_manifest(tmp_path / "m.parquet")
    assert read["kl"].tolist() == oai_manifest(download)["kl"].tolist()
    assert np.isin(read["visit"], [0]).all()

import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kneegrade.cohorts import Counts, cohort_summary, load_manifest, oai_manifest
from kneegrade.cohorts.oai import GRADE_COLUMNS, oai_files
from kneegrade.cohorts.oai import oai_films as films_of
from kneegrade.cohorts.oai import oai_readings as readings_of
from kneegrade.cohorts.oai_film_lists import FilmFinder
from kneegrade.cohorts.table_files import read_table
from kneegrade.errors import CohortError
from kneegrade.schema import TARGET_NAMES

ENDS = [GRADE_COLUMNS[name] for name in TARGET_NAMES]


def oai_readings(root, visits=None, counts=None):
    return readings_of(oai_files(root), visits, counts)


def oai_films(root, counts=None):
    return films_of(oai_files(root), FilmFinder(root, None, counts or Counts()))


def write_table(root, code, rows, lower=False, name=None):
    """Write a table of readings; rows are (ID, SIDE, READPRJ, barcode, [seven cells])."""
    header = ["ID", "SIDE", "READPRJ", f"V{code}BARCDBU", *(f"V{code}{end}" for end in ENDS)]
    lines = ["|".join([*map(str, row[:4]), *row[4]]) for row in rows]
    text = "\r\n".join(["|".join(name.lower() if lower else name for name in header), *lines]) + "\r\n"
    root.mkdir(parents=True, exist_ok=True)
    (root / (name or f"kXR_SQ_BU{code}.txt")).write_bytes(text.encode("latin-1"))


def seven(kl, *others):
    return [str(kl), *map(str, others or (0,) * 6)]


def test_labels_codes_and_half_grades(tmp_path):
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


def test_early_visits_prefer_project_15_and_late_visits_37_or_42(tmp_path):
    write_table(tmp_path, "00", [(9000001, 1, 37, "1", seven(3)), (9000001, 1, 15, "1", seven(2)),
                                 (9000002, 1, 37, "2", seven(4))])  # fmt: skip
    write_table(tmp_path, "08", [(9000001, 1, 42, "3", seven(1)), (9000001, 1, 37, "3", seven(2)),
                                 (9000002, 2, 42, "4", seven(3))], lower=True)  # fmt: skip
    counts = Counts()
    readings = oai_readings(tmp_path, counts=counts).set_index(["subject_id", "visit"])
    assert readings["kl"].to_dict() == {
        ("oai-9000001", 0): 2, ("oai-9000002", 0): 4, ("oai-9000001", 72): 2, ("oai-9000002", 72): 3
    }  # fmt: skip
    assert counts.by_name["second readings of a knee by another project, excluded"] == 2
    assert counts.by_name["knees read only by a project not usual for the visit"] == 1
    assert counts.by_name["readings of project 42, counted as project 37"] == 1


def test_duplicate_rows_are_dropped_and_contradictions_reported(tmp_path):
    rows = [(9000001, 1, 15, "1", seven(2)), (9000001, 1, 15, "1", seven(2))]
    write_table(tmp_path, "00", rows)
    counts = Counts()
    assert len(oai_readings(tmp_path, counts=counts)) == 1
    assert counts.by_name["duplicate rows, excluded"] == 1
    write_table(tmp_path, "00", [rows[0], (9000001, 1, 15, "1", seven(3))])
    with pytest.raises(CohortError, match="row 3, column kl: '3'; expected 2, as in row 2"):
        oai_readings(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((9000001, 3, 15, "1", seven(2)), "column SIDE: '3'; expected one of 1, 2, R, L, Right, Left"),
        ((9000001, 1, 16, "1", seven(2)), "column READPRJ: '16'; expected one of 15, 37, 42"),
        ((900001, 1, 15, "1", seven(2)), "column ID: '900001'; expected seven digits"),
        ((9000001, 1, 15, "1", seven(5)), "column V00XRKL: '5'; expected a grade from 0 to 4"),
        ((9000001, 1, 15, "1", seven(1, "4", 0, 0, 0, 0, 0)), "column V00XRJSL: '4'; expected a grade from 0 to 3"),
    ],
)
def test_invalid_value_is_reported_with_column(tmp_path, row, message):
    write_table(tmp_path, "00", [row])
    with pytest.raises(CohortError, match=message):
        oai_readings(tmp_path)


def test_missing_unknown_and_ambiguous_tables_are_reported(tmp_path):
    with pytest.raises(CohortError, match="no table kXR_SQ_BU"):
        oai_readings(tmp_path)
    write_table(tmp_path, "00", [(9000001, 1, 15, "1", seven(2))])
    with pytest.raises(CohortError, match="Unknown visits: 02"):
        oai_readings(tmp_path, ["00", "02"])
    write_table(tmp_path, "00", [(9000001, 1, 15, "1", seven(2))], name="kxr_sq_bu01.txt")
    with pytest.raises(CohortError, match="lacks the columns V01BARCDBU, V01XRKL"):
        oai_readings(tmp_path, ["01"])
    with pytest.raises(CohortError, match="no table kXR_SQ_BU10"):
        oai_readings(tmp_path, ["00", "10"])
    write_table(tmp_path / "again", "00", [(9000001, 1, 15, "1", seven(2))])
    with pytest.raises(CohortError, match="are tables of the same visit"):
        oai_readings(tmp_path)


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
    """Eight people; one film is missing, one barcode is not listed, and one belongs to a film of another person."""
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


def test_films_are_matched_by_barcode_and_excluded_knees_counted(download):
    films = oai_films(download)
    assert len(films) == 7
    assert films["barcode"].is_unique
    assert films["path"].notna().sum() == 6
    counts = Counts()
    table = oai_manifest(download, counts=counts)
    assert len(table) == 10
    assert counts.by_name["knees whose barcode is not in any list of films"] == 2
    assert counts.by_name["knees whose film is listed but not on disk"] == 2
    assert counts.by_name["knees whose barcode belongs to a film of another person"] == 2
    assert counts.by_name["knees without a film, excluded"] == 6
    assert table["view"].eq("PA").all()
    text = cohort_summary(table, counts)
    assert "10 knees of 5 subjects on 5 films" in text
    assert "knees without a film, excluded: 6" in text


def test_both_knees_of_a_film_are_in_one_split(download):
    table = oai_manifest(download)
    assert (table.groupby("image_path")["split"].nunique() == 1).all()
    assert (table.groupby("image_path")["side"].nunique() == 2).all()


def test_paper_protocol_keeps_all_seven_grades_or_none(download):
    table = oai_manifest(download, protocol="paper")
    read = table[list(TARGET_NAMES)].notna()
    assert (read.all(axis=1) | ~read.any(axis=1)).all()
    unlabelled = table[~read.any(axis=1)]
    assert len(unlabelled)
    assert (unlabelled["split"] == "train").all()
    natural = oai_manifest(download, protocol="natural")
    assert natural["kl"].notna().all()
    assert natural["osteophyte_femur_medial"].isna().any()


def test_manifest_is_unchanged_after_writing_and_loading(download, tmp_path):
    oai_manifest(download).to_parquet(tmp_path / "m.parquet")
    read = load_manifest(tmp_path / "m.parquet")
    assert read["kl"].tolist() == oai_manifest(download)["kl"].tolist()
    assert np.isin(read["visit"], [0]).all()


def test_reading_without_barcode_has_no_film(tmp_path):
    write_table(tmp_path, "00", [(9000001, 1, 15, ".", seven(2)), (9000002, 1, 15, "0166", seven(1))])
    contents = [("0.C.2/9000001/20040101/1", 9000001, "", KNEE), ("0.C.2/9000002/20040101/2", 9000002, "0166", KNEE)]
    release(tmp_path / "OAI_00m", [row[0] for row in contents], contents)
    counts = Counts()
    table = oai_manifest(tmp_path, counts=counts)
    assert table["subject_id"].tolist() == ["oai-9000002"]
    assert counts.by_name["knees without a barcode"] == 1


def test_image_paths_do_not_depend_on_manifest_folder(download, tmp_path, monkeypatch):
    monkeypatch.chdir(download)
    table = oai_manifest(Path("."))
    (tmp_path / "elsewhere").mkdir()
    table.to_parquet(tmp_path / "elsewhere" / "m.parquet")
    assert all(Path(path).is_file() for path in load_manifest(tmp_path / "elsewhere" / "m.parquet")["image_path"])


def test_split_does_not_depend_on_films_on_disk(download):
    whole = oai_manifest(download).drop_duplicates("subject_id").set_index("subject_id")["split"]
    Path(oai_manifest(download)["image_path"].iloc[0]).unlink()
    fewer = oai_manifest(download).drop_duplicates("subject_id").set_index("subject_id")["split"]
    assert len(fewer) == len(whole) - 1
    assert (fewer == whole[fewer.index]).all()


def test_measured_joint_space_widths_are_added(download):
    lines = ["ID|SIDE|V00MCMJSW|V00LJSW825", "9000001|1|4.25|6.5", "9000001|2|.|.", "9000003|1: Right|3.0|5.0"]
    (download / "tables" / "kxr_qjsw_duryea00.txt").write_text("\n".join(lines))
    counts = Counts()
    table = oai_manifest(download, counts=counts).set_index(["subject_id", "side"])
    assert table.loc[("oai-9000001", "R"), "joint_space_medial_mm"] == 4.25
    assert pd.isna(table.loc[("oai-9000001", "L"), "joint_space_medial_mm"])
    assert counts.by_name["knees with a measured joint space width"] == 2


def packed(film: Path, members: dict[str, bytes]) -> None:
    """Replace the folder of a film by an archive."""
    with tarfile.open(film.parent.with_name(film.parent.name + ".tar.gz"), "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
    film.unlink()
    film.parent.rmdir()


def test_packed_films_are_counted_or_unpacked(download, tmp_path):
    path = Path(oai_manifest(download)["image_path"].iloc[0])
    packed(path, {"a/readme": b"-", "a/001": b"film"})
    counts = Counts()
    fewer = oai_manifest(download, counts=counts)
    assert counts.by_name["films packed as .tar.gz, excluded (unpack them or use --unpack-to)"] == 1
    for _ in range(2):  # the second time it is already unpacked
        counts = Counts()
        table = oai_manifest(download, counts=counts, unpack_to=tmp_path / "out")
        assert counts.by_name["films unpacked from .tar.gz"] == 1
        assert len(table) == len(fewer) + 2
        film = Path(table["image_path"].iloc[0])
        assert film.is_relative_to(tmp_path / "out")
        assert film.read_bytes() == b"film"


@pytest.mark.parametrize("members", [{"../../001x": b"1", "b": b"2"}, None])
def test_archive_without_film_or_damaged_is_counted(download, tmp_path, members):
    path = Path(oai_manifest(download)["image_path"].iloc[0])
    packed(path, members or {"001": b"film"})
    if members is None:
        path.parent.with_name(path.parent.name + ".tar.gz").write_bytes(b"\x1f\x8b broken")
    counts = Counts()
    oai_manifest(download, counts=counts, unpack_to=tmp_path / "out")
    assert counts.by_name["archives that are damaged or hold no film"] == 1
    assert not list(tmp_path.rglob("001x"))


def test_sas_tables_are_read_like_text(download, monkeypatch):
    """The result of pandas (floats, NaN) is replaced by a fake, because no SAS file may be distributed."""
    text = read_table(download / "tables" / "kXR_SQ_BU00.txt")
    frame = text.replace(r"^\..*$", np.nan, regex=True).apply(pd.to_numeric, errors="coerce")
    monkeypatch.setattr(pd, "read_sas", lambda path, **options: frame.reset_index(drop=True))
    expected = oai_readings(download)
    (download / "tables" / "kXR_SQ_BU00.txt").rename(download / "tables" / "kxr_sq_bu00.sas7bdat")
    found = oai_readings(download)
    for name in ("subject_id", "side", "barcode", *TARGET_NAMES):
        pd.testing.assert_series_equal(found[name], expected[name])
    assert found["osteophyte_femur_medial_missing"].isin(["", "."]).all()


@pytest.mark.parametrize(("right", "left"), [("Right", "left"), ("1: Right", "2: Left"), ("R", "L"), ("1.0", "2.0")])
def test_sides_are_codes_words_or_both(tmp_path, right, left):
    rows = [(9000001, right, 15, "1", seven(2)), (9000001, left, 15, "1", seven(1)), (9000002, "NA", 15, "2", seven(3))]
    write_table(tmp_path, "00", rows)
    counts = Counts()
    readings = oai_readings(tmp_path, counts=counts)
    assert dict(zip(readings["side"], readings["kl"], strict=True)) == {"R": 2, "L": 1}
    assert counts.by_name["rows without a side, excluded"] == 1

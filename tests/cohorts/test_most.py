from pathlib import Path

import pytest

from kneegrade.cohorts import Counts, most_manifest
from kneegrade.cohorts.most import most_readings
from kneegrade.errors import CohortError


def test_invalid_table_is_reported_with_row_and_column(tmp_path):
    with pytest.raises(CohortError, match="no table mostv01235xray"):
        most_readings(tmp_path)
    (tmp_path / "MOSTV01235XRAY.txt").write_text("MOSTID\tV0XRKL\nMB00001\t7\n")
    with pytest.raises(CohortError, match="row 2, column V0XRKL: '7'"):
        most_readings(tmp_path)
    (tmp_path / "MOSTV01235XRAY.txt").write_text("MOSTID\tV0XRKL\nMB00001\t1\nMB00001\t2\n")
    with pytest.raises(CohortError, match="row 3, column MOSTID: 'MB00001'; expected one row per person"):
        most_readings(tmp_path)


def most_download(tmp_path, people=("MB00001", "MB00002"), table="MOSTV01235XRAY.txt"):
    rows = [f"{person}\t1\t2" for person in people]
    (tmp_path / table).write_text("\n".join(["MOSTID\tV0XRKL\tV0XLKL", *rows]))
    for person in ("mb00001_x", "MB00002"):
        folder = tmp_path / "films" / person / "v0" / "pa10"
        folder.mkdir(parents=True)
        (folder / "00001.dcm").write_bytes(b"film")
        (folder / "._00000.dcm").write_bytes(b"-")
        (folder / ".DS_Store").write_bytes(b"-")


def test_renamed_table_other_case_and_files_of_macos(tmp_path):
    most_download(tmp_path, table="readings.csv")
    counts = Counts()
    table = most_manifest(tmp_path, counts=counts)
    assert table["subject_id"].tolist() == ["MB00001", "MB00002"] * 2
    assert {Path(path).name for path in table["image_path"]} == {"00001.dcm"}
    assert counts.by_name["further films of a visit, excluded"] == 0


def test_no_film_or_no_match_is_reported_with_counts(tmp_path):
    most_download(tmp_path, people=("MB00007",))
    with pytest.raises(CohortError, match=r"2 knees were read, of subjects such as MB00007, and 2 films were found"):
        most_manifest(tmp_path)
    for folder in list(tmp_path.rglob("pa10")):
        folder.rename(folder.with_name("pa15"))
    with pytest.raises(CohortError, match=r"2 of them in the folder of a visit, 0 of them in a folder of the view"):
        most_manifest(tmp_path)

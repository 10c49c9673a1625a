import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kneegrade.cohorts.readings import decode_column, decode_integers, problems_at, raise_problems
from kneegrade.cohorts.table_files import read_table
from kneegrade.errors import CohortError


def column(*texts):
    return pd.Series(texts, index=range(2, 2 + len(texts)), name="V00XRKL")


def test_numbers_labels_half_grades_and_codes_are_decoded():
    cells = column(
        "3", "3: 3", "2.0", "1.3", "0.9: half", ".: Missing Form/Incomplete Workbook", ".A", ".T: Technical", ""
    )
    decoded = decode_column(cells, "t.txt", 4)
    np.testing.assert_array_equal(decoded.values[:5], [3, 3, 2, 1, 0])
    assert decoded.half.tolist() == [False, False, False, True, True, False, False, False, False]
    assert np.isnan(decoded.values[5:]).all()
    assert decoded.reasons[5:].tolist() == ["Missing Form/Incomplete Workbook", ".A", "Technical", "empty"]
    assert decoded.problems == ()


def test_half_grades_are_rounded_down():
    assert decode_column(column("1.9", "2.5", "3.9"), "t.txt", 3).values.tolist() == [1, 2, 3]


def test_numbers_that_mean_missing():
    decoded = decode_column(column("8", "9", "2"), "t.txt", 4, missing=(8, 9))
    assert decoded.reasons.tolist() == ["code 8", "code 9", ""]
    assert decoded.problems == ()


def test_invalid_cell_is_reported_with_file_row_and_column():
    decoded = decode_column(column("2", "five", "7", "-1"), "t.txt", 4)
    assert [(p.row, p.value) for p in decoded.problems] == [(3, "five"), (4, "7"), (5, "-1")]
    with pytest.raises(CohortError, match=r"t.txt, row 3, column V00XRKL: 'five'; expected a grade from 0 to 4"):
        raise_problems(decoded.problems)


def test_long_list_of_problems_is_shortened():
    cells = column(*["x"] * 30)
    with pytest.raises(CohortError, match="and 22 more"):
        raise_problems(problems_at(cells, cells == "x", "t", "y"))


def test_integers_with_and_without_labels():
    numbers, problems = decode_integers(column("1", "2: Left", "1.0", "3", ""), "t.txt", (1, 2))
    assert numbers.iloc[:3].tolist() == [1, 2, 1]
    assert [p.row for p in problems] == [5, 6]


@pytest.mark.parametrize("separator", ["|", "\t", ";", ","])
def test_separators_encoding_case_and_line_ends(tmp_path, separator):
    lines = [separator.join(row) for row in (["id", "Name", "x"], ["1", "genou opéré", " 3 "], ["2", "", ""])]
    (tmp_path / "t.txt").write_bytes("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
    table = read_table(tmp_path / "t.txt")
    assert table.columns.tolist() == ["ID", "NAME", "X"]
    assert table.loc[2].tolist() == ["1", "genou opéré", "3"]
    assert table.index.tolist() == [2, 3]


def test_utf_8_with_byte_order_mark(tmp_path):
    (tmp_path / "t.csv").write_bytes("﻿id,name\n1,Jürgen\n".encode())
    assert read_table(tmp_path / "t.csv").loc[2].tolist() == ["1", "Jürgen"]


def test_unreadable_table_is_reported(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4,5\n")
    for name in ("t.csv", "none.csv"):
        with pytest.raises(CohortError, match=f"{name} cannot be read"):
            read_table(tmp_path / name)
    (tmp_path / "twice.csv").write_text("a,A\n1,2\n")
    with pytest.raises(CohortError, match="column A twice"):
        read_table(tmp_path / "twice.csv")


def test_trailing_separator_and_unclosed_quotes_do_not_shift_cells(tmp_path):
    """pandas would take the first column for an index, and swallow lines after an unclosed quote."""
    (tmp_path / "t.txt").write_text('ID|NOTE|X\n1|5" film|2|\n\n2|say "so|3|\n')
    table = read_table(tmp_path / "t.txt")
    assert table.loc[2].tolist() == ["1", '5" film', "2"]
    assert table.loc[4].tolist() == ["2", 'say "so', "3"]


def test_truncated_line_is_reported(tmp_path):
    (tmp_path / "t.txt").write_text("ID|X|Y\n1|2|3\n2|3\n")
    with pytest.raises(CohortError, match="line 3 has 2 cells, the header has 3"):
        read_table(tmp_path / "t.txt")


SAS_FILE = Path(os.environ.get("KNEEGRADE_SAS7BDAT", "nowhere"))


@pytest.mark.skipif(
    not SAS_FILE.is_file(), reason="KNEEGRADE_SAS7BDAT is not the path of a .sas7bdat file, and none may be distributed"
)
def test_real_sas_table_is_read_as_text():
    table = read_table(SAS_FILE)
    assert len(table)
    assert table.columns.tolist() == [name.upper() for name in table.columns]
    assert all(isinstance(cell, str) for cell in table.to_numpy().ravel())

import os
import re
from pathlib import Path

import pytest

from kneegrade.cohorts.table_files import parse_text, read_table
from kneegrade.errors import CohortError


def test_a_device_or_a_named_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (Path("/dev/zero"), tmp_path / "pipe.csv"):
        with pytest.raises(CohortError, match="device or a named pipe"):
            read_table(path)


def test_a_note_of_several_lines_may_have_separators(tmp_path):
    (tmp_path / "t.csv").write_text('a,b\n1,"pain, left\nsee report"\n')
    assert len(read_table(tmp_path / "t.csv")) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('a,b\n1,"x\n2,y\n3,z"\n4,w\n', "a quote in line 2 is closed in line 4 or never"),
        ('a,b\n1,x\n2,"y\n\n3,z\n', "a quote in line 3 is closed in line 5 or never"),
        ('a,"b\n1,x"\n2,y\n', "a quote in line 1 is closed in line 2 or never"),
        ('a\n"1\n2"\n', "a quote in line 2 is closed in line 3 or never"),
    ],
)
def test_quotes_around_lines_of_a_table_are_an_error(text, message, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(CohortError, match=re.escape(message)):
        read_table(tmp_path / "t.csv")


def test_a_cell_may_have_lines_and_a_column_keeps_its_name():
    table = parse_text(b'Id,Note,x\n1,"knee, left;\r\n again", 2 \n')
    assert table.columns.tolist() == ["Id", "Note", "x"]
    assert table.loc[3].tolist() == ["1", "knee, left;\r\n again", "2"]


def test_the_cells_of_a_table_of_one_column_may_be_quoted_and_have_any_separator():
    assert parse_text(b'path\n"a;b.dcm"\nc,d.dcm\n')["path"].tolist() == ["a;b.dcm", "c,d.dcm"]

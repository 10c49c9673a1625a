"""Tables of studies and users as text: any usual encoding and separator, or SAS."""

import csv
import re
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from kneegrade.errors import CohortError
from kneegrade.files import is_shell_pipe

SEPARATORS = ("|", "\t", ";", ",")
HEADER_BYTES = 1 << 16
TEXT_TABLE = re.compile(r".+\.(txt|csv|tsv)", re.IGNORECASE)  # name of a file that may be a text table
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_EXCEL_SEPARATOR = re.compile(r'"?sep=(.)"?\s*')  # Excel reads and writes such a line before the header


def read_table(path: Path) -> pd.DataFrame:
    """Return all cells of a table as stripped text.

    Column names are upper-case. The index, named "row", is the line number in the file; the header is line 1.

    Text is decoded as UTF-16 if it begins with a byte order mark or has zero bytes, as UTF-8 if it is valid UTF-8, else
    as Latin-1. The separator is that of a first line `sep=;`, as Excel writes it, or the one of `|`, tab, `;` and `,`
    that occurs most often in the header. Quotes have a meaning with `;` and `,`, in tables of one column, and with the
    other separators if all cells of the header are quoted. `.sas7bdat` files are read by pandas; numbers become text as
    in a text file, and missing values become ".".

    Raises:
        CohortError: the file cannot be read, a line has more or fewer cells than the header, lines of the table are
            within quotes, or a column name occurs twice.
    """
    if path.exists() and not _is_finite(path):
        raise CohortError(f"{path.name} cannot be read as a table: it is a device or a named pipe. Give a file.")
    try:
        if path.suffix.lower() == ".sas7bdat":
            table = _as_text(pd.read_sas(path, format="sas7bdat", encoding="latin-1"))
            table.index = pd.RangeIndex(2, len(table) + 2)
        else:
            table = parse_text(path.read_bytes())
    except OSError as error:
        raise CohortError(f"{path.name} cannot be read as a table: {error.strerror or error}.") from error
    except (ValueError, csv.Error) as error:
        raise CohortError(f"{path.name} cannot be read as a table: {error}.") from error
    table.columns = pd.Index([str(column).strip().upper() for column in table.columns])
    table.index.name = "row"
    duplicates = table.columns[table.columns.duplicated()]
    if len(duplicates):
        raise CohortError(f"{path.name} has the column {duplicates[0]} twice. Rename or remove one of them.")
    return table


def _is_finite(path: Path) -> bool:
    """Whether a path has an end: a file, or a pipe that a shell opened, as in `<(command)`."""
    return path.is_file() or path.is_dir() or is_shell_pipe(path)


def read_header(path: Path) -> frozenset[str]:
    """Return the upper-case column names of a text table; none if the file cannot be read or begins otherwise."""
    try:
        with path.open("rb") as stream:
            start = stream.read(HEADER_BYTES)
        line = decoded(start).partition("\n")[0]
        reader, _ = _rows_of(line)
        return frozenset(cell.strip().upper() for cell in next(reader, []))
    except (OSError, ValueError, csv.Error):
        return frozenset()


def decoded(data: bytes) -> str:
    """The text of a table: UTF-16 with a byte order mark or zero bytes, UTF-8, or else Latin-1; without the mark."""
    if data.startswith(_UTF_16_MARKS):
        return data.decode("utf-16", "replace")
    if b"\0" in data[:HEADER_BYTES]:
        return data.decode("utf-16-be" if data[:1] == b"\0" else "utf-16-le")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1").removeprefix("\xef\xbb\xbf")


def _rows_of(text: str) -> tuple[Any, int]:
    """Return a reader of the lines of a text (its `dialect` has the separator), and the number of lines before them."""
    first, _, rest = text.partition("\n")
    declared = _EXCEL_SEPARATOR.fullmatch(first)
    body = rest if declared else text
    header = body.partition("\n")[0].strip()
    separator = declared[1] if declared else max(SEPARATORS, key=header.count)
    all_quoted = all(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in header.split(separator))
    is_plain = separator in "|\t" and separator in header and not all_quoted
    quoting: Literal[0, 3] = csv.QUOTE_NONE if is_plain else csv.QUOTE_MINIMAL
    return csv.reader(StringIO(body, newline=""), delimiter=separator, quoting=quoting), int(declared is not None)


def parse_text(data: bytes) -> pd.DataFrame:
    """Return all cells of a text table as stripped text; columns have the names of its header, as they are there.

    The index is the line number in the file; the last one, if a cell has several lines. Encoding and separator: see
    `read_table`. Not parsed by pandas, which would take the first column for an index if lines end with a separator,
    and would swallow lines after an unclosed quote.

    Raises:
        ValueError: a line has more or fewer cells than the header, or a cell holds whole lines of the table, because
            quotes are missing or too many.
        csv.Error: a cell is too long.
    """
    reader, lines_before = _rows_of(decoded(data))
    header: list[str] | None = None
    lines, cells, line = [], [], lines_before
    for row in reader:
        first, line = line + 1, reader.line_num + lines_before
        columns = len(row if header is None else header)
        if line > first and any(_holds_lines(cell, reader.dialect.delimiter, i, columns) for i, cell in enumerate(row)):
            raise ValueError(f"a quote in line {first} is closed in line {line} or never; remove it, or close it")
        if header is None:
            header = row
            continue
        kept = row[:-1] if len(row) == columns + 1 and not row[-1].strip() else row  # line ends with a separator
        if not any(cell.strip() for cell in kept):
            continue
        if len(kept) != columns:
            raise ValueError(f"line {line} has {len(kept)} cells, the header has {columns}")
        lines.append(line)
        cells.append([cell.strip() for cell in kept])
    return pd.DataFrame(cells, columns=header or [], index=pd.Index(lines, dtype="int64"), dtype=str)


def _holds_lines(cell: str, separator: str, index: int, columns: int) -> bool:
    """Whether each line of a cell has the separators that a line of the table has there; those of a note have fewer.

    A stray quote in column `index` swallows the rest of its line, whole lines, and a line up to that column.
    """
    found = [piece.count(separator) for piece in re.split(r"[\r\n]\s*", cell.strip())]
    least = [columns - 1 - index, *[columns - 1] * (len(found) - 2), index]
    return len(found) > 1 and all(number >= low for number, low in zip(found, least, strict=True))


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Return the cells of a SAS table as a text file would have them."""

    def text(value: object) -> str:
        if value is None or value != value:
            return "."
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()

    texts: pd.DataFrame = table.apply(lambda column: column.map(text))
    return texts

"""A table as Markdown, CSV and LaTeX."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from kneegrade.files import replacing


@dataclass(frozen=True)
class Table:
    """Cells of text; one that stands between two `**` is bold, where there is bold.

    Attributes:
        slug: file name without its ending.
        title: what it is.
        header: names of the columns.
        rows: as long as the header each; a row of None is a rule between groups.
        notes: sentences below it.
    """

    slug: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...] | None, ...]
    notes: tuple[str, ...] = ()


def markdown(table: Table) -> str:
    """A pipe table under its title, notes below."""
    lines = [f"### {table.title}", "", _piped(table.header), _piped(("---",) * len(table.header))]
    lines += [_piped(row) for row in table.rows if row is not None]
    return "\n".join([*lines, "", *(f"{note}\n" for note in table.notes)])


def comma_separated(table: Table) -> str:
    """Header and rows; title and notes stay out."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([table.header, *(map(_plain, row) for row in table.rows if row is not None)])
    return text.getvalue()


def latex(table: Table) -> str:
    """A `table` environment that needs the packages booktabs and amssymb."""
    body = [r"\midrule" if row is None else " & ".join(map(_set, row)) + r" \\" for row in table.rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escaped(' '.join([table.title + '.', *table.notes]))}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
            r"\toprule",
            " & ".join(map(_escaped, table.header)) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def write_table(table: Table, directory: Path) -> list[Path]:
    """`<slug>.md`, `.csv` and `.tex` in `directory`, each whole or not there."""
    written = []
    for ending, text in (("md", markdown(table)), ("csv", comma_separated(table)), ("tex", latex(table))):
        path = directory / f"{table.slug}.{ending}"
        with replacing(path) as stream:
            stream.write(text)
        written.append(path)
    return written


def _piped(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _plain(cell: str) -> str:
    return cell.removeprefix("**").removesuffix("**")


def _set(cell: str) -> str:
    return rf"\textbf{{{_escaped(_plain(cell))}}}" if cell.startswith("**") else _escaped(cell)


_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    character: "\\" + character for character in "&%$#_{}"
}
_SYMBOLS = {
    "κ": r"$\kappa$",
    "τ": r"$\tau$",
    "≥": r"$\geq$",
    "−": "$-$",
    "±": r"$\pm$",
    "–": "--",
    "Δ": r"$\Delta$",
    "✓": r"\checkmark{}",
}


def _escaped(text: str) -> str:
    return "".join({**_SPECIAL, **_SYMBOLS}.get(character, character) for character in text)

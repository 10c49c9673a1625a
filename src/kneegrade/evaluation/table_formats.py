"""`Table`: a table of text cells, written as Markdown, CSV and LaTeX."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from kneegrade.files import write_text
from kneegrade.spreadsheet_cells import escape_formula


@dataclass(frozen=True)
class Table:
    """A table of text cells. A cell between two `**` is bold in Markdown and LaTeX.

    Attributes:
        slug: file name without its suffix.
        title: caption.
        header: names of the columns.
        rows: each as long as the header; a row of None is a rule between groups.
        notes: sentences below the table.
    """

    slug: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...] | None, ...]
    notes: tuple[str, ...] = ()


def markdown(table: Table) -> str:
    """A Markdown pipe table with its title above and its notes below."""
    lines = [f"### {table.title}", "", _markdown_row(table.header), _markdown_row(("---",) * len(table.header))]
    lines += [_markdown_row(row) for row in table.rows if row is not None]
    return "\n".join([*lines, "", *(f"{note}\n" for note in table.notes)])


def comma_separated(table: Table) -> str:
    """Header and rows as CSV, without title and notes; no cell is a formula of a spreadsheet."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    lines = [table.header, *(map(_without_bold, row) for row in table.rows if row is not None)]
    writer.writerows(map(escape_formula, line) for line in lines)
    return text.getvalue()


def latex(table: Table) -> str:
    """A LaTeX `table` environment; it needs the packages booktabs and amssymb."""
    body = [r"\midrule" if row is None else " & ".join(map(_latex_cell, row)) + r" \\" for row in table.rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex_text(' '.join([table.title + '.', *table.notes]))}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
            r"\toprule",
            " & ".join(map(_latex_text, table.header)) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def write_table(table: Table, directory: Path) -> list[Path]:
    """Writes `<slug>.md`, `.csv` and `.tex` into `directory` and returns their paths."""
    written = []
    for suffix, text in (("md", markdown(table)), ("csv", comma_separated(table)), ("tex", latex(table))):
        path = directory / f"{table.slug}.{suffix}"
        write_text(path, text)
        written.append(path)
    return written


def _markdown_row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _without_bold(cell: str) -> str:
    return cell.removeprefix("**").removesuffix("**")


def _latex_cell(cell: str) -> str:
    return rf"\textbf{{{_latex_text(_without_bold(cell))}}}" if cell.startswith("**") else _latex_text(cell)


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


def _latex_text(text: str) -> str:
    """Text with special characters and symbols replaced by LaTeX commands."""
    return "".join({**_SPECIAL, **_SYMBOLS}.get(character, character) for character in text)

"""`escape_formula`: cells of a table that no spreadsheet runs as a formula."""

import re

Cell = str | int | float

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NUMBER = re.compile(r"[+-][0-9]+(\.[0-9]*)?(e[+-]?[0-9]+)?( \[[+-]?[0-9.]+, [+-]?[0-9.]+\])?")  # with its interval


def escape_formula(cell: Cell) -> Cell:
    """`cell`, with a leading apostrophe if a spreadsheet would run it as a formula (OWASP: CSV injection).

    Example:
        >>> [escape_formula(cell) for cell in ("=1+1", "knee", "-0.5", "+0.2 [+0.1, +0.3]")]
        ["'=1+1", 'knee', '-0.5', '+0.2 [+0.1, +0.3]']
    """
    is_formula = isinstance(cell, str) and cell.startswith(_FORMULA_STARTS) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if is_formula else cell

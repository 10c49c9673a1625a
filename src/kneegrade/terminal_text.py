"""Text for terminals whose encoding lacks characters: signs are spelled in ASCII, other characters as escapes.

An escape keeps names apart that would look alike with "?" in place of every letter.
"""

import codecs
import sys
from typing import Final

HANDLER: Final = "kneegrade.spell"  # name of the error handler, for `TextIOWrapper.reconfigure(errors=HANDLER)`
_SPELLINGS: Final = {
    "±": "+/-", "–": "-", "—": "-", "−": "-", "·": "|", "°": " deg", "×": "x", "→": "->", "≥": ">=", "≤": "<=",
    "…": "...", "\N{REPLACEMENT CHARACTER}": "?",
}  # fmt: skip


def _spell(error: UnicodeError) -> tuple[str | bytes, int]:
    """The text in place of the characters that could not be encoded, and where the encoder goes on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(_SPELLINGS.get(c) or c.encode("ascii", "backslashreplace").decode() for c in characters), error.end


codecs.register_error(HANDLER, _spell)


def fitting(text: str, encoding: str | None = None) -> str:
    r"""`text` as a terminal can show it.

    Args:
        text: for the terminal.
        encoding: of the terminal; default: of standard output.

    Example:
        >>> fitting("膝 4.8 ± 0.3", "latin-1")
        '\\u819d 4.8 ± 0.3'
        >>> fitting("4.8 ± 0.3", "ascii")
        '4.8 +/- 0.3'
    """
    encoding = encoding or getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, HANDLER).decode(encoding)

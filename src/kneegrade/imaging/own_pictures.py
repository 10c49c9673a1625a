"""The mark of the pictures that kneegrade draws, so that a later run does not read them as films."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
KEYWORD: Final = "Software"
TEXT: Final = "kneegrade: picture of results, not a film"


def own_picture_mark() -> "PngInfo":
    """The text chunk (PNG, tEXt) that marks a picture of kneegrade; `pnginfo` of Pillow's `save`."""
    from PIL.PngImagePlugin import PngInfo

    mark = PngInfo()
    mark.add_text(KEYWORD, TEXT)
    return mark


def is_own_picture(start: bytes) -> bool:
    """True if the first 132 bytes of a file are those of a PNG picture with the mark."""
    return start.startswith(PNG_MAGIC) and b"tEXt" + f"{KEYWORD}\0{TEXT}".encode() in start

"""The mark of the pictures and DICOM objects of kneegrade, so that a later run does not read them as films."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
KEYWORD: Final = "Software"
DICOM_MAGIC: Final = slice(128, 132)
IMPLEMENTATION_UID: Final = "2.25.151716384528433507298915939537088179270"  # of the objects that `clinical` writes
TEXT: Final = "kneegrade: picture of results, not a film"


def own_picture_mark() -> "PngInfo":
    """The text chunk (PNG, tEXt) that marks a picture of kneegrade; `pnginfo` of Pillow's `save`."""
    from PIL.PngImagePlugin import PngInfo

    mark = PngInfo()
    mark.add_text(KEYWORD, TEXT)
    return mark


def is_own_picture(start: bytes) -> bool:
    """True if the first kilobyte of a file is that of a PNG picture or a DICOM object of kneegrade."""
    if start[DICOM_MAGIC] == b"DICM":
        return IMPLEMENTATION_UID.encode() in start
    return start.startswith(PNG_MAGIC) and b"tEXt" + f"{KEYWORD}\0{TEXT}".encode() in start

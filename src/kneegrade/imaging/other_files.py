"""Files beside films, for example on a CD from a hospital: programs, documents, DICOM objects without a film.

In folders and archives they are left out and counted by kind, not reported as films that cannot be read. A file that
could be a damaged film, with the suffix of an image or with content of an unknown kind, is never left out.
"""

import re
import struct
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final

HEAD_BYTES: Final = 1024  # of a file, which decide; the header of a DICOM file states its SOP class within them
_TEXT_SUFFIXES = """
txt csv tsv parquet json html htm xhtml xml xsl xslt xsd dtd md rst yaml yml log pts ini inf cfg conf config manifest
properties css js map npy npz safetensors rtf tex sql asc sha256 md5 sig pem crt
"""
_DOCUMENT_SUFFIXES = " pdf doc docx xls xlsx ppt pptx odt ods odp chm hlp epub ps eps vsd msg eml "
_PROGRAM_SUFFIXES = """
exe dll com bat cmd sh ps1 vbs msi cab sys ocx drv jar jnlp class war so dylib app command pyc py lib pdb res rc tlb lnk
url desktop reg swf apk pkg deb rpm
"""
_MEDIA_SUFFIXES = """
db mdb sqlite dat idx ttf otf woff woff2 eot ico cur icns svg wmf emf wav mp3 ogg mp4 avi mov wmv mpg mpeg webm
"""
OTHER_SUFFIXES: Final = frozenset(
    f".{name}" for name in (_TEXT_SUFFIXES + _DOCUMENT_SUFFIXES + _PROGRAM_SUFFIXES + _MEDIA_SUFFIXES).split()
)
OTHER_NAMES: Final = {"dicomdir": "DICOMDIR", "thumbs.db": ".db", "desktop.ini": ".ini", "ehthumbs.db": ".db"}
SYSTEM_FOLDERS: Final = frozenset(
    {"__macosx", "$recycle.bin", "system volume information", "lost+found", "@eadir", "#recycle"}
)
_PICTURE_SUFFIXES = "dcm dicom png jpg jpeg jpe jfif tif tiff bmp gif webp jp2 j2k jls heic ima img raw zip"
PICTURE_SUFFIXES: Final = frozenset(f".{name}" for name in _PICTURE_SUFFIXES.split())
MAGIC_KINDS: Final = {
    b"MZ": "program", b"\x7fELF": "program", b"\xca\xfe\xba\xbe": "program", b"%PDF": ".pdf", b"{\\rtf": ".rtf",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "Office document", b"SQLite format 3": "database", b"\x00\x00\x01\x00": ".ico",
}  # fmt: skip
SOP_CLASS_ROOT: Final = "1.2.840.10008.5.1.4.1.1."
SOP_CLASS_KINDS: Final = {  # the part of the UID after SOP_CLASS_ROOT, exactly or before a dot
    "88.59": "DICOM KO", "88": "DICOM SR", "11": "DICOM PR", "104": "document in DICOM", "66": "other DICOM object",
    "67": "other DICOM object", "9": "DICOM waveform", "481": "DICOM RT", "2": "DICOM CT", "4": "DICOM MR",
    "3": "DICOM US", "6": "DICOM US", "20": "DICOM NM", "128": "DICOM PT", "130": "DICOM PT",
}  # fmt: skip
RADIOGRAPH_MODALITIES: Final = frozenset({"CR", "DX", "DR", "RF", "XA", "OT", "RG", "CR\\DX"})
MEDIA_DIRECTORY: Final = "1.2.840.10008.1.3.10"
MAX_ICON_PX: Final = 64
MIN_TEXT_BYTES: Final = 8
SHOWN_KINDS: Final = 8


def is_passed_over(name: str) -> bool:
    """True for names of hidden files and folders, and of folders of the operating system; they are not counted."""
    return name.startswith(".") or name.casefold() in SYSTEM_FOLDERS


def kind_of_other_file(name: str, start: bytes) -> str | None:
    r"""The kind of a file that is not a film, such as ".exe" or "DICOM SR"; None if it may be a film.

    Args:
        name: name of the file, or path with slashes.
        start: the first `HEAD_BYTES` bytes; fewer if they could not be read.

    Example:
        >>> kind_of_other_file("viewer/VIEWER.EXE", b"MZ\x90\0"), kind_of_other_file("film.png", b"not a picture")
        ('.exe', None)
    """
    path = PurePosixPath(name.casefold())
    if path.name in OTHER_NAMES:
        return OTHER_NAMES[path.name]
    if start[128:132] == b"DICM" or start[:2] in (b"\x08\x00", b"\x02\x00"):
        return _kind_of_dicom(start)
    if path.suffix in OTHER_SUFFIXES:
        return path.suffix
    if path.suffix in PICTURE_SUFFIXES:
        return "icon" if _is_icon(start) else None
    for magic, kind in MAGIC_KINDS.items():
        if start.startswith(magic):
            return kind
    if not _is_text(start):
        return None
    return path.suffix if re.fullmatch(r"\.[a-z][a-z0-9]{0,5}", path.suffix) else "text"


def other_files_line(counts: Mapping[str, int]) -> str:
    """A sentence on the files that were left out, with counts by kind; "" if there were none.

    Example:
        >>> other_files_line({".dll": 2, "DICOM SR": 1})
        '3 other files were left out, because they are not films: 2 .dll, 1 DICOM SR.'
    """
    total = sum(counts.values())
    if not total:
        return ""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{number} {kind}" for kind, number in ranked[:SHOWN_KINDS]]
    rest = sum(number for _, number in ranked[SHOWN_KINDS:])
    kinds = ", ".join([*parts, *([f"{rest} of other kinds"] if rest else [])])
    if total == 1:
        return f"1 other file was left out, because it is not a film: {kinds}."
    return f"{total} other files were left out, because they are not films: {kinds}."


def _kind_of_dicom(start: bytes) -> str | None:
    """The kind of a DICOM object without a film, by its SOP class and modality; None for all others."""
    uid = _value_of(start, b"\x02\x00\x02\x00") or _value_of(start, b"\x08\x00\x16\x00")
    if uid == MEDIA_DIRECTORY:
        return "DICOMDIR"
    if not uid.startswith(SOP_CLASS_ROOT) or _value_of(start, b"\x08\x00\x60\x00") in RADIOGRAPH_MODALITIES:
        return None
    number = uid.removeprefix(SOP_CLASS_ROOT)
    return next((kind for part, kind in SOP_CLASS_KINDS.items() if f"{number}.".startswith(f"{part}.")), None)


def _value_of(start: bytes, tag: bytes) -> str:
    """The text of the first element with a tag, in explicit or implicit little endian, "" if there is none."""
    position = start.find(tag)
    if position < 0 or position + 8 > len(start):
        return ""
    is_explicit = start[position + 4 : position + 6].isalpha()
    (length,) = struct.unpack_from("<H" if is_explicit else "<L", start, position + (6 if is_explicit else 4))
    return start[position + 8 : position + 8 + length].rstrip(b"\0 ").decode("ascii", "replace")


def _is_icon(start: bytes) -> bool:
    """True for PNG, GIF and BMP pictures of at most `MAX_ICON_PX` pixels, as viewers have them for their buttons."""
    if start.startswith(b"\x89PNG") and len(start) >= 24:
        width, height = struct.unpack_from(">LL", start, 16)
    elif start.startswith(b"GIF8") and len(start) >= 10:
        width, height = struct.unpack_from("<HH", start, 6)
    elif start.startswith(b"BM") and len(start) >= 26:
        width, height = map(abs, struct.unpack_from("<ll", start, 18))
    else:
        return False
    return bool(0 < max(width, height) <= MAX_ICON_PX)


def _is_text(start: bytes) -> bool:
    """True for the beginning of a text in ASCII, UTF-8 or a code page of one byte: no control characters."""
    if len(start) < MIN_TEXT_BYTES:
        return False
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return True
    return not any(byte < 32 and byte not in b"\t\n\r\f\x1a\x1b" for byte in start)

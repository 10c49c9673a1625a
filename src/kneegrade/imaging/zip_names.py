"""Names of the members of zip archives in the encoding of the program that wrote them.

The standard knows two encodings: CP437, and UTF-8 where a flag is set. Windows writes names in the code page of the
country (Shift-JIS in Japan), macOS UTF-8 without the flag, and Info-ZIP adds a field with the name in UTF-8.
"""

import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from typing import Final

UTF_8_FLAG: Final = 0x800
MIN_JAPANESE_LETTERS: Final = 2  # in all names of an archive
UNICODE_PATH: Final = 0x7075  # Info-ZIP's extra field: version, CRC-32 of the stored name, name in UTF-8
_JAPANESE: Final = r"\u3005-\u3007\u3041-\u3096\u30a1-\u30fc\u4e00-\u9fff"
_ALL_JAPANESE: Final = re.compile(rf"[\x20-\x7e{_JAPANESE}\u3000\uff08\uff09\uff10-\uff19]*")
_LONE: Final = re.compile(  # one letter beside a Latin one: an accent and the letter after it, read as Shift-JIS
    rf"(?<![{_JAPANESE}])(?:(?<=[A-Za-z])[{_JAPANESE}]|[{_JAPANESE}](?=[A-Za-z]))(?![{_JAPANESE}])"
)
_AMBIGUOUS_SEPARATOR: Final = re.compile(r"(?<=[^\x00-\x7f])\\")  # the second byte of a letter in several code pages


def member_names(members: Sequence[zipfile.ZipInfo]) -> list[str]:
    """The names of the members of one archive, in their order.

    Names without a flag are UTF-8 if they are valid UTF-8. The others of an archive are Shift-JIS if they have at least
    two Japanese letters in it and nothing else that is not ASCII. All others are CP437; a back-slash after a letter
    that is not ASCII becomes "_" in them, because it may be half of another letter.
    """
    names = [_declared_name(member) for member in members]
    stored = {i: _stored_bytes(members[i]) for i, name in enumerate(names) if name is None}
    for i, data in stored.items():
        names[i] = _decoded(data, "utf-8")
    japanese = {i: _as_japanese(data) for i, data in stored.items() if names[i] is None}
    letters = sum(len(re.findall(f"[{_JAPANESE}]", name)) for name in japanese.values() if name)
    for i, name in japanese.items():
        is_japanese = name is not None and letters >= MIN_JAPANESE_LETTERS
        names[i] = name if is_japanese else _AMBIGUOUS_SEPARATOR.sub("_", members[i].filename)
    return [name if name is not None else member.filename for name, member in zip(names, members, strict=True)]


def _as_japanese(data: bytes) -> str | None:
    """The bytes of a name as Shift-JIS; None if they are hardly a Japanese name."""
    name = _decoded(data, "cp932")
    return None if name is None or not _ALL_JAPANESE.fullmatch(name) or _LONE.search(name) else name


def _declared_name(member: zipfile.ZipInfo) -> str | None:
    """The name of which the archive states the encoding, or that is ASCII; None for others."""
    if member.flag_bits & UTF_8_FLAG or member.filename.isascii():
        return member.filename
    extra = member.extra
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == UNICODE_PATH and len(field) > 5:
            (checksum,) = struct.unpack_from("<L", field, 1)
            name = _decoded(field[5:], "utf-8")
            if name is not None and checksum == zlib.crc32(_stored_bytes(member)):
                return name
    return None


def _stored_bytes(member: zipfile.ZipInfo) -> bytes:
    """The bytes of a name that `zipfile` decoded as CP437; it also replaces the separator of Windows."""
    try:
        return member.orig_filename.encode("cp437")
    except UnicodeEncodeError:  # another Python decoded it otherwise
        return member.orig_filename.encode("utf-8", "replace")


def _decoded(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None

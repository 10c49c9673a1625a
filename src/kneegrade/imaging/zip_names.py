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
UNICODE_PATH: Final = 0x7075  # Info-ZIP's extra field: version, CRC-32 of the stored name, name in UTF-8
_JAPANESE: Final = r"\u3005-\u3007\u3041-\u3096\u30a1-\u30fc\u4e00-\u9fff"
_ALL_JAPANESE: Final = re.compile(rf"[\x20-\x7e{_JAPANESE}\u3000\uff08\uff09\uff10-\uff19]*")
_JAPANESE_WORD: Final = re.compile(rf"[{_JAPANESE}]{{2}}")


def member_names(members: Sequence[zipfile.ZipInfo]) -> list[str]:
    """The names of the members of one archive, in their order.

    Names without a flag are UTF-8 if they are valid UTF-8. They are Shift-JIS if all of the archive's other names are
    Japanese in it and one has a word of at least two letters. All others are CP437.
    """
    names = [_declared_name(member) for member in members]
    stored = {i: _stored_bytes(members[i]) for i, name in enumerate(names) if name is None}
    for i, data in stored.items():
        names[i] = _decoded(data, "utf-8")
    legacy = {i: data for i, data in stored.items() if names[i] is None}
    japanese = {i: _decoded(data, "cp932") for i, data in legacy.items()}
    is_japanese = all(name is not None and _ALL_JAPANESE.fullmatch(name) for name in japanese.values()) and any(
        _JAPANESE_WORD.search(name or "") for name in japanese.values()
    )
    return [
        name if name is not None else (is_japanese and japanese[i]) or members[i].filename
        for i, name in enumerate(names)
    ]


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

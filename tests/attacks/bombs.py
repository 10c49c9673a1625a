"""Bombs: small files that expand to far more than a film. As a program, it reads each and prints what happened.

Printed is one JSON object: name → [outcomes, seconds of processor time, seconds, MiB by which the parent has grown].
"""

import io
import json
import resource
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from films import compressed, dataset, dicom_bytes
from PIL import Image
from pydicom import uid

MEBIBYTE = 1024 * 1024


def meta(transfer_syntax: bytes) -> bytes:
    """Preamble and file meta group."""
    value = transfer_syntax + b"\0" * (len(transfer_syntax) % 2)
    element = b"\2\0\x10\0UI" + struct.pack("<H", len(value)) + value
    return bytes(128) + b"DICM" + b"\2\0\0\0UL\4\0" + struct.pack("<L", len(element)) + element


EXPLICIT = meta(b"1.2.840.10008.1.2.1")


SLOW = {"rle-runs.dcm", "elements.dcm", "items.dcm", "elements-film.dcm", "pages.tif", "largest.zip", "text.png"}


def bombs(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name, file) of each bomb, written to the folder."""
    for name, data in chain(_dicom(), _pictures()):
        path = folder / name
        path.write_bytes(data)
        yield name, path
    yield from _archives(folder)


def _dicom() -> Iterator[tuple[str, bytes]]:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = b"\x09\0\x10\0OB\0\0" + struct.pack("<L", 1000 * MEBIBYTE) + bytes(100 * MEBIBYTE)
    yield "deflate.dcm", meta(b"1.2.840.10008.1.2.1.99") + packer.compress(body) + packer.flush()
    for syntax in ("RLELossless", "JPEGLSLossless", "JPEG2000Lossless"):
        film = compressed(dataset(), getattr(uid, syntax))
        film.Rows = film.Columns = 9999
        yield f"{syntax}-rows.dcm", dicom_bytes(film)
    for syntax, old, new in (
        ("JPEGLSLossless", struct.pack(">HH", 150, 160), struct.pack(">HH", 65535, 65535)),
        ("JPEG2000Lossless", struct.pack(">LL", 160, 150), struct.pack(">LL", 100_000, 100_000)),
    ):
        yield f"{syntax}-stream.dcm", dicom_bytes(compressed(dataset(), getattr(uid, syntax))).replace(old, new, 1)
    run = bytes([0x81, 0x40]) * (20 * MEBIBYTE)  # each pair of bytes becomes 128
    frame = struct.pack("<16L", 2, 64, 64 + len(run), *[0] * 13) + run + run
    yield "rle-runs.dcm", dicom_bytes(compressed(dataset(), uid.RLELossless, frame))
    for levels in (1000, 100_000):
        item = b"\x08\0\x10\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
        yield f"nested-{levels}.dcm", EXPLICIT + item * levels
    many = b"".join(struct.pack("<HH2sHH", 0x0009 + 2 * (i >> 16), i & 0xFFFF, b"US", 2, 7) for i in range(1_000_000))
    yield "elements.dcm", EXPLICIT + many
    yield "items.dcm", EXPLICIT + b"\x08\0\x10\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\0\0\0\0" * 1_000_000
    film = dicom_bytes(dataset())
    at = film.index(b"\xe0\x7f\x10\0")
    yield "elements-film.dcm", film[:at] + many + film[at:]
    yield "length.dcm", EXPLICIT + b"\x09\0\x10\0OB\0\0\xf0\xff\xff\xff" + b"x" * 100
    yield "rows.dcm", dicom_bytes(dataset(Rows=65535, Columns=65535))


def _pictures() -> Iterator[tuple[str, bytes]]:
    small = Image.new("L", (160, 150), 9)
    png = bytearray(_saved(small, "PNG"))
    for side in (100_000, 9_999):
        struct.pack_into(">LL", png, 16, side, side)
        struct.pack_into(">L", png, 29, zlib.crc32(png[12:29]))
        yield f"{side}.png", bytes(png)
    text = zlib.compress(bytes(200 * MEBIBYTE), 9)
    chunk = b"zTXt" + b"Comment\0\0" + text
    sound = _saved(small, "PNG")
    chunk = struct.pack(">L", len(chunk) - 4) + chunk + struct.pack(">L", zlib.crc32(chunk))
    yield "text.png", sound[:33] + chunk + sound[33:]
    tiff = bytearray(_saved(small, "TIFF"))
    (start,) = struct.unpack_from("<L", tiff, 4)
    for entry in range(struct.unpack_from("<H", tiff, start)[0]):
        if struct.unpack_from("<H", tiff, start + 2 + 12 * entry)[0] in (256, 257):
            struct.pack_into("<HLL", tiff, start + 4 + 12 * entry, 4, 1, 100_000)
    yield "100000.tif", bytes(tiff)
    yield "pages.tif", _many_pages(30_000)
    jpeg = bytearray(_saved(small, "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    struct.pack_into(">HH", jpeg, at + 5, 65_500, 65_500)
    yield "65500.jpg", bytes(jpeg)


def _many_pages(pages: int) -> bytes:
    """A TIFF file of one pixel per page, all of which share their pixel."""
    data = bytearray(b"II*\0\x08\0\0\0")
    tags = ((256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 4), (277, 1), (278, 1), (279, 1))
    for page in range(pages):
        entries = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags)
        following = 0 if page + 1 == pages else len(data) + 2 + len(entries) + 4
        data += struct.pack("<H", len(tags)) + entries + struct.pack("<L", following)
    return bytes(data)


def _saved(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def _archives(folder: Path) -> Iterator[tuple[str, Path]]:
    path = folder / "ratio.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("film.dcm", "w") as stream:
        for _ in range(200):
            stream.write(bytes(MEBIBYTE))
    yield "ratio.zip", path
    nested = folder / "nested.zip"
    with zipfile.ZipFile(nested, "w") as archive:
        archive.write(path, "inner.zip")
    yield "nested.zip", nested
    path = folder / "largest.zip"  # within all limits: 239 MiB that shrink to a 100th
    line = bytes(range(1, 256)) * 4 + bytes(60_000)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("film.dcm", "w") as stream:
        stream.write((bytes(128) + b"DICM" + line * (239 * MEBIBYTE // len(line)))[: 239 * MEBIBYTE])
    yield "largest.zip", path
    for name, number in (("count.zip", 60_000), ("million.zip", 1_000_000)):
        path = folder / name
        path.write_bytes(_many_members(number))
        yield name, path
    path = folder / "overlap.zip"
    path.write_bytes(_overlapping(2000))
    yield "overlap.zip", path


def _many_members(number: int) -> bytes:
    """An archive (zip64) whose directory lists one empty member many times."""
    local = b"PK\3\4" + struct.pack("<HHHHHLLLHH", 20, 0, 0, 0, 33, 0, 0, 0, 1, 0) + b"a"
    entry = b"PK\1\2" + struct.pack("<HHHHHHLLLHHHHHLL", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    size, start = len(entry) * number, len(local)
    end64 = b"PK\6\6" + struct.pack("<QHHLLQQQQ", 44, 45, 45, 0, 0, number, number, size, start)
    locator = b"PK\6\7" + struct.pack("<LQL", 0, start + size, 1)
    end = b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return local + entry * number + end64 + locator + end


def _overlapping(number: int) -> bytes:
    """An archive whose members all have the same compressed data, which expand to 100 MiB each."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    content = bytes(128) + b"DICM" + bytes(range(256)) * 300
    plain = content * (100 * MEBIBYTE // len(content))
    packed = packer.compress(plain) + packer.flush()
    checksum, sizes = zlib.crc32(plain), (len(packed), len(plain))
    local = b"PK\3\4" + struct.pack("<HHHHHLLLHH", 20, 0, 8, 0, 33, checksum, *sizes, 1, 0) + b"a"
    data, directory = local + packed, b""
    for i in range(number):
        name = f"{i}.dcm".encode()
        directory += b"PK\1\2" + struct.pack(
            "<HHHHHHLLLHHHHHLL", 20, 20, 0, 8, 0, 33, checksum, *sizes, len(name), 0, 0, 0, 0, 0, 0
        ) + name  # fmt: skip
    end = b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, number, number, len(directory), len(data), 0)
    return data + directory + end


def main(folder: Path, *, all_of_them: bool) -> None:
    """Read each bomb, or those that take little time, and print what happened."""
    from kneegrade.errors import KneeGradeError
    from kneegrade.imaging import find_sources, read_radiograph

    listed = [(name, path) for name, path in bombs(folder) if all_of_them or name not in SLOW]
    read_radiograph(dicom_bytes(dataset()))
    found = {}
    reset_peak()
    before = peak_kib()
    for name, path in listed:
        start, cpu = time.monotonic(), cpu_seconds()
        outcomes: dict[str, int] = {}
        for number, source in enumerate(find_sources([path])):
            try:
                read_radiograph(source)
                code = "read"
            except KneeGradeError as error:
                code = error.code
            outcomes[code] = outcomes.get(code, 0) + 1
            if number == 2:  # the members of an archive are films of their own
                break
        found[name] = [outcomes, round(cpu_seconds() - cpu, 2), round(time.monotonic() - start, 2),
                       (peak_kib() - before) // 1024]  # fmt: skip
    print(json.dumps(found))


def cpu_seconds(pid: int | None = None) -> float:
    """Processor time of this process, of the decoding processes that have ended, and of the present one.

    Args:
        pid: of the decoding process, if it is not the shared one.
    """
    import psutil

    from kneegrade.imaging.decoding_process import decoding_process

    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    pid = pid or decoding_process().pid
    running = sum(psutil.Process(pid).cpu_times()[:2]) if pid else 0.0
    return time.process_time() + ended.ru_utime + ended.ru_stime + running


def reset_peak() -> None:
    """Forget the peak until now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_kib() -> int:
    """Greatest resident memory of this process since `reset_peak`, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), all_of_them=sys.argv[2] == "all")

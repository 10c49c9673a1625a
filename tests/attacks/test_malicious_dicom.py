"""Malicious DICOM files: each is rejected with one sentence within the limits, and the next file is read."""

import gc
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from films import compressed, dataset, dicom_bytes, through_gdcm
from pydicom import uid

from kneegrade.errors import KneeGradeError, LimitExceededError, UnreadableFileError
from kneegrade.imaging import Limits, Radiograph, read_radiograph
from kneegrade.imaging.decoding_worker import decode
from kneegrade.imaging.limits import MEBIBYTE

FILM = dicom_bytes(dataset(PatientID="SECRET-ID"))


def rejection(data: bytes, limits: Limits | None = None) -> KneeGradeError:
    """The error that rejects the bytes; a valid film must still be readable afterwards."""
    with pytest.raises(KneeGradeError) as caught:
        read_radiograph(data, limits=limits or Limits())
    assert "SECRET" not in str(caught.value)
    assert "Nobody" not in str(caught.value)
    assert isinstance(read_radiograph(FILM), Radiograph)
    return caught.value


def meta(transfer_syntax: bytes) -> bytes:
    value = transfer_syntax + b"\0" * (len(transfer_syntax) % 2)
    element = b"\2\0\x10\0UI" + struct.pack("<H", len(value)) + value
    return bytes(128) + b"DICM" + b"\2\0\0\0UL\4\0" + struct.pack("<L", len(element)) + element


def nested(levels: int, is_defined: bool = False) -> bytes:
    """A file whose header consists of nested sequences only."""
    body = b""
    for _ in range(levels):
        if is_defined:
            item = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(body)) + body
            body = b"\x08\x00\x10\x11SQ\0\0" + struct.pack("<L", len(item)) + item
        else:
            item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + body + b"\xfe\xff\x0d\xe0\0\0\0\0"
            body = b"\x08\x00\x10\x11SQ\0\0\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return meta(b"1.2.840.10008.1.2.1") + body


@pytest.mark.parametrize("levels", [40, 300, 3000])
@pytest.mark.parametrize("is_defined", [True, False])
def test_sequences_nested_too_deeply_are_rejected(levels: int, is_defined: bool) -> None:
    error = rejection(nested(levels, is_defined))
    assert isinstance(error, LimitExceededError)
    assert error.code == "nesting"


def test_nesting_beyond_the_recursion_limit_is_rejected() -> None:
    gc.disable()  # garbage collection callbacks, such as those of hypothesis, fail at the recursion limit
    try:
        with pytest.raises(LimitExceededError):
            decode(nested(3000), Limits())
    finally:
        gc.enable()


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def test_a_deflated_bomb_is_inflated_within_limits() -> None:
    bomb = deflated(b"\x09\x00\x10\x00OB\0\0" + struct.pack("<L", 100 * MEBIBYTE) + bytes(100 * MEBIBYTE))
    error = rejection(meta(b"1.2.840.10008.1.2.1.99") + bomb, Limits(child_memory_bytes=600 * MEBIBYTE))
    assert (type(error), error.code) == (LimitExceededError, "deflated_size")


@pytest.mark.slow
def test_a_deflated_bomb_with_an_unusual_meta_group_is_inflated_within_limits() -> None:
    syntax = b"1.2.840.10008.1.2.1.99"
    original = meta(syntax)
    unusual = original[:132] + b"\2\0\x01\0OB\0\0\2\0\0\0\0\1" + original[144:]  # no group length
    bomb = deflated(b"\x09\x00\x10\x00OB\0\0" + struct.pack("<L", 500 * MEBIBYTE) + bytes(500 * MEBIBYTE))
    limits = Limits(child_memory_bytes=600 * MEBIBYTE)
    assert rejection(unusual + bomb, limits).code == "deflated_size"


@pytest.mark.parametrize(
    ("rows", "columns"), [(65535, 65535), (10_001, 10_000), (1, 65535), (150, 161), (151, 160), (0, 160), (160, 0)]
)
def test_false_sizes_are_rejected(rows: int, columns: int) -> None:
    error = rejection(dicom_bytes(dataset(Rows=rows, Columns=columns)))
    assert error.code == ("pixels" if rows * columns > 100_000_000 else "damaged")


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.JPEGLSLossless])
def test_streams_that_declare_another_size_than_the_header_are_rejected(syntax: uid.UID) -> None:
    made = compressed(dataset(), syntax)
    made.Rows, made.Columns = made.Columns, made.Rows  # the same number of pixels
    assert rejection(dicom_bytes(made)).code == "damaged"
    data = dicom_bytes(compressed(dataset(), syntax))
    original, bomb = ((struct.pack(">LL", 160, 150), struct.pack(">LL", 60_000, 60_000)) if "2000" in syntax.name
                    else (struct.pack(">HH", 150, 160), struct.pack(">HH", 60_000, 60_000)))  # fmt: skip
    assert data.count(original) >= 1
    assert rejection(data.replace(original, bomb, 1)).code == "damaged"


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 0.6, 0.9, 0.999])
def test_truncated_files_are_rejected(share: float) -> None:
    assert isinstance(rejection(FILM[: int(len(FILM) * share)]), UnreadableFileError)


@pytest.mark.parametrize("data", [b"", b"\0", b"DICM", bytes(128) + b"DICM", bytes(5000), b"Dear doctor,\n" * 50])
def test_empty_short_and_renamed_files_are_rejected(data: bytes, tmp_path: Path) -> None:
    rejection(data)
    path = tmp_path / "film.dcm"
    path.write_bytes(data)
    with pytest.raises(KneeGradeError):
        read_radiograph(path)


def test_an_element_that_declares_gigabytes_is_rejected() -> None:
    lying = meta(b"1.2.840.10008.1.2.1") + b"\x09\x00\x10\x00OB\0\0" + struct.pack("<L", 0xFFFFFFF0) + b"x" * 100
    rejection(lying)


def encoded(name: str, folder: Path) -> bytes:
    if name == "native":
        return FILM
    if name.startswith("JPEGLossless") or name.startswith("JPEGExtended"):
        return through_gdcm(dataset(bits=12), name, folder)
    return dicom_bytes(compressed(dataset(bits=12), getattr(uid, name)))


@pytest.mark.parametrize(
    "name",
    ["native", "RLELossless", "JPEGLSLossless", "JPEG2000Lossless", "JPEGLosslessProcess14_1",
     "JPEGExtendedProcess2_4"],
)  # fmt: skip
def test_randomly_damaged_files_are_read_or_rejected(name: str, tmp_path: Path) -> None:
    original = encoded(name, tmp_path)
    dice = random.Random(name)
    for _ in range(15):
        data = bytearray(original)
        for _ in range(dice.choice([1, 4, 40])):
            data[dice.randrange(132, len(data))] = dice.randrange(256)
        cut = dice.choice([len(data), len(data), dice.randrange(200, len(data))])
        try:
            radiograph = read_radiograph(bytes(data[:cut]), limits=Limits(child_seconds=10))
        except KneeGradeError as error:
            assert error.message.endswith(".")  # noqa: PT017
        else:
            assert np.isfinite(radiograph.pixels).all()
            assert 0 <= radiograph.pixels.min() <= radiograph.pixels.max() <= 1

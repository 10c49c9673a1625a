"""Damaged files: the message is one sentence without patient data, and the next file is read."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from films import COLUMNS, ROWS, compressed, dataset, dicom_bytes, stored
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset

from kneegrade.errors import KneeGradeError, LimitExceededError
from kneegrade.imaging import Limits, Radiograph, find_sources, read_radiograph
from kneegrade.imaging.decoding_worker import decode, limit_memory
from kneegrade.imaging.dicom.dicom_file import is_dicom
from kneegrade.imaging.limits import MEBIBYTE

FILM = dicom_bytes(dataset())


def saved(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(stored(8)).save(stream, kind, **options)
    return stream.getvalue()


def code_of(data: bytes, limits: Limits | None = None) -> str:
    with pytest.raises(KneeGradeError) as caught:
        decode(data, limits or Limits())
    assert caught.value.message.count("\n") == 0
    assert "Nobody" not in caught.value.message
    return caught.value.code


def test_every_bad_file_of_a_folder_is_reported_and_the_others_are_read(tmp_path: Path) -> None:
    made = {
        "a_text.dcm": b"text renamed",
        "b_empty.dcm": b"",
        "c_truncated.dcm": FILM[: len(FILM) // 2],
        "d_film.dcm": FILM,
        "e_magic.png": b"\x88PNG\r\n\x1a\n" + bytes(60),
        "f_truncated.jpg": saved("JPEG")[:400],
        "g_film.png": saved("PNG"),
        "h_header_only.dcm": FILM[: FILM.index(b"\xe0\x7f\x10\x00")],
    }
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    rows = {}
    for source in find_sources([tmp_path]):
        try:
            rows[source.name] = read_radiograph(source).pixels.shape
        except KneeGradeError as error:
            rows[source.name] = error.code
    assert rows == {
        "a_text.dcm": "format",
        "b_empty.dcm": "empty",
        "c_truncated.dcm": "truncated",
        "d_film.dcm": (ROWS, COLUMNS),
        "e_magic.png": "format",
        "f_truncated.jpg": "damaged",
        "g_film.png": (ROWS, COLUMNS),
        "h_header_only.dcm": "truncated",
    }


def test_the_file_extension_is_ignored(tmp_path: Path) -> None:
    for name, data in {"film.png": FILM, "film.dcm": saved("PNG"), "film": saved("TIFF")}.items():
        (tmp_path / name).write_bytes(data)
        assert read_radiograph(tmp_path / name).pixels.shape == (ROWS, COLUMNS)


@pytest.mark.parametrize("size", [(65535, 65535), (ROWS + 1, COLUMNS), (ROWS, 60000), (1, 65535), (0, COLUMNS)])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless])
def test_false_rows_and_columns_are_rejected(size: tuple[int, int], syntax: uid.UID) -> None:
    made = dataset()
    if syntax.is_encapsulated:
        compressed(made, syntax)
    made.Rows, made.Columns = size
    assert code_of(dicom_bytes(made)) == ("pixels" if size[0] * size[1] > 100_000_000 else "damaged")


def test_excess_pixel_data_are_ignored() -> None:
    made = dataset(Rows=ROWS - 50)
    np.testing.assert_array_equal(decode(dicom_bytes(made), Limits()).pixels, stored(12)[: ROWS - 50])


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless])
def test_truncated_compressed_films_are_read_or_rejected(syntax: uid.UID) -> None:
    data = dicom_bytes(compressed(dataset(), syntax))
    for length in range(0, len(data) - 40, max(1, len(data) // 23)):
        assert_read_or_refused(data[:length])


def assert_read_or_refused(data: bytes) -> None:
    try:
        radiograph = read_radiograph(data)
    except KneeGradeError as error:
        assert error.message  # noqa: PT017
        assert "Nobody" not in error.message  # noqa: PT017
    else:
        assert isinstance(radiograph, Radiograph)
        assert radiograph.pixels.dtype == np.float32
        assert radiograph.pixels.min() >= 0
        assert radiograph.pixels.max() <= 1


@pytest.mark.parametrize("kind", ["native", "RLE", "JPEG-LS", "JPEG 2000", "PNG", "JPEG", "TIFF"])
def test_files_with_random_bytes_changed_are_read_or_rejected(kind: str) -> None:
    syntaxes = {"RLE": uid.RLELossless, "JPEG-LS": uid.JPEGLSLossless, "JPEG 2000": uid.JPEG2000Lossless}
    if kind == "native":
        data = FILM
    elif kind in syntaxes:
        data = dicom_bytes(compressed(dataset(), syntaxes[kind]))
    else:
        data = saved(kind)
    generator = np.random.default_rng(11)
    for _ in range(40):
        flipped = np.frombuffer(data, np.uint8).copy()
        near_start = generator.integers(0, min(1200, len(data)), 3)
        anywhere = generator.integers(0, len(data), 3)
        for at in (*near_start, *anywhere):
            flipped[at] = generator.integers(0, 256)
        assert_read_or_refused(flipped.tobytes())
    assert read_radiograph(FILM).pixels.shape == (ROWS, COLUMNS)


def test_a_png_that_declares_a_billion_pixels_is_rejected_by_its_header() -> None:
    data = bytearray(saved("PNG"))
    data[16:24] = struct.pack(">LL", 40_000, 40_000)
    data[29:33] = struct.pack(">L", zlib.crc32(data[12:29]))
    assert code_of(bytes(data)) == "pixels"


def test_a_film_that_needs_too_much_memory_is_rejected_and_the_next_is_read() -> None:
    large = np.zeros((9900, 9900), np.uint16)  # 784 MB for the 16-bit integers and the float32 copy together
    stream = io.BytesIO()
    Image.fromarray(large).save(stream, "PNG", compress_level=1)
    limits = Limits(child_memory_bytes=700 * MEBIBYTE)
    read_radiograph(FILM, limits=limits)
    with pytest.raises(LimitExceededError) as caught:
        read_radiograph(stream.getvalue(), limits=limits)
    assert caught.value.code == "memory"
    assert read_radiograph(FILM, limits=limits).pixels.shape == (ROWS, COLUMNS)


def test_a_system_that_refuses_the_memory_limit_is_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")

    def refuse(*args: object) -> None:
        raise OSError

    monkeypatch.setattr(resource, "setrlimit", refuse)
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit_memory(1 << 40)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_dicom_without_preamble_is_recognised_by_its_first_element() -> None:
    made = dataset()
    for syntax in (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian):
        made.file_meta.TransferSyntaxUID = syntax
        stream = io.BytesIO()
        bare = Dataset({element.tag: element for element in made})
        if syntax == uid.ExplicitVRBigEndian:
            bare.PixelData = stored(12).astype(">u2").tobytes()
        pydicom.dcmwrite(stream, bare, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
        assert is_dicom(stream.getvalue())
        np.testing.assert_array_equal(decode(stream.getvalue(), Limits()).pixels, stored(12))
    assert not is_dicom(b"short")

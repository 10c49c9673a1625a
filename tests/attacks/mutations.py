"""Damaged copies of files: each is a function of (seed, number), so that any of them can be made again.

The mutations know the formats: they change header values and lengths, nest sequences, and repair the checksums of PNG
chunks, so that the changed values reach the decoder.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
from films import compressed, dataset, dicom_bytes, stored
from PIL import Image
from pydicom import uid

Dice = np.random.Generator
LARGEST = 150_000  # bytes of a file of pydicom that is used
OTHERS = 20  # files of pydicom without an image that are used
PIXEL_DATA = b"\xe0\x7f\x10\x00"
NUMBERS = (0, 1, 2, 3, 7, 8, 12, 15, 16, 17, 32, 100, 149, 151, 159, 161, 255, 256, 4096, 32767, 32768, 65535)
LENGTHS = (0, 1, 2, 7, 255, 65535, 1 << 20, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFE, 0xFFFFFFFF)
IMAGE_TAGS = (  # two-byte elements that decide how the pixels are read
    b"\x28\x00\x02\x00", b"\x28\x00\x06\x00", b"\x28\x00\x10\x00", b"\x28\x00\x11\x00", b"\x28\x00\x00\x01",
    b"\x28\x00\x01\x01", b"\x28\x00\x02\x01", b"\x28\x00\x03\x01",
)  # fmt: skip
NESTING = b"\x08\x00\x10\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
NESTING_END = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"


def corpus() -> dict[str, bytes]:
    """Sound files by name: pydicom's test files, and own DICOM, PNG, JPEG and TIFF files of a small film."""
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    files = {f"pydicom/{path.name}": path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {name: as_radiograph(data) for name, data in files.items() if 0 < len(data) <= LARGEST}
    others = [name for name, data in files.items() if PIXEL_DATA not in data]
    for name in others[OTHERS:]:
        del files[name]
    return files | own_dicom() | own_pictures()


def as_radiograph(data: bytes) -> bytes:
    """The DICOM file with the modality CR, so that its pixels are decoded."""
    for vr in (b"CS\2\0", b"\2\0\0\0"):
        for modality in (b"CT", b"MR", b"US", b"NM", b"PT"):
            data = data.replace(b"\x08\x00\x60\x00" + vr + modality, b"\x08\x00\x60\x00" + vr + b"CR")
    return data


def own_dicom() -> dict[str, bytes]:
    """The film of the tests in several transfer syntaxes and pixel formats."""
    header = {"ImageLaterality": "R", "PixelSpacing": [0.2, 0.2], "ViewPosition": "PA"}
    made = {
        "own/12bit.dcm": dicom_bytes(dataset(**header)),
        "own/8bit.dcm": dicom_bytes(dataset(bits=8, **header)),
        "own/signed.dcm": dicom_bytes(dataset(stored(12, signed=True), RescaleIntercept=2048, RescaleSlope=1)),
        "own/negative.dcm": dicom_bytes(dataset(4095 - stored(12), PhotometricInterpretation="MONOCHROME1", **header)),
        "own/window.dcm": dicom_bytes(dataset(WindowCenter=2048, WindowWidth=4096, **header)),
    }
    for name, syntax in {
        "rle": uid.RLELossless, "jpegls": uid.JPEGLSLossless, "j2k": uid.JPEG2000Lossless,
        "deflated": uid.DeflatedExplicitVRLittleEndian, "implicit": uid.ImplicitVRLittleEndian,
    }.items():  # fmt: skip
        film = dataset(**header)
        if syntax.is_encapsulated:
            compressed(film, syntax)
        film.file_meta.TransferSyntaxUID = syntax
        made[f"own/{name}.dcm"] = dicom_bytes(film)
    return made


def own_pictures() -> dict[str, bytes]:
    """The film of the tests as PNG, JPEG and TIFF files."""
    eight, sixteen = Image.fromarray(stored(8)), Image.fromarray(stored(16))
    made = {"own/16bit.png": _saved(sixteen, "PNG"), "own/8bit.png": _saved(eight, "PNG")}
    made["own/palette.png"] = _saved(eight.convert("P"), "PNG")
    made["own/alpha.png"] = _saved(eight.convert("RGBA"), "PNG")
    made["own/film.jpg"] = _saved(eight, "JPEG", quality=90)
    made["own/progressive.jpg"] = _saved(eight.convert("RGB"), "JPEG", progressive=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    made["own/turned.jpg"] = _saved(eight, "JPEG", exif=exif)
    for compression in ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        made[f"own/{compression}.tif"] = _saved(eight, "TIFF", compression=compression)
    made["own/16bit.tif"] = _saved(sixteen, "TIFF")
    made["own/pages.tif"] = _saved(eight, "TIFF", save_all=True, append_images=[eight.resize((40, 38))])
    return made


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def mutations(files: dict[str, bytes], seed: int, count: int) -> Iterator[tuple[str, str, bytes]]:
    """(name of the file, name of the mutation, damaged bytes), `count` of them."""
    own = sorted(name for name in files if name.startswith("own/"))
    groups = [group for group in (own, sorted(files.keys() - set(own))) if group]
    for number in range(count):
        group = groups[number % len(groups)]
        yield mutation(files, group[number // len(groups) % len(group)], seed, number)


def mutation(files: dict[str, bytes], name: str, seed: int, number: int) -> tuple[str, str, bytes]:
    """The damaged copy of this number of one file."""
    dice = np.random.default_rng([seed, number])
    data = files[name]
    kinds: list[Callable[[bytes, Dice], bytes]] = [flip_anywhere, flip_in_header, truncate, lie_about_length, move_part]
    if data.startswith(b"\x89PNG"):
        kinds += 3 * [lie_in_png]
    elif data[:4] in (b"II*\0", b"MM\0*"):
        kinds += 3 * [lie_in_tiff]
    elif not data.startswith(b"\xff\xd8"):
        kinds += 3 * [lie_in_dicom] + [nest]
    change = kinds[int(dice.integers(len(kinds)))]
    return name, change.__name__, change(data, dice)


def flip_anywhere(data: bytes, dice: Dice) -> bytes:
    """1 to 40 bytes changed."""
    return _flipped(data, dice, len(data))


def flip_in_header(data: bytes, dice: Dice) -> bytes:
    """1 to 40 of the first 1500 bytes changed."""
    return _flipped(data, dice, min(len(data), 1500))


def _flipped(data: bytes, dice: Dice, end: int) -> bytes:
    changed = bytearray(data)
    for at in dice.integers(0, end, int(dice.choice([1, 2, 4, 40]))):
        changed[at] = int(dice.integers(256)) if dice.random() < 0.5 else changed[at] ^ (1 << int(dice.integers(8)))
    return bytes(changed)


def truncate(data: bytes, dice: Dice) -> bytes:
    """The beginning of the file."""
    return data[: int(dice.integers(len(data)))]


def lie_about_length(data: bytes, dice: Dice) -> bytes:
    """Four or two bytes anywhere, most often in the header, become an extreme length."""
    end = len(data) if dice.random() < 0.3 else min(len(data), 2000)
    at, value = int(dice.integers(end)), int(dice.choice(LENGTHS))
    order = "<" if dice.random() < 0.7 else ">"
    field = struct.pack(f"{order}L", value) if dice.random() < 0.5 else struct.pack(f"{order}H", value & 0xFFFF)
    return data[:at] + field + data[at + len(field) :]


def move_part(data: bytes, dice: Dice) -> bytes:
    """A part is removed, doubled, or replaced by zeros."""
    start = int(dice.integers(len(data)))
    end = start + int(dice.choice([1, 2, 16, 300, 5000]))
    return data[:start] + int(dice.integers(3)) % 3 * data[start:end] + data[end:]


def lie_in_dicom(data: bytes, dice: Dice) -> bytes:
    """One to three of the elements that decide how the pixels are read get another value."""
    changed = bytearray(data)
    for _ in range(int(dice.integers(1, 4))):
        tag = IMAGE_TAGS[int(dice.integers(len(IMAGE_TAGS)))]
        at = data.find(tag)
        if at >= 0:
            value = int(dice.choice(NUMBERS)) if dice.random() < 0.7 else int(dice.integers(65536))
            changed[at + 8 : at + 10] = struct.pack("<H", value)
    return bytes(changed)


def nest(data: bytes, dice: Dice) -> bytes:
    """Nested sequences, up to 2,000 levels, before the pixel data or at any other place."""
    at = data.find(PIXEL_DATA) if dice.random() < 0.7 else int(dice.integers(len(data)))
    levels = int(dice.choice([1, 20, 33, 200, 2000]))
    end = NESTING_END * levels if dice.random() < 0.5 else b""
    return data[: max(at, 0)] + NESTING * levels + end + data[max(at, 0) :]


def lie_in_png(data: bytes, dice: Dice) -> bytes:
    """A byte of IHDR or another chunk changed, with the right checksum."""
    changed, at = bytearray(data), 8
    starts = []
    while at + 12 <= len(data):
        starts.append(at)
        at += 12 + int(struct.unpack_from(">L", data, at)[0])
    at = starts[0] if dice.random() < 0.6 else starts[int(dice.integers(len(starts)))]
    (length,) = struct.unpack_from(">L", data, at)
    for _ in range(int(dice.integers(1, 4))):
        if length:
            changed[at + 8 + int(dice.integers(min(length, 40)))] = int(dice.integers(256))
    struct.pack_into(">L", changed, at + 8 + length, zlib.crc32(changed[at + 4 : at + 8 + length]))
    return bytes(changed)


def lie_in_tiff(data: bytes, dice: Dice) -> bytes:
    """Type, number or value of one to three tags of the first page changed."""
    changed, order = bytearray(data), "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}L", data, 4)
    if start + 14 > len(data):  # of a file that is damaged already
        return flip_in_header(data, dice)
    (number,) = struct.unpack_from(f"{order}H", data, start)
    for _ in range(int(dice.integers(1, 4))):
        entry = start + 2 + 12 * int(dice.integers(min(number, (len(data) - start - 2) // 12)))
        place, kind = ((2, "H"), (4, "L"), (8, "L"), (8, "H"))[int(dice.integers(4))]
        value = int(dice.choice(LENGTHS)) if dice.random() < 0.5 else int(dice.choice(NUMBERS))
        struct.pack_into(f"{order}{kind}", changed, entry + place, value & (0xFFFF if kind == "H" else 0xFFFFFFFF))
    return bytes(changed)

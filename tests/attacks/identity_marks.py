"""Films whose headers and names hold marks in the place of a patient's data, and where a mark is found again.

A film has 36 marks in standard, nested and private elements; one of `FAULTS` adds another where a message could quote
it. PNG, JPEG and TIFF files have them in their texts and tags. Every mark contains `MARK`; names of films, `NAME_MARK`.
"""

import io
import zipfile
from collections.abc import Iterable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "single_right.dcm"
MARK: Final = "CANARY"
NAME_MARK: Final = "FILMNAMEMARK"
TEXTS: Final = (
    "PatientID", "PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName", "PatientAddress",
    "PatientTelephoneNumbers", "PatientComments", "PatientInsurancePlanCodeSequence", "MilitaryRank", "EthnicGroup",
    "Occupation", "AdditionalPatientHistory", "AccessionNumber", "StudyID", "StudyDescription", "SeriesDescription",
    "ProtocolName", "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName",
    "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "RequestingPhysician", "ImageComments",
    "DeviceSerialNumber", "AdmissionID", "RequestedProcedureDescription",
)  # fmt: skip
FAULTS: Final[dict[str, tuple[str, str]]] = {  # an element and a mark in it
    "modality": ("Modality", "CANARYMOD"), "colour": ("PhotometricInterpretation", "CANARYCOLOUR"),
    "window": ("VOILUTFunction", "CANARYWINDOW"), "function": ("LossyImageCompressionMethod", "CANARYLOSSY"),
    "side": ("ImageLaterality", "CANARYSIDE"), "view": ("ViewPosition", "CANARYVIEW"),
    "part": ("BodyPartExamined", "CANARYPART"), "class": ("SOPClassUID", "2.25.CANARYCLASS"),
    "spacing": ("PixelSpacing", "CANARYMM"), "slope": ("RescaleSlope", "CANARYSLOPE"),
    "characters": ("SpecificCharacterSet", "CANARYCS"),
}  # fmt: skip
DAMAGED: Final = ("cut", "header", "empty", "syntax", "pixel", "text")
PLAIN: Final = (".png", ".jpg", ".tif")
KINDS: Final = (*FAULTS, *DAMAGED, *PLAIN)  # films that fail in some way, and pictures
REFUSED: Final = ("modality", "colour", *DAMAGED)  # at once; the others are graded, with a warning


def marks() -> list[str]:
    """The 36 values of each film."""
    return [f"{MARK}{number:02}X" for number in range(36)]


def add_marks(film: Dataset, keep: Iterable[str] = ()) -> Dataset:
    """The film with marks in standard, nested and private elements, but for the elements to keep."""
    values = iter(marks())
    for keyword in TEXTS:
        value = next(values)
        if keyword in keep:
            continue
        if keyword.endswith("Sequence"):
            item = Dataset()
            item.CodeMeaning = value
            setattr(film, keyword, Sequence([item]))
        else:
            setattr(film, keyword, value)
    item, inner = Dataset(), Dataset()
    inner.PatientID = next(values)
    inner.add_new(0x00110010, "LO", next(values))
    inner.add_new(0x00111001, "LO", next(values))
    item.ReferencedPatientSequence = Sequence([inner])
    item.RequestedProcedureID = next(values)
    film.RequestAttributesSequence = Sequence([item])
    film.add_new(0x00130010, "LO", next(values))
    film.add_new(0x00131001, "UN", next(values).encode())
    assert next(values, None) is None
    return film


def film_of(pixels: NDArray[np.uint16], kind: str = "") -> bytes:
    """A DICOM file with these pixels and all marks, and the fault of `FAULTS` or `DAMAGED`."""
    with pydicom.config.disable_value_validation():
        film = add_marks(pydicom.dcmread(EXAMPLE))
        film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        film.Rows, film.Columns = pixels.shape
        film.PixelData = pixels.tobytes()
        film.PixelSpacing = [0.6, 0.6]
        film.SpecificCharacterSet = "ISO_IR 192"
        if kind in FAULTS and kind != "characters":
            keyword, value = FAULTS[kind]
            tag = pydicom.datadict.tag_for_keyword(keyword)
            film[keyword] = pydicom.DataElement(tag, "LO" if kind in ("spacing", "slope") else film_vr(keyword), value)
        if kind == "window":
            film.WindowCenter, film.WindowWidth = 10, 5
        if kind == "pixel":
            film.Rows, film.Columns = 60_000, 60_000
        stream = io.BytesIO()
        pydicom.dcmwrite(stream, film)
    data = stream.getvalue()
    return {
        "cut": data[: len(data) // 2], "empty": data[:900],
        "header": data.replace(b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00XX"),
        "characters": data.replace(b"ISO_IR 192", b"CANARYCS  "),
        "syntax": data.replace(b"1.2.840.10008.1.2.1\0", b"9.2.CANARYSYNTAX.1\0\0"),
        "text": "\n".join(marks()).encode(),
    }.get(kind, data)  # fmt: skip


def film_vr(keyword: str) -> str:
    """The value representation of a keyword of the standard."""
    return pydicom.datadict.dictionary_VR(pydicom.datadict.tag_for_keyword(keyword))


def picture_of(pixels: NDArray[np.uint16], ending: str) -> bytes:
    """A PNG, JPEG or TIFF file with these pixels, and marks in its texts and tags."""
    picture, stream = Image.fromarray((pixels >> 8).astype(np.uint8)), io.BytesIO()
    exif = Image.Exif()
    for tag, value in zip((0x010E, 0x010F, 0x0110, 0x0131, 0x013B, 0x8298), marks(), strict=False):
        exif[tag] = value
    if ending == ".png":
        texts = PngImagePlugin.PngInfo()
        for number, value in enumerate(marks()):
            (texts.add_text, texts.add_itxt)[number % 2](f"{MARK}KEY{number}", value)
        picture.save(stream, "PNG", pnginfo=texts, exif=exif)
    elif ending == ".jpg":
        picture.save(stream, "JPEG", exif=exif, comment=" ".join(marks()))
    else:
        picture.save(stream, "TIFF", tiffinfo=dict(exif.items()) | {37510: " ".join(marks()), 65000: marks()[0]})
    return stream.getvalue()


def write_films(folder: Path, number: int, pictures: Iterable[NDArray[np.uint16]], every: int = 10) -> list[Path]:
    """Write marked films, of which every tenth is sound and the others are of `KINDS` in turn. Return the sound ones.

    Kinds that are refused at once come more often, because they are quick.

    Args:
        folder: new folder.
        number: of films.
        pictures: pixels of knees, used in turn.
        every: how often a film is sound.
    """
    folder.mkdir()
    knees, kinds, sound = cycle(pictures), cycle((*KINDS, *3 * REFUSED)), []
    for index in range(number):
        pixels, kind = next(knees), "" if index % every == 0 else next(kinds)
        path = folder / f"{NAME_MARK}{index:03}{kind or 'sound'}{'' if kind in PLAIN else '.dcm'}"
        path.write_bytes(picture_of(pixels, kind) if kind in PLAIN else film_of(pixels, kind))
        if not kind:
            sound.append(path)
    return sound


def contents(folder: Path, inputs: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Names and contents of all files below a folder, but for the top folders `inputs`.

    DICOM and FHIR objects name the patient, so only their names are given, but those of `share` are given whole.
    Columns of Parquet tables are given one by one.
    """
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        if place.parts[0] in inputs:
            continue
        yield f"name in {place.parts[0]}", path.name.encode()
        if not path.is_file() or ({"dicom", "fhir"} & set(place.parts) and not place.parts[0].startswith("shared")):
            continue
        if path.suffix == ".parquet":
            yield from columns(path, str(place))
            continue
        yield str(place), path.read_bytes()
        if zipfile.is_zipfile(path):  # arrays and weights
            with zipfile.ZipFile(path) as archive:
                yield from ((f"{place} {name}", archive.read(name)) for name in archive.namelist())
        if path.suffix == ".png":
            with Image.open(path) as picture:
                yield f"{place} texts", repr(picture.info).encode()


def columns(path: Path, place: str) -> Iterator[tuple[str, bytes]]:
    """The values of each column of a Parquet table, and its metadata."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    yield f"{place} metadata", repr((table.schema.names, table.schema.metadata)).encode()
    for name in table.schema.names:
        yield f"{place} column {name}", repr(table[name].to_pylist()).encode()


def leaks(texts: Iterable[tuple[str, bytes]], mark: str = MARK) -> list[str]:
    """Where a mark appears, as ASCII or UTF-16, in capitals or not; with what stands around it."""
    found = []
    for where, text in texts:
        for encoding in ("ascii", "utf-16-le"):
            place = text.upper().find(mark.upper().encode(encoding))
            if place >= 0:
                found.append(f"{where}: {text[max(0, place - 60) : place + 30]!r}")
    return found

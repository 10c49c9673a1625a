"""The files beside films on a CD from a hospital are left out and counted; damaged films are not."""

import struct
import zipfile
import zlib
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from films import dataset, dicom_bytes
from PIL import Image
from pydicom.uid import (
    BasicTextSRStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    MRImageStorage,
)

from kneegrade.imaging import find_sources, other_files_line

FILM = dicom_bytes(dataset())


def dicom_object(
    sop_class: str, modality: str, syntax: str = ExplicitVRLittleEndian, *, preamble: bool = True
) -> bytes:
    """A DICOM file without a film."""
    made = pydicom.Dataset()
    made.SOPClassUID, made.SOPInstanceUID, made.Modality = sop_class, "1.2.3", modality
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID, made.file_meta.TransferSyntaxUID = sop_class, syntax
    stream = BytesIO()
    made.save_as(stream, enforce_file_format=True)
    data = stream.getvalue()
    return data if preamble else data[144 + int.from_bytes(data[140:144], "little") :]


def picture(kind: str, side: int) -> bytes:
    stream = BytesIO()
    Image.fromarray(np.zeros((side, side), np.uint8)).save(stream, kind)
    return stream.getvalue()


OTHERS = {
    "AUTORUN.INF": (b"[autorun]", ".inf"),
    "DICOMDIR": (dicom_object("1.2.840.10008.1.3.10", ""), "DICOMDIR"),
    "Dicomdir": (b"\0" * 200, "DICOMDIR"),
    "DICOM/SR1": (dicom_object(BasicTextSRStorage, "SR"), "DICOM SR"),
    "DICOM/SR2": (dicom_object(BasicTextSRStorage, "SR", ImplicitVRLittleEndian, preamble=False), "DICOM SR"),
    "DICOM/KO": (dicom_object(KeyObjectSelectionDocumentStorage, "KO"), "DICOM KO"),
    "DICOM/PR.dcm": (dicom_object(GrayscaleSoftcopyPresentationStateStorage, "PR"), "DICOM PR"),
    "DICOM/letter.dcm": (dicom_object(EncapsulatedPDFStorage, "DOC"), "document in DICOM"),
    "DICOM/MR0001": (dicom_object(MRImageStorage, "MR"), "DICOM MR"),
    "README": (b"Insert this disc and wait.", "text"),
    "viewer/thumbs.DB": (b"\xd0\xcf\x11\xe0", ".db"),
    "viewer/VIEWER.EXE": (b"MZ\x90\0", ".exe"),
    "viewer/launch": (b"\x7fELF\x02\x01", "program"),
    "viewer/viewer.jar": (b"PK\x03\x04", ".jar"),
    "viewer/report.docx": (b"PK\x03\x04", ".docx"),
    "viewer/letter.pdf": (b"%PDF-1.7", ".pdf"),
    "viewer/letter": (b"%PDF-1.7", ".pdf"),
    "viewer/index.html": (b"<html>", ".html"),
    "viewer/zoom.png": (picture("PNG", 32), "icon"),
    "viewer/zoom.gif": (picture("GIF", 16), "icon"),
    "viewer/zoom.bmp": (picture("BMP", 24), "icon"),
    "viewer/strings.lang": (b"open=Open\nclose=Close\n", ".lang"),
}
PASSED_OVER = ("._film.dcm", ".DS_Store", "__MACOSX/film.dcm", "$RECYCLE.BIN/film.dcm", "System Volume Information/x")
KEPT = {
    "IM000001": FILM, "a.txt": FILM, "cut.dcm": FILM[:100], "empty.dcm": b"", "empty": b"", "damaged": b"\0\1\2\3" * 50,
    "text.png": b"this is no picture", "pdf.dcm": b"%PDF-1.7", "crop.png": picture("PNG", 96),
}  # fmt: skip


def find(path: Path) -> tuple[list[str], Counter[str]]:
    others = Counter[str]()
    return [source.name for source in find_sources([path], other_files=others)], others


@pytest.mark.parametrize("packed", [False, True])
def test_other_files_are_counted_by_kind_and_films_kept(tmp_path: Path, packed: bool) -> None:
    content = {name: data for name, (data, _) in OTHERS.items()} | dict.fromkeys(PASSED_OVER, FILM) | KEPT
    if packed:
        with zipfile.ZipFile(tmp_path / "cd.zip", "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)
        found, others = find(tmp_path / "cd.zip")
    else:
        for name, data in content.items():
            (tmp_path / "cd" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "cd" / name).write_bytes(data)
        found, others = find(tmp_path / "cd")
    assert sorted(found) == sorted(KEPT)
    assert others == Counter(kind for _, kind in OTHERS.values())


def test_a_file_given_by_itself_is_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "VIEWER.EXE").write_bytes(b"MZ\x90\0")
    assert find(tmp_path / "VIEWER.EXE") == (["VIEWER.EXE"], Counter())


def test_a_film_with_the_sop_class_of_another_modality_is_kept(tmp_path: Path) -> None:
    (tmp_path / "film").write_bytes(dicom_object(MRImageStorage, "CR"))
    assert find(tmp_path) == (["film"], Counter())


def test_the_sentence_names_at_most_eight_kinds() -> None:
    counts = {f".{letter}": number for number, letter in enumerate("abcdefghij", start=1)}
    assert other_files_line(counts) == (
        "55 other files were left out, because they are not films: 10 .j, 9 .i, 8 .h, 7 .g, 6 .f, 5 .e, 4 .d, 3 .c, "
        "3 of other kinds."
    )
    assert other_files_line({}) == ""


def archive_of(path: Path, stored: list[tuple[bytes, int]], extra: bytes = b"") -> Path:
    """A zip archive whose members have these bytes as names, and these flags."""
    members, directory, position = b"", b"", 0
    for name, flags in stored:
        sizes = struct.pack("<LLLHH", zlib.crc32(FILM), len(FILM), len(FILM), len(name), len(extra))
        member = b"PK\x03\x04" + struct.pack("<HHHHH", 20, flags, 0, 0, 0x5A21) + sizes + name + extra + FILM
        entry = (
            struct.pack("<HHHHHH", 20, 20, flags, 0, 0, 0x5A21) + sizes + struct.pack("<HHHLL", 0, 0, 0, 0, position)
        )
        directory += b"PK\x01\x02" + entry + name + extra
        members, position = members + member, position + len(member)
    end = struct.pack("<HHHHLLH", 0, 0, len(stored), len(stored), len(directory), position, 0)
    path.write_bytes(members + directory + b"PK\x05\x06" + end)
    return path


@pytest.mark.parametrize(
    ("names", "encoding", "flags"),
    [
        (["右膝/正面.dcm", "右膝/左.dcm"], "cp932", 0),
        (["レントゲン_01.dcm", "ﾔﾏﾀﾞ.dcm"][:1], "cp932", 0),
        (["右.dcm", "左.dcm"], "cp932", 0),
        (["CD/表/ソ.dcm"], "cp932", 0),
        (["右膝.dcm"], "utf-8", 0x800),
        (["Knie rechts, Größe.dcm", "右膝.dcm"], "utf-8", 0),
        (["Müller/Größe.dcm", "château.dcm", "créée.dcm", "Björk.dcm"], "cp437", 0),
        (["Sørensen.dcm".replace("ø", "o"), "knee.dcm"], "ascii", 0),
    ],
)
def test_names_in_zip_archives_are_those_that_were_packed(tmp_path: Path, names, encoding, flags) -> None:
    archive = archive_of(tmp_path / "study.zip", [(name.encode(encoding), flags) for name in names])
    sources = list(find_sources([archive]))
    assert sorted(source.name for source in sources) == sorted(names)
    assert all(source.open() == FILM for source in sources)


def test_the_unicode_name_of_info_zip_is_used(tmp_path: Path) -> None:
    stored = b"Kn?\x81.dcm"
    name = "Knöä.dcm".encode()
    extra = struct.pack("<HHBL", 0x7075, 5 + len(name), 1, zlib.crc32(stored)) + name
    (source,) = find_sources([archive_of(tmp_path / "study.zip", [(stored, 0)], extra)])
    assert source.name == "Knöä.dcm"


def test_archives_of_several_encodings_lose_no_film(tmp_path: Path) -> None:
    """The second byte of the last name's letter is a back-slash, before which ".dcm" would be a hidden file."""
    stored = ["右膝.dcm".encode("cp932"), "Größe.dcm".encode("cp437"), "功.dcm".encode("big5")]
    assert stored[2].endswith(b"\\.dcm")
    archive = archive_of(tmp_path / "study.zip", [(name, 0) for name in stored])
    names = [source.name for source in find_sources([archive])]
    assert len(names) == 3
    assert {"右膝.dcm", "Größe.dcm"} < set(names)


def test_a_name_that_is_wrongly_declared_as_utf_8_is_named_as_the_reason(tmp_path: Path) -> None:
    (source,) = find_sources([archive_of(tmp_path / "study.zip", [(b"\x8d\xb6.dcm", 0x800)])])
    assert source.error is not None
    assert source.error.code == "zip_names"

"""Pictures that kneegrade made are known in every encoding; films, also phantoms of kneegrade, are none."""

import zlib
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from kneegrade.server.node.own_objects import is_own_object

SYNTAXES = (
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian,
)  # fmt: skip
EXAMPLES = Path(__file__).parents[3] / "examples"


def write(path, syntax, model="kneegrade", has_source=True, **values):
    made = pydicom.Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = SecondaryCaptureImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "2.25.1"
    made.ManufacturerModelName = model
    for name, value in values.items():
        setattr(made, name, value)
    if has_source:
        made.SourceImageSequence = [pydicom.Dataset()]
        made.SourceImageSequence[0].ReferencedSOPInstanceUID = "2.25.2"
    dcmwrite(path, made, enforce_file_format=True)
    return path


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.keyword)
def test_own_pictures_in_every_encoding(tmp_path, syntax):
    assert is_own_object(write(tmp_path / "picture.dcm", syntax), syntax)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.keyword)
@pytest.mark.parametrize(
    "values",
    [
        {"has_source": False},
        {"model": "phantom"},
        {"model": "kneegrade 2"},
        {"model": "DX", "ImageComments": "kneegrade"},
    ],
)
def test_films_are_none(tmp_path, syntax, values):
    assert not is_own_object(write(tmp_path / "film.dcm", syntax, **values), syntax)


def test_a_real_picture_of_results(tmp_path):
    pytest.importorskip("highdicom", reason='highdicom is missing: pip install "kneegrade[dicom]"')
    from datetime import UTC, datetime

    from kneegrade.clinical import Job, read_clinical_film
    from kneegrade.clinical.secondary_capture import secondary_capture
    from kneegrade.results import GradedRadiograph, WeightsIdentity

    job = Job("1", WeightsIdentity("w", "0" * 64), "0" * 64, datetime(2026, 1, 1, tzinfo=UTC))
    film = read_clinical_film(GradedRadiograph("film", ()), EXAMPLES / "single_right.dcm", job)
    secondary_capture(film).save_as(tmp_path / "sc.dcm", enforce_file_format=True)
    assert is_own_object(tmp_path / "sc.dcm", ExplicitVRLittleEndian)


def test_examples_are_films():
    for path in EXAMPLES.glob("*.dcm"):
        assert not is_own_object(path, pydicom.dcmread(path).file_meta.TransferSyntaxUID)


@pytest.mark.parametrize("content", [b"", b"DICM", bytes(200), b"\xff" * 500, zlib.compress(bytes(10**7))])
def test_anything_else_is_none(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert not is_own_object(tmp_path / "file", DeflatedExplicitVRLittleEndian)

import zipfile
from pathlib import Path

import numpy as np
import pytest
from films import dataset, dicom_bytes
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.dataset import Dataset

from kneegrade.errors import UnsupportedFileError
from kneegrade.imaging import find_sources, read_radiograph
from kneegrade.imaging.own_pictures import IMPLEMENTATION_UID, own_picture_mark


def save(path: Path, mark: PngInfo | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((140, 130), np.uint8)).convert("RGB").save(path, pnginfo=mark, optimize=True)
    return path


def test_own_pictures_in_folders_and_archives_are_no_films(tmp_path: Path) -> None:
    other = PngInfo()
    other.add_text("Software", "another program")
    save(tmp_path / "in" / "film.png", other)
    save(tmp_path / "in" / "film.landmarks.png")  # a film may have this name
    own = save(tmp_path / "in" / "out" / "renamed.png", own_picture_mark())
    with zipfile.ZipFile(tmp_path / "in" / "study.zip", "w") as archive:
        archive.write(own, "own.png")
        archive.write(tmp_path / "in" / "film.png", "film.png")
    found = [source.name for source in find_sources([tmp_path / "in"])]
    assert found == ["film.landmarks.png", "film.png", "study.zip/film.png"]


def test_an_own_picture_given_by_itself_is_refused_with_the_reason(tmp_path: Path) -> None:
    (source,) = find_sources([save(tmp_path / "own.png", own_picture_mark())])
    with pytest.raises(UnsupportedFileError, match="not a film") as caught:
        source.open()
    assert caught.value.code == "own_picture"


def test_a_dicom_object_of_results_is_no_film(tmp_path: Path) -> None:
    own, film = dataset(), dataset()
    own.file_meta.ImplementationClassUID = IMPLEMENTATION_UID
    for name, one in (("own.dcm", own), ("film.dcm", film)):
        (tmp_path / name).write_bytes(dicom_bytes(one))
    assert [source.name for source in find_sources([tmp_path])] == ["film.dcm"]


def test_a_secondary_capture_of_results_is_refused_although_an_archive_rewrote_its_mark() -> None:
    source = Dataset()
    source.ReferencedSOPInstanceUID = "1.2.3"
    capture = dataset(ManufacturerModelName="kneegrade", SourceImageSequence=[source])
    with pytest.raises(UnsupportedFileError) as caught:
        read_radiograph(dicom_bytes(capture))
    assert caught.value.code == "own_picture"

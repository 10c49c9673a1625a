"""Reading structured reports: those of others are refused, and the file is parsed in the decoding process."""

import copy
import io
from collections.abc import Callable

import pydicom
import pytest
from clinical_films import VARIANTS, PhantomPair, file_of
from pydicom.dataset import Dataset

pytest.importorskip("highdicom", reason='highdicom is missing: pip install "kneegrade[dicom]"')

from kneegrade.clinical import read_sr
from kneegrade.clinical.derived_object import file_bytes
from kneegrade.clinical.sr import structured_report
from kneegrade.errors import UnreadableFileError, UnsupportedFileError


@pytest.fixture(scope="module")
def report(pair: PhantomPair) -> Dataset:
    content = file_bytes(structured_report(VARIANTS[0].film(pair)))
    return pydicom.dcmread(io.BytesIO(content))


def groups(dataset: Dataset) -> list[Dataset]:
    return dataset.ContentSequence[-1].ContentSequence


def no_groups(dataset: Dataset) -> None:
    dataset.ContentSequence[-1].ContentSequence = []


def no_content(dataset: Dataset) -> None:
    del dataset.ContentSequence


def unknown_grade(dataset: Dataset) -> None:
    item = next(i for i in groups(dataset)[0].ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "KL")
    item.ConceptCodeSequence[0].CodeValue = "KL9"


def no_status(dataset: Dataset) -> None:
    items = groups(dataset)[0].ContentSequence
    groups(dataset)[0].ContentSequence = [i for i in items if i.ConceptNameCodeSequence[0].CodeValue != "STATUS"]


@pytest.mark.parametrize("change", [no_groups, no_content, unknown_grade, no_status])
def test_a_report_of_another_program_is_refused(change: Callable[[Dataset], None], report: Dataset) -> None:
    changed = copy.deepcopy(report)
    change(changed)
    with pytest.raises(UnsupportedFileError, match="no structured report of kneegrade") as caught:
        read_sr(file_of(changed))
    assert caught.value.code == "foreign_report"


def test_an_image_is_refused(pair: PhantomPair) -> None:
    with pytest.raises(UnsupportedFileError) as caught:
        read_sr(file_of(pair.dataset))
    assert caught.value.code == "not_a_report"


def test_a_truncated_report_is_refused(report: Dataset) -> None:
    content = file_of(report)
    with pytest.raises((UnreadableFileError, UnsupportedFileError)):
        read_sr(content[: len(content) // 2])


def test_no_file_is_parsed_in_this_process(report: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    content = file_of(report)
    monkeypatch.setattr(pydicom, "dcmread", None)
    monkeypatch.setattr(pydicom.filereader, "dcmread", None)
    assert [knee["side"] for knee in read_sr(content)["knees"]] == ["R", "L"]


def test_nothing_about_the_patient_is_read(report: Dataset) -> None:
    text = str(read_sr(file_of(report)))
    assert "PHANTOM" not in text
    assert report.SOPInstanceUID not in text
    assert report.StudyInstanceUID not in text

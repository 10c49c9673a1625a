"""Promise 7: no identity leaks. Marked values in 36 places of a header appear in no log, message, name or table."""

import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from attack_tools import say, tries
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

EXAMPLE = Path(__file__).parents[2] / "examples" / "single_right.dcm"
NAME_MARK = "FILMCANARY"  # in the names of the films
TEXTS = (
    "PatientID", "PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName", "PatientAddress",
    "PatientTelephoneNumbers", "PatientComments", "PatientInsurancePlanCodeSequence", "MilitaryRank", "EthnicGroup",
    "Occupation", "AdditionalPatientHistory", "AccessionNumber", "StudyID", "StudyDescription", "SeriesDescription",
    "ProtocolName", "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName",
    "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "RequestingPhysician", "ImageComments",
    "DeviceSerialNumber", "AdmissionID", "RequestedProcedureDescription",
)  # fmt: skip
FAULTS: dict[str, tuple[str, str]] = {  # a mark where a message could quote it, and the way in which the film fails
    "modality": ("Modality", "CANARYMOD"), "colour": ("PhotometricInterpretation", "CANARYCOLOUR"),
    "window": ("VOILUTFunction", "CANARYWINDOW"), "function": ("LossyImageCompressionMethod", "CANARYSPACING"),
    "side": ("ImageLaterality", "CANARYSIDE"), "view": ("ViewPosition", "CANARYVIEW"),
    "part": ("BodyPartExamined", "CANARYPART"), "class": ("SOPClassUID", "2.25.CANARYCLASS"),
}  # fmt: skip
DEBUG = "import logging; logging.basicConfig(level=logging.DEBUG); from kneegrade.commands import main; main()"


def marks() -> list[str]:
    """The values that must not appear."""
    return [f"CANARY{number:02}X" for number in range(36)]


def marked(fault: str = "") -> Dataset:
    """The example film with marks in standard, nested and private elements, and one that makes it fail."""
    film = pydicom.dcmread(EXAMPLE)
    values = iter(marks())
    with pydicom.config.disable_value_validation():
        for keyword in TEXTS:
            if keyword.endswith("Sequence"):
                item = Dataset()
                item.CodeMeaning = next(values)
                setattr(film, keyword, Sequence([item]))
            else:
                setattr(film, keyword, next(values))
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
        if fault in FAULTS:
            setattr(film, *FAULTS[fault])
        if fault == "window":
            film.WindowCenter, film.WindowWidth = 10, 5
    return film


def films_in(folder: Path, number: int) -> Path:
    """Films with marks: sound ones, and those that fail in each way; also cut off, damaged and renamed ones."""
    folder.mkdir()
    kinds = ["", *FAULTS, "cut", "damaged", "empty", "syntax"]
    for i in range(number):
        kind = kinds[i % len(kinds)]
        stream = io.BytesIO()
        with pydicom.config.disable_value_validation():
            pydicom.dcmwrite(stream, marked(kind))
        data = stream.getvalue()
        if kind == "cut":
            data = data[: len(data) // 2]
        if kind == "damaged":
            data = data.replace(b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00XX")
        if kind == "syntax":
            data = data.replace(b"1.2.840.10008.1.2.1\0", b"9.2.840.10008.1.2.1\0")
        if kind == "empty":
            data = data[:900]
        (folder / f"{NAME_MARK}{i:03}{kind}.dcm").write_bytes(data)
    return folder


def found_in(texts: Iterator[tuple[str, bytes]], values: list[str]) -> list[str]:
    """Where one of the values appears."""
    encoded = [value.encode() for value in [*values, "CANARYMOD", "CANARYCOLOUR", "CANARYWINDOW", "CANARYSP"]]
    encoded += [b"CANARYSIDE", b"CANARYVIEW", b"CANARYPART", b"CANARYCLASS"]
    return [f"{where}: {value.decode()}" for where, text in texts for value in encoded if value in text]


def outputs(folder: Path, said: str) -> Iterator[tuple[str, bytes]]:
    """What a command printed, and names and contents of its files. Objects for the archive name the patient."""
    yield "standard output, error and log", said.encode()
    for path in sorted(folder.rglob("*")):
        yield "file name", path.name.encode()
        if (
            path.is_file()
            and path.suffix != ".parquet"
            and "dicom" not in path.parent.parts
            and path.parent.name != "fhir"
        ):
            yield path.name, path.read_bytes()
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            yield path.name, repr(pq.read_table(path).to_pylist()).encode()


def run(*arguments: object) -> str:
    """What the command line prints and logs at debug level."""
    command = [sys.executable, "-c", DEBUG, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, env={**os.environ, "COLUMNS": "400"})
    assert done.returncode in (0, 1, 2), done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


COMMANDS = {
    "grade": ("grade", "IN", "-o", "OUT", "--format", "json,html,csv,sr,gsps,sc,fhir"),
    "share": ("share", "IN", "-o", "OUT", "--secret", "SECRET"),
    "batch": ("batch", "IN", "-o", "OUT", "--workers", "1", "--format", "sr,sc"),
    "landmarks": ("landmarks", "IN", "-o", "OUT", "--format", "pts,csv,coco,png"),
    "cohort": ("cohort", "csv", "TABLE", "-o", "OUT"),
}


@pytest.mark.parametrize(
    "command", ["grade", *(pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS if name != "grade")]
)
def test_no_mark_leaves_the_header(command: str, tmp_path: Path) -> None:
    number = tries(40, 13)
    folder, output = films_in(tmp_path / "in", number), tmp_path / "out"
    (tmp_path / "table.csv").write_text("path,kl\n" + "".join(f"{path},1\n" for path in folder.iterdir()))
    paths = {"IN": folder, "OUT": output, "SECRET": tmp_path / "secret.key", "TABLE": tmp_path / "table.csv"}
    said = run(*(paths.get(word, word) for word in COMMANDS[command]))
    output.mkdir(exist_ok=True)
    leaks = found_in(outputs(output, said), marks())
    if command == "share":  # here the name of the film is part of the identity
        made = [(path.name, path.name.encode() + (path.read_bytes() if path.is_file() else b""))
                for path in output.rglob("*")]  # fmt: skip
        leaks += found_in(iter(made), [NAME_MARK, *marks()])
        assert any(path.suffix == ".dcm" for path in output.rglob("*"))
    say(7, f"{len(marks()) + len(FAULTS)} marks in {number} films through `kneegrade {command}`: {len(leaks)} found")
    assert leaks == []


def test_a_logger_that_names_the_patient_would_be_seen(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("kneegrade").debug("read %s", marked().PatientName)
    assert found_in(iter([("log", caplog.text.encode())]), marks())
    assert len(marks()) == 36

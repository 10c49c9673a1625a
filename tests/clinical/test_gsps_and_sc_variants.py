"""Presentation states and secondary captures of every kind of source film: valid."""

import shutil
import subprocess
from pathlib import Path

import pytest
from clinical_films import LONG_NAME, VARIANTS, ClinicalVariant, PhantomPair
from iod_check import iod_problems, needs_dciodvfy

from kneegrade.clinical.derived_object import file_bytes
from kneegrade.clinical.gsps import presentation_state
from kneegrade.clinical.secondary_capture import secondary_capture

pytest.importorskip("highdicom", reason='highdicom is missing: pip install "kneegrade[dicom]"')

STATES = (  # those whose presentation state differs; dcmpschk requires a name
    "plain", "monochrome2", "side_right", "no_side", "no_window", "windows", "no_spacing", "cr", "single_left",
    "side_unknown", "knee_refused", "all_refused", "no_knee", "latin1",
)  # fmt: skip
WRITERS = {"gsps": presentation_state, "sc": secondary_capture}


@needs_dciodvfy
def test_every_variant_is_valid(variant: ClinicalVariant, pair: PhantomPair, tmp_path: Path) -> None:
    film = variant.film(pair)
    for kind, write in WRITERS.items():
        assert iod_problems(file_bytes(write(film)), tmp_path) == [], kind


@needs_dciodvfy
@pytest.mark.parametrize("kind", WRITERS)
def test_a_name_that_is_too_long_is_the_only_error(kind: str, pair: PhantomPair, tmp_path: Path) -> None:
    problems = iod_problems(file_bytes(WRITERS[kind](LONG_NAME.film(pair))), tmp_path)
    assert len(problems) == 1
    assert "PatientName" in problems[0]


@pytest.mark.skipif(shutil.which("dcmpschk") is None, reason="dcmpschk is missing: apt-get install dcmtk")
@pytest.mark.parametrize("variant", [pytest.param(v, id=v.name) for v in VARIANTS if v.name in STATES])
def test_dcmtk_finds_no_error_in_a_state(variant: ClinicalVariant, pair: PhantomPair, tmp_path: Path) -> None:
    state = presentation_state(variant.film(pair))
    state.SpecificCharacterSet = "ISO_IR 100"  # dcmpschk 3.6.7 does not know UTF-8
    path = tmp_path / "state.dcm"
    path.write_bytes(file_bytes(state))
    done = subprocess.run(["dcmpschk", path], capture_output=True, timeout=60, check=False)
    output = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert "Test passed" in output, output

"""Promise 1: no file brings kneegrade down, and no damage turns, mirrors or inverts a film without a warning."""

import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from io import BytesIO
from itertools import cycle
from pathlib import Path

import numpy as np
import pydicom
import pytest
from attack_tools import SEED, say, tries
from bombs import cpu_seconds
from films import compressed, dataset, dicom_bytes
from mutations import corpus, mutation, mutations, own_dicom
from pydicom import uid

from kneegrade.errors import KneeGradeError
from kneegrade.imaging import Limits, Radiograph, find_sources, read_radiograph

LIMITS = Limits(child_seconds=30)
HANG_SECONDS = 10.0  # of processor time, so that a busy computer is no fault
EXAMPLE = Path(__file__).parents[2] / "examples" / "single_right.dcm"


def outcome_of(data: bytes) -> tuple[str, Radiograph | None]:
    """The code of the error or "read", and the radiograph; any other exception, or a warning, is a fault.

    The code is "hang" if the calling process had to end the decoding process.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            radiograph = read_radiograph(data, limits=LIMITS)
    except KneeGradeError as error:
        assert "\n" not in error.message  # noqa: PT017
        assert "Nobody" not in error.message  # noqa: PT017
        is_hang = error.code == "time" and "processor time" not in error.message  # the parent had to end it
        return "hang" if is_hang else error.code, None
    assert radiograph.pixels.dtype == np.float32
    assert np.isfinite(radiograph.pixels).all()
    assert 0 <= radiograph.pixels.min() <= radiograph.pixels.max() <= 1
    return "read", radiograph


def try_all(
    damaged: Iterable[tuple[str, str, bytes]],
    read: Callable[[bytes], tuple[str, Radiograph | None]] = outcome_of,
    hang_seconds: float = HANG_SECONDS,
) -> tuple[Counter[str], list[str], float]:
    """Counts of outcomes, the faults, and the most seconds of processor time that a file took.

    Faults are exceptions that are no `KneeGradeError`, and no answer within `hang_seconds`.
    """
    counts, faults, longest = Counter[str](), [], 0.0
    for number, (name, kind, data) in enumerate(damaged):
        start = cpu_seconds()
        try:
            code, _ = read(data)
        except Exception as error:
            code = type(error).__name__
            faults.append(f"{number} {name} {kind}: {error!r}")
        seconds = cpu_seconds() - start
        if code == "hang" or seconds > hang_seconds:
            faults.append(f"{number} {name} {kind}: {code} after {seconds:.1f} s of processor time")
        counts[code] += 1
        longest = max(longest, seconds)
    return counts, faults, longest


def test_damaged_files_are_read_or_refused() -> None:
    count = tries(20_000, 200)
    counts, faults, longest = try_all(mutations(corpus(), SEED, count))
    say(1, f"{count} damaged files of {len(corpus())}: {dict(counts.most_common())}; at most {longest:.1f} s of "
        f"processor time; {len(faults)} faults {faults}")  # fmt: skip
    assert faults == []


def test_an_exception_that_is_no_error_of_kneegrade_and_a_hang_would_be_seen() -> None:
    turns = cycle(("exception", "hang", "long"))

    def faulty(data: bytes) -> tuple[str, None]:
        turn = next(turns)
        if turn == "exception":
            raise IndexError
        if turn == "hang":
            return "hang", None
        end = time.process_time() + 0.06
        while time.process_time() < end:
            pass
        return "read", None

    _, faults, longest = try_all(mutations(corpus(), SEED, 9), faulty, hang_seconds=0.05)
    assert len(faults) == 9
    assert longest > 0.05


@pytest.mark.slow
def test_a_codec_that_never_ends_is_ended_by_its_processor_time() -> None:
    _, kind, data = mutation(corpus(), "pydicom/SC_rgb_jls_lossy_line.dcm", SEED, 6065)
    assert kind == "move_part"  # 2 bytes too many in a JPEG-LS stream
    code, _ = outcome_of(data)
    assert code in ("time", "damaged", "decoder_died")  # not "hang"


def gradable() -> dict[str, bytes]:
    """The example film in half its size, in several encodings, with a side and a spacing."""
    values = pydicom.dcmread(EXAMPLE).pixel_array[::2, ::2].copy()
    header = {"ImageLaterality": "R", "PixelSpacing": [0.3, 0.3], "PatientOrientation": ["L", "F"]}
    files = {"own/native": dicom_bytes(dataset(values, bits=16, **header))}
    inverted = dataset(65535 - values, bits=16, PhotometricInterpretation="MONOCHROME1", **header)
    files["own/monochrome1"] = dicom_bytes(inverted)
    for syntax in (uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.RLELossless):
        files[f"own/{syntax.name}"] = dicom_bytes(compressed(dataset(values, bits=16, **header), syntax))
    return files


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation of two images of one size; 0 for others and for constant ones."""
    if first.shape != second.shape or not (first.std() and second.std()):
        return 0.0
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def silent_changes(sound: Radiograph, damaged: Radiograph) -> list[str]:
    """What differs in a damaged film, without a warning, in size, spacing, side, orientation or polarity."""
    if {finding.code for finding in damaged.warnings} - {finding.code for finding in sound.warnings}:
        return []
    changes = []
    if damaged.pixels.shape != sound.pixels.shape:
        changes.append("size")
    if damaged.pixel_spacing_mm not in (None, sound.pixel_spacing_mm):
        changes.append("spacing")
    if damaged.laterality not in ("unknown", sound.laterality):
        changes.append("side")
    as_it_is = likeness(sound.pixels, damaged.pixels)
    images = [np.rot90(image, turn) for image in (damaged.pixels, damaged.pixels[:, ::-1]) for turn in range(4)]
    others = [sign * likeness(sound.pixels, image) for image in images for sign in (1, -1)]
    if max(others) > max(0.95, as_it_is + 0.02):  # damaged, a film is less like itself turned
        changes.append("orientation or polarity")
    return changes


def test_no_damage_changes_orientation_polarity_side_or_size_without_a_warning() -> None:
    files, counts, faults = gradable(), Counter[str](), []
    sound = {name: read_radiograph(data) for name, data in files.items()}
    count = tries(2000, 60)
    for number, (name, kind, data) in enumerate(mutations(files, SEED + 1, count)):
        code, radiograph = outcome_of(data)
        counts["read" if radiograph else "refused"] += 1
        changes = silent_changes(sound[name], radiograph) if radiograph else []
        faults += [f"{number} {name} {kind} {code}: {change}" for change in changes]
    say(1, f"{count} damaged copies of a film: {dict(counts)}; {len(faults)} with a silent change")
    assert faults == []


def test_a_turned_mirrored_inverted_or_cut_film_would_be_seen() -> None:
    sound = read_radiograph(gradable()["own/native"])
    for pixels in (sound.pixels[::-1, ::-1], sound.pixels[:, ::-1], 1 - sound.pixels, sound.pixels[:-9]):
        assert silent_changes(sound, replace(sound, pixels=pixels))
    assert silent_changes(sound, replace(sound, laterality="L", pixel_spacing_mm=(0.5, 0.5))) == ["spacing", "side"]


def test_members_of_damaged_archives_are_read_or_refused(tmp_path: Path) -> None:
    films = own_dicom()
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("own/12bit.dcm", "own/jpegls.dcm"):
            archive.writestr(name, films[name])
    path, counts, count = tmp_path / "films.zip", Counter[str](), tries(2000, 60)
    sound = {"own/films.zip": stream.getvalue()}
    for _, _, data in mutations(sound, SEED + 2, count):
        path.write_bytes(data)
        for source in find_sources([path]):
            try:
                counts["read" if read_radiograph(source, limits=LIMITS).pixels.size else ""] += 1
            except KneeGradeError as error:
                counts[error.code] += 1
    say(1, f"{count} damaged archives: {dict(counts.most_common())}")
    assert counts["read"] > 0
    assert counts["damaged"] > 0

"""`read_radiograph`: any source → a `Radiograph`, or a `KneeGradeError` with a reason."""

import stat
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kneegrade.errors import KneeGradeError, LimitExceededError, UnreadableFileError, UsageError
from kneegrade.imaging.decoding_process import decoding_process
from kneegrade.imaging.limits import Limits
from kneegrade.imaging.photometry import normalise
from kneegrade.imaging.radiograph import Laterality, Picture, Radiograph
from kneegrade.imaging.sources import Source
from kneegrade.results import Finding

if TYPE_CHECKING:
    from pydicom import Dataset

DEFAULT_LIMITS = Limits()

LATERALITY_CONFLICT = Finding(
    "laterality_conflict", "The side given by the user is not the one the file states; the file's side stays."
)
SPACING_CONFLICT = Finding(
    "spacing_conflict", "The pixel spacing given by the user is not the one the file states; the file's stays."
)


def read_radiograph(
    source: "str | Path | bytes | Source | Dataset | NDArray[np.generic]",
    *,
    laterality: str | None = None,
    pixel_spacing_mm: tuple[float, float] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Radiograph:
    """The radiograph in a file, in bytes, in a DICOM data set or in an array.

    Args:
        source: path of a DICOM, PNG, JPEG or TIFF file, the bytes of one, a `Source`, a `pydicom.Dataset`, or a
            (H, W) array of real numbers. An array of floats within [0, 1] keeps its values, any other is scaled by
            percentiles; all are checked for being a negative.
        laterality: "R" or "L", for a source that states no side.
        pixel_spacing_mm: (row, column), for a source that states no spacing.
        limits: what the source may ask for.

    Raises:
        UsageError: an argument is wrong, or the file does not exist.
        KneeGradeError: the source cannot be read; its subclass and code say why.
    """
    if laterality not in (None, "R", "L"):
        raise UsageError("The laterality must be R or L.", code="laterality")
    _check_spacing(pixel_spacing_mm)
    if isinstance(source, Source):
        source = source.open()
    is_unit = False
    if isinstance(source, np.ndarray):
        picture = _from_array(source, limits)
        is_unit = bool(np.issubdtype(source.dtype, np.floating) and _within_unit(picture.pixels))
    elif isinstance(source, bytes | bytearray | memoryview):
        picture = _from_bytes(bytes(source), limits)
    elif isinstance(source, str | Path):
        picture = _from_path(Path(source), limits)
    else:
        picture = _from_bytes(_serialised(source), limits)
    pixels, findings = normalise(picture.pixels, rescale=not is_unit)
    picture = replace(picture, pixels=pixels, warnings=(*picture.warnings, *findings))
    return _completed(picture, laterality, pixel_spacing_mm)


def _completed(picture: Picture, side: str | None, spacing_mm: tuple[float, float] | None) -> Radiograph:
    """The radiograph, with what the user says where the file is silent."""
    warnings = list(picture.warnings)
    laterality, laterality_source = picture.laterality, picture.laterality_source
    if side is not None and laterality == "unknown":
        laterality, laterality_source = _side(side), "user"
    elif side is not None and laterality != side:
        warnings.append(LATERALITY_CONFLICT)
    spacing, spacing_source = picture.pixel_spacing_mm, picture.spacing_source
    if spacing_mm is not None and spacing is None:
        spacing, spacing_source = (float(spacing_mm[0]), float(spacing_mm[1])), "user"
    elif spacing_mm is not None and spacing is not None and not np.allclose(spacing_mm, spacing, rtol=0.01):
        warnings.append(SPACING_CONFLICT)
    return Radiograph(
        pixels=picture.pixels,
        pixel_spacing_mm=spacing,
        spacing_source=spacing_source,
        laterality=laterality,
        laterality_source=laterality_source,
        view=picture.view,
        identity=picture.identity,
        warnings=tuple(warnings),
    )


def _side(side: str) -> Laterality:
    return "R" if side == "R" else "L"


def _check_spacing(spacing_mm: tuple[float, float] | None) -> None:
    if spacing_mm is None:
        return
    values = np.asarray(spacing_mm, dtype=np.float64)
    if values.shape != (2,) or not np.isfinite(values).all() or values.min() <= 0:
        raise UsageError("The pixel spacing must be two positive numbers in mm, row then column.", code="spacing")


def _within_unit(pixels: NDArray[np.float32]) -> bool:
    finite = pixels[np.isfinite(pixels)]
    return finite.size > 0 and bool(finite.min() >= 0 and finite.max() <= 1)


def _from_array(array: NDArray[np.generic], limits: Limits) -> Picture:
    if array.ndim != 2 or array.size == 0:
        raise UsageError(f"The array has the shape {array.shape}; give one of rows and columns.", code="array")
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_) or np.iscomplexobj(array):
        raise UsageError(f"The array is of {array.dtype}; give one of real numbers.", code="array")
    if array.size > limits.pixels:
        raise LimitExceededError(f"The array has more than the allowed {limits.pixels} pixels.", code="pixels")
    return Picture(array.astype(np.float32))


def _from_bytes(data: bytes, limits: Limits) -> Picture:
    if len(data) > limits.file_bytes:
        raise _too_large(limits)
    return decoding_process().decode(data, limits)


def _from_path(path: Path, limits: Limits) -> Picture:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise UsageError("The file does not exist; check its path.", code="no_such_file") from None
    except (OSError, ValueError):
        raise UnreadableFileError("The file cannot be opened.", code="cannot_open") from None
    if not stat.S_ISREG(status.st_mode):
        raise UsageError("The path is not a file; give a file, or use find_sources for a folder.", code="not_a_file")
    if status.st_size > limits.file_bytes:
        raise _too_large(limits)
    return decoding_process().decode(path.absolute(), limits)


def _too_large(limits: Limits) -> LimitExceededError:
    return LimitExceededError(f"The file is larger than the allowed {limits.file_bytes} bytes.", code="file_size")


def _serialised(dataset: Any) -> bytes:
    """A data set in memory as the bytes of a DICOM file, so that it takes the way of all files."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian

    if not isinstance(dataset, pydicom.Dataset):
        raise UsageError("The source must be a path, bytes, a pydicom data set or a numpy array.", code="source")
    try:
        if getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None):
            stated: dict[str, Any] = {}
        elif dataset.original_encoding[1] is not None:
            stated = dict(zip(("implicit_vr", "little_endian"), dataset.original_encoding, strict=True))
        else:
            stated = {"implicit_vr": False, "little_endian": ExplicitVRLittleEndian.is_little_endian}
        stream = BytesIO()
        pydicom.dcmwrite(stream, dataset, **stated)
        return stream.getvalue()
    except Exception:
        raise KneeGradeError("The DICOM data set cannot be written, hence not read.", code="damaged") from None

"""`read_radiograph`: a file, bytes, a DICOM data set or an array becomes a `Radiograph`."""

import stat
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from kneegrade.errors import KneeGradeError, LimitExceededError, UnreadableFileError, UsageError
from kneegrade.imaging.decoding_process import decoding_process
from kneegrade.imaging.limits import Limits
from kneegrade.imaging.photometry import INVERTED, NormalisedImage, normalised_image
from kneegrade.imaging.radiograph import DecodedImage, Laterality, Polarity, Radiograph
from kneegrade.imaging.sources import Source
from kneegrade.results import Finding

if TYPE_CHECKING:
    from pydicom import Dataset

DEFAULT_LIMITS = Limits()

LATERALITY_CONFLICT = Finding(
    "laterality_conflict", "The side given by the user differs from the side in the file; the side in the file is used."
)
SPACING_CONFLICT = Finding(
    "spacing_conflict",
    "The pixel spacing given by the user differs from that in the file; the pixel spacing in the file is used.",
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
        source: path of a DICOM, PNG, JPEG or TIFF file, its bytes, a `Source`, a `pydicom.Dataset`, or a (H, W) array
            of real numbers. A floating-point array within [0, 1] keeps its values; every other source is rescaled by
            percentiles. A negative is detected in the pixels and inverted; `LandmarkDetector.detect` checks this where
            the pixels leave doubt.
        laterality: "R" or "L", used when the source states no side.
        pixel_spacing_mm: (row, column) spacing in mm, used when the source states no spacing.
        limits: resources that the source may use.

    Raises:
        UsageError: an argument is invalid, or the file does not exist.
        KneeGradeError: the source cannot be read; the subclass and the code give the reason.
    """
    if laterality not in (None, "R", "L"):
        raise UsageError("The laterality must be R or L.", code="laterality")
    _check_spacing(pixel_spacing_mm)
    if isinstance(source, Source):
        source = source.open()
    is_unit_range = False
    if isinstance(source, np.ndarray):
        image = _from_array(source, limits)
        is_unit_range = bool(np.issubdtype(source.dtype, np.floating) and _is_within_unit_range(image.pixels))
    else:
        checked = _checked(source, limits)
        image = decoding_process().decode(checked, limits)
    normalised = normalised_image(image.pixels, rescale=not is_unit_range)
    return _with_user_values(image, normalised, laterality, pixel_spacing_mm)


def read_dicom_elements(
    source: "str | Path | bytes | Source | Dataset",
    kind: Literal["film", "document"],
    limits: Limits = DEFAULT_LIMITS,
) -> dict[str, Any]:
    """Elements of a DICOM file as DICOM JSON, read in the decoding process.

    Args:
        source: path of a DICOM file, its bytes, a `Source` or a `pydicom.Dataset`.
        kind: "film" for the elements listed in `imaging.header_keywords` and the SHA-256 of the stored pixel data;
            "document" for all standard elements of an object without an image, such as a structured report.
        limits: resources that the source may use.

    Returns:
        `elements` (DICOM JSON), `left_out` (keywords of malformed or too large elements), `file_sha256` and, for a
        film, `pixel_sha256`.

    Raises:
        UsageError: the file does not exist.
        KneeGradeError: the file is not DICOM (code `not_dicom`), or cannot be read.
    """
    content = source.open() if isinstance(source, Source) else source
    checked = _checked(content, limits)
    return decoding_process().elements(checked, kind, limits)


def _check_spacing(spacing_mm: tuple[float, float] | None) -> None:
    if spacing_mm is None:
        return
    values = np.asarray(spacing_mm, dtype=np.float64)
    if values.shape != (2,) or not np.isfinite(values).all() or values.min() <= 0:
        raise UsageError("The pixel spacing must be two positive numbers in mm, row then column.", code="spacing")


def _from_array(array: NDArray[np.generic], limits: Limits) -> DecodedImage:
    if array.ndim != 2 or array.size == 0:
        raise UsageError(
            f"The array has the shape {array.shape}; expected a non-empty array of rows and columns.", code="array"
        )
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_) or np.iscomplexobj(array):
        raise UsageError(f"The array has the dtype {array.dtype}; expected an array of real numbers.", code="array")
    if array.size > limits.pixels:
        raise LimitExceededError(
            f"The array has {array.size} pixels, more than the allowed {limits.pixels}.", code="pixels"
        )
    return DecodedImage(array.astype(np.float32))


def _is_within_unit_range(pixels: NDArray[np.float32]) -> bool:
    finite = pixels[np.isfinite(pixels)]
    return finite.size > 0 and bool(finite.min() >= 0 and finite.max() <= 1)


def _checked(source: "str | Path | bytes | Dataset", limits: Limits) -> Path | bytes:
    """The path or the bytes of a file that has an allowed size, for the decoding process."""
    if isinstance(source, str) and not source:
        raise UsageError("The path is empty; give the path of a file.", code="empty_path")
    if isinstance(source, str | Path):
        return _checked_path(Path(source), limits)
    is_bytes = isinstance(source, bytes | bytearray | memoryview)
    data = bytes(source) if is_bytes else _to_dicom_bytes(source)
    if len(data) > limits.file_bytes:
        raise _too_large(limits)
    return data


def _checked_path(path: Path, limits: Limits) -> Path:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise UsageError("The file does not exist; check the path.", code="no_such_file") from None
    except (OSError, ValueError):
        raise UnreadableFileError("The file cannot be opened.", code="cannot_open") from None
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise UsageError(f"The path is {what}; give the path of a file.", code="not_a_file")
    if status.st_size > limits.file_bytes:
        raise _too_large(limits)
    return path.absolute()


def _too_large(limits: Limits) -> LimitExceededError:
    return LimitExceededError(f"The file is larger than the allowed {limits.file_bytes} bytes.", code="file_size")


def _to_dicom_bytes(dataset: Any) -> bytes:
    """A data set in memory serialised as a DICOM file, so that it is decoded in the same way as a file."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian

    if not isinstance(dataset, pydicom.Dataset):
        raise UsageError("The source must be a path, bytes, a pydicom data set or a numpy array.", code="source")
    try:
        if getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None):
            encoding: dict[str, Any] = {}
        elif dataset.original_encoding[1] is not None:
            encoding = dict(zip(("implicit_vr", "little_endian"), dataset.original_encoding, strict=True))
        else:
            encoding = {"implicit_vr": False, "little_endian": ExplicitVRLittleEndian.is_little_endian}
        stream = BytesIO()
        pydicom.dcmwrite(stream, dataset, **encoding)
        return stream.getvalue()
    except Exception:
        raise KneeGradeError(
            "The DICOM data set is invalid: it cannot be written as a DICOM file.", code="damaged"
        ) from None


def _with_user_values(
    image: DecodedImage, normalised: NormalisedImage, side: str | None, spacing_mm: tuple[float, float] | None
) -> Radiograph:
    """The radiograph, with the user's side and spacing where the file states none."""
    warnings = [*image.warnings, *((INVERTED,) if normalised.inverted else ())]
    laterality, laterality_source = image.laterality, image.laterality_source
    if side is not None and laterality == "unknown":
        laterality, laterality_source = _as_laterality(side), "user"
    elif side is not None and laterality != side:
        warnings.append(LATERALITY_CONFLICT)
    spacing, spacing_source = image.pixel_spacing_mm, image.spacing_source
    if spacing_mm is not None and spacing is None:
        spacing, spacing_source = (float(spacing_mm[0]), float(spacing_mm[1])), "user"
    elif spacing_mm is not None and spacing is not None and not np.allclose(spacing_mm, spacing, rtol=0.01):
        warnings.append(SPACING_CONFLICT)
    return Radiograph(
        pixels=normalised.pixels,
        pixel_spacing_mm=spacing,
        spacing_source=spacing_source,
        laterality=laterality,
        laterality_source=laterality_source,
        view=image.view,
        identity=image.identity,
        warnings=tuple(warnings),
        polarity=Polarity(normalised.score, normalised.inverted, image.declared_polarity),
        padding=normalised.padding,
        pixel_aspect=image.pixel_aspect,
    )


def _as_laterality(side: str) -> Laterality:
    return "R" if side == "R" else "L"

"""PNG, JPEG and TIFF files to `DecodedImage`. This module runs in the decoding process."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from kneegrade.errors import KneeGradeError, UnreadableFileError, UnsupportedFileError
from kneegrade.imaging.cpu_limit import extend_cpu_limit
from kneegrade.imaging.dicom.dicom_header import check_pixel_count
from kneegrade.imaging.limits import Limits
from kneegrade.imaging.plain_image_kinds import unsupported_kind
from kneegrade.imaging.radiograph import DecodedImage
from kneegrade.results import Finding

FORMATS = ("PNG", "JPEG", "TIFF")
GREY_MODES = frozenset({"L", "I", "F", "I;16", "I;16B", "I;16L"})
NEW_SUBFILE_TYPE, SAMPLE_FORMAT = 254, 339  # TIFF tags
REDUCED_IMAGE = 1  # bit of NewSubfileType
UNSIGNED = 1  # value of SampleFormat, and its default
MAX_PAGES = 16  # a TIFF with more pages is refused without looking for thumbnails
MAX_THUMBNAIL = 0.5  # largest size of a thumbnail without NewSubfileType, as a share of the film's
ASPECT_TOLERANCE = 0.05

ALPHA_IGNORED = Finding("alpha_ignored", "The image is equally transparent everywhere; its transparency was ignored.")


def read_plain_image(data: bytes, limits: Limits) -> DecodedImage:
    """The image in a PNG, JPEG or TIFF file, rotated by its EXIF orientation, without pixel spacing.

    The resolution tags are ignored: they state a print resolution, not the size of the imaged object.

    Raises:
        UnsupportedFileError: the file has more than one page beside thumbnails, or is of a kind that is not supported.
        UnreadableFileError: the file is damaged or truncated.
        LimitExceededError: the image has more pixels than allowed.
    """
    Image.MAX_IMAGE_PIXELS = None  # replaced by `limits.pixels`, which is checked before decoding
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            check_pixel_count(image.height, image.width, limits)
            if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
                select_film_page(image)
                check_pixel_count(image.height, image.width, limits)
            extend_cpu_limit(image.height * image.width)
            is_unsigned = image.format == "TIFF" and _first_tag(image, SAMPLE_FORMAT, UNSIGNED) == UNSIGNED
            pixels, findings = _to_grey(ImageOps.exif_transpose(image), is_unsigned=is_unsigned)
            return DecodedImage(pixels, warnings=findings)
    except (KneeGradeError, MemoryError):
        raise
    except Exception as error:
        kind = unsupported_kind(data) if isinstance(error, UnidentifiedImageError) else None
        if kind is not None:
            raise UnsupportedFileError(
                f"The file is {kind}, which is not supported; convert it to PNG.", code="format"
            ) from None
        raise UnreadableFileError(
            "The image file is damaged or truncated; use another copy of the file.", code="damaged"
        ) from None


def select_film_page(image: Image.Image) -> None:
    """Go to the only page of a TIFF file that is not a thumbnail of another page.

    Raises:
        UnsupportedFileError: there is not exactly one such page.
    """
    pages = int(getattr(image, "n_frames", 1))
    sizes: list[tuple[int, int]] = []
    is_reduced: list[bool] = []
    for page in range(min(pages, MAX_PAGES)):
        image.seek(page)
        sizes.append(image.size)
        is_reduced.append(bool(_first_tag(image, NEW_SUBFILE_TYPE, 0) & REDUCED_IMAGE))
    largest = max(range(len(sizes)), key=lambda page: (not is_reduced[page], sizes[page][0] * sizes[page][1]))
    others = [page for page in range(len(sizes)) if page != largest]
    if pages > MAX_PAGES or not all(is_reduced[page] or _is_thumbnail(sizes[page], sizes[largest]) for page in others):
        raise UnsupportedFileError(
            f"The TIFF file has {pages} pages; use files with a single page.", code="multi_frame"
        )
    image.seek(largest)


def _is_thumbnail(size: tuple[int, int], film: tuple[int, int]) -> bool:
    across, down = size[0] / film[0], size[1] / film[1]
    return max(across, down) <= MAX_THUMBNAIL and abs(across - down) <= ASPECT_TOLERANCE * max(across, down)


def _first_tag(image: Image.Image, tag: int, default: int) -> int:
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _to_grey(image: Image.Image, *, is_unsigned: bool) -> tuple[NDArray[np.float32], tuple[Finding, ...]]:
    """(H, W) float32 and warnings; colour becomes luminance, transparent pixels become black.

    Args:
        image: decoded image.
        is_unsigned: True when integers of 32 bits, which Pillow reads as signed, are unsigned.
    """
    if image.mode in GREY_MODES:
        values = np.asarray(image)
        is_wrapped = is_unsigned and values.dtype == np.int32
        return (values.view(np.uint32) if is_wrapped else values).astype(np.float32), ()
    findings: tuple[Finding, ...] = ()
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        low, high = rgba.getchannel("A").getextrema()
        if low == high:  # an alpha channel that hides all or nothing carries no information
            image = rgba.convert("RGB")
            findings = () if low == 255 else (ALPHA_IGNORED,)
        else:
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return np.asarray(image.convert("L")).astype(np.float32), findings

"""PNG, JPEG and TIFF files to `DecodedImage`. This module runs in the decoding process."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from kneegrade.errors import KneeGradeError, UnreadableFileError, UnsupportedFileError
from kneegrade.imaging.dicom_header import check_pixel_count
from kneegrade.imaging.limits import Limits
from kneegrade.imaging.radiograph import DecodedImage

FORMATS = ("PNG", "JPEG", "TIFF")
GREY_MODES = frozenset({"L", "I", "F", "I;16", "I;16B", "I;16L"})


def read_plain_image(data: bytes, limits: Limits) -> DecodedImage:
    """The image in a PNG, JPEG or TIFF file, rotated by its EXIF orientation, without pixel spacing.

    The resolution tags are ignored: they state a print resolution, not the size of the imaged object.

    Raises:
        UnsupportedFileError: the file has more than one page.
        UnreadableFileError: the file is damaged or truncated.
        LimitExceededError: the image has more pixels than allowed.
    """
    Image.MAX_IMAGE_PIXELS = None  # replaced by `limits.pixels`, which is checked before decoding
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            check_pixel_count(image.height, image.width, limits)
            pages = getattr(image, "n_frames", 1)
            if image.format == "TIFF" and pages > 1:
                raise UnsupportedFileError(
                    f"The TIFF file has {pages} pages; use files with a single page.", code="multi_frame"
                )
            upright = ImageOps.exif_transpose(image)
            return DecodedImage(_to_grey(upright))
    except (KneeGradeError, MemoryError):
        raise
    except Exception:
        raise UnreadableFileError(
            "The image file is damaged or truncated; use another copy of the file.", code="damaged"
        ) from None


def _to_grey(image: Image.Image) -> NDArray[np.float32]:
    """(H, W) float32; colour becomes luminance, transparent pixels become black."""
    if image.mode in GREY_MODES:
        return np.asarray(image).astype(np.float32)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return np.asarray(image.convert("L")).astype(np.float32)

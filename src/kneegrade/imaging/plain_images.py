"""PNG, JPEG and TIFF → `Picture`. Runs in the decoding process."""

from io import BytesIO

import numpy as np
from PIL import Image, ImageOps

from kneegrade.errors import KneeGradeError, UnreadableFileError, UnsupportedFileError
from kneegrade.imaging.dicom_header import refuse_too_many_pixels
from kneegrade.imaging.limits import Limits
from kneegrade.imaging.radiograph import Picture

FORMATS = ("PNG", "JPEG", "TIFF")
DIRECT_MODES = frozenset({"L", "I", "F", "I;16", "I;16B", "I;16L"})


def read_plain(data: bytes, limits: Limits) -> Picture:
    """The picture in a PNG, JPEG or TIFF file, upright by its EXIF orientation, without spacing.

    A printing density is no pixel spacing, hence the resolution tags are not read.

    Raises:
        UnsupportedFileError: more than one page.
        UnreadableFileError: damaged or truncated.
        LimitExceededError: more pixels than allowed.
    """
    Image.MAX_IMAGE_PIXELS = None  # ours is asked before anything is decoded
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            refuse_too_many_pixels(image.height, image.width, limits)
            pages = getattr(image, "n_frames", 1)
            if image.format == "TIFF" and pages > 1:
                raise UnsupportedFileError(
                    f"The TIFF file holds {pages} pages; give files of a single page.", code="multi_frame"
                )
            upright = ImageOps.exif_transpose(image)
            return Picture(_grey(upright))
    except (KneeGradeError, MemoryError):
        raise
    except Exception:
        raise UnreadableFileError("The image file is damaged or truncated.", code="damaged") from None


def _grey(image: Image.Image) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    """(H, W) float32; transparent pixels count as black."""
    if image.mode in DIRECT_MODES:
        return np.asarray(image).astype(np.float32)
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layers.size, (0, 0, 0, 255)), layers)
    return np.asarray(image.convert("L")).astype(np.float32)

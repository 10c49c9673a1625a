"""`FilmHeader`: what objects derived from a film take from its header: identity verbatim, geometry checked, no more.

`read_film_header` is a request of its own to the decoding process, made only where objects are wanted. So the identity
of a patient is in memory only while the objects of one film are written, and never in a `Report`, in JSON, in a log or
in an exception.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydicom import Dataset, config
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.valuerep import STR_VR, VR, PersonName, validate_value

from kneegrade.errors import UnsupportedFileError
from kneegrade.imaging import Source, read_dicom_elements
from kneegrade.imaging.dicom.header_keywords import IDENTITY, IMAGE, INSTANCE, REQUIRED

if TYPE_CHECKING:
    from collections.abc import Iterator

UID_PATTERN: Final = re.compile(r"[0-9][0-9.]{0,63}")
UTF8: Final = "ISO_IR 192"
ASCII: Final = "ISO_IR 6"  # the default, which is not declared
SEXES: Final = frozenset({"M", "F", "O"})
VERBATIM: Final = frozenset(  # copied even where they do not conform: another value would be another patient or order
    {"PatientID", "PatientName", "IssuerOfPatientID", "AccessionNumber", "StudyID", "ReferringPhysicianName"}
)
WINDOW: Final = ("WindowCenter", "WindowWidth")


@dataclass(frozen=True, eq=False, repr=False)
class FilmHeader:
    """The header of a film in two parts.

    Attributes:
        image: UIDs and attributes of the image, with the patient's attributes present and empty. highdicom takes it as
            the source image.
        identity: attributes of patient, study and order, in the character set `SpecificCharacterSet`. Written over
            every derived object.
        withheld: keywords of attributes that were malformed or not conformant and are left out or empty.
        pixel_sha256: SHA-256 of the stored pixel data.
        file_sha256: SHA-256 of the file, as `GradedRadiograph.sha256`.
    """

    image: Dataset
    identity: Dataset
    withheld: tuple[str, ...]
    pixel_sha256: str
    file_sha256: str

    def __repr__(self) -> str:
        return "FilmHeader(...)"  # no identity in logs

    @property
    def sop_instance_uid(self) -> str:
        """SOP Instance UID of the film."""
        return str(self.image.SOPInstanceUID)

    @property
    def study_instance_uid(self) -> str:
        """Study Instance UID of the film."""
        return str(self.image.StudyInstanceUID)

    @property
    def size(self) -> tuple[int, int]:
        """(rows, columns)."""
        return int(self.image.Rows), int(self.image.Columns)

    @property
    def laterality(self) -> str | None:
        """Stated side: "R", "L" or "B" (both)."""
        value = self.image.get("ImageLaterality") or self.image.get("Laterality")
        return value if value in ("R", "L", "B") else None

    @property
    def orientation(self) -> tuple[str, str] | None:
        """Patient Orientation of rows and columns."""
        value = self.image.get("PatientOrientation")
        return (str(value[0]), str(value[1])) if value and not isinstance(value, str) and len(value) == 2 else None

    @property
    def spacing_mm(self) -> tuple[float, float] | None:
        """(row, column) spacing as stated, whether trusted or not."""
        for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
            value = self.image.get(keyword)
            if value and not isinstance(value, str) and len(value) == 2 and min(map(float, value)) > 0:
                return float(value[0]), float(value[1])
        return None

    @property
    def aspect_ratio(self) -> tuple[int, int]:
        """Height and width of a pixel as integers, from the spacing or else from Pixel Aspect Ratio."""
        if self.spacing_mm is not None:
            height, width = (round(1e5 * value) for value in self.spacing_mm)
        else:
            stated = self.image.get("PixelAspectRatio")
            is_pair = stated and not isinstance(stated, str) and len(stated) == 2
            height, width = (int(value) for value in stated) if is_pair else (1, 1)
        return (height, width) if height != width and min(height, width) > 0 else (1, 1)

    @property
    def inverse(self) -> bool:
        """True if low stored values are shown white (MONOCHROME1)."""
        return str(self.image.get("PhotometricInterpretation", "")) == "MONOCHROME1"

    @property
    def instance_number(self) -> int:
        """Instance Number, at least 1."""
        return max(1, int(self.image.get("InstanceNumber") or 1))

    @property
    def timezone_offset(self) -> str | None:
        """Timezone Offset From UTC as "+HHMM" or "-HHMM", where the film states a valid one."""
        value = str(self.identity.get("TimezoneOffsetFromUTC") or "")
        return value if re.fullmatch(r"[+-](0\d|1[0-4])[0-5]\d", value) else None


def read_film_header(source: "str | Path | bytes | Source | Dataset") -> FilmHeader:
    """The header of a DICOM film, from the decoding process.

    Args:
        source: path of a DICOM file, its bytes, a `Source` or a `pydicom.Dataset`.

    Raises:
        UnsupportedFileError: no object can be derived from the file: it is no DICOM file (`not_dicom`), or it has no
            Study, Series or SOP Instance UID (`no_identity`).
        KneeGradeError: the file cannot be read.
    """
    return film_header_of(read_dicom_elements(source, "film"))


def film_header_of(answer: dict[str, Any]) -> FilmHeader:
    """The header in the answer of the decoding process (`read_dicom_elements`).

    Raises:
        UnsupportedFileError: there is no Study, Series or SOP Instance UID (`no_identity`).
    """
    with config.disable_value_validation():
        elements = Dataset.from_json(answer["elements"])
    for keyword in INSTANCE:
        if not UID_PATTERN.fullmatch(str(elements.get(keyword) or "")):
            raise UnsupportedFileError(
                f"The film has no valid {keyword}, so no object can be filed beside it. Use the film as the archive "
                "sends it.",
                code="no_identity",
            )
    image, texts = _image(elements)
    identity, withheld = _identity(elements)
    return FilmHeader(
        image=image,
        identity=identity,
        withheld=(*answer["left_out"], *texts, *withheld),
        pixel_sha256=str(answer["pixel_sha256"]),
        file_sha256=str(answer["file_sha256"]),
    )


def _image(elements: Dataset) -> tuple[Dataset, list[str]]:
    """Attributes of the image, the first window only, the patient's attributes empty; keywords of those left out."""
    image = Dataset()
    texts = [keyword for keyword in IMAGE if keyword in elements and _is_text_for_number(elements[keyword])]
    for keyword in texts:
        del elements[keyword]
    for keyword in (*INSTANCE, *IMAGE):
        if keyword in elements and keyword not in WINDOW:
            image[keyword] = elements[keyword]
    if all(elements.get(keyword) not in (None, "") for keyword in WINDOW):
        for keyword in WINDOW:  # a presentation state takes one window
            element = elements[keyword]
            setattr(image, keyword, element.value[0] if element.VM > 1 else element.value)
    image.Modality = image.get("Modality") or "OT"
    for keyword in REQUIRED:
        setattr(image, keyword, "")
    return image, texts


def _is_text_for_number(element: DataElement) -> bool:
    """True if the standard has a decimal or integer string here, and the film an element of text, such as LO."""
    return dictionary_VR(element.tag) in ("DS", "IS") and element.VR in STR_VR - {VR.DS, VR.IS}


def _identity(elements: Dataset) -> tuple[Dataset, list[str]]:
    """Attributes of patient, study and order, and the keywords of those that do not conform."""
    identity, withheld = Dataset(), list[str]()
    for keyword in IDENTITY:
        if keyword not in elements:
            continue
        if keyword in VERBATIM or _conforms(elements[keyword]):
            identity[keyword] = elements[keyword]
        else:
            withheld.append(keyword)
    for keyword in REQUIRED:
        if keyword not in identity:
            setattr(identity, keyword, "")
    if not _encodable(elements):
        identity.SpecificCharacterSet = UTF8
    elif identity.get("SpecificCharacterSet") in ("", None, ASCII):  # an element without value is not allowed
        identity.pop("SpecificCharacterSet", None)
    return identity, withheld


def _conforms(element: DataElement) -> bool:
    """True if an element may be written again: sequences, empty elements, and values that conform to their VR."""
    if element.VR == "SQ" or element.value in (None, ""):
        return True
    values = [str(value) for value in (element.value if element.VM > 1 else [element.value])]
    if element.keyword == "PatientSex":
        return values[0] in SEXES
    if element.VR == "DA":
        return all(re.fullmatch(r"\d{8}", value) for value in values)
    try:
        for value in values:
            validate_value(element.VR, value, config.RAISE)
    except ValueError:
        return False
    return True


def _encodable(elements: Dataset) -> bool:
    """True if the character set of the film is defined and can encode all its texts.

    A film that declares none may have names in the encoding of its hospital, which nobody can know. They are read and
    written as Latin-1, so that their bytes do not change and an archive shows them as it shows those of the film.
    """
    declared = elements.get("SpecificCharacterSet") or ""
    names = [str(name) for name in ([declared] if isinstance(declared, str) else declared)]
    if any(name and name not in python_encoding for name in names):
        return False
    encodings = [python_encoding[name] for name in names]
    return all(_can_encode(text, encodings) for text in _texts(elements))


def _texts(dataset: Dataset) -> "Iterator[str]":
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _texts(item)
        elif element.value not in (None, ""):
            for value in element.value if element.VM > 1 else [element.value]:
                yield str(value) if not isinstance(value, PersonName) else "=".join(value.components)


def _can_encode(text: str, encodings: list[str]) -> bool:
    """True if each character can be encoded by one of the encodings."""
    return all(character.isascii() or any(_encodes(character, name) for name in encodings) for character in text)


def _encodes(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except (UnicodeError, LookupError):
        return False
    return True

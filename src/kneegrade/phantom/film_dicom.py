"""Synthetic films as DICOM files of the DX or CR class; the same film always gives the same bytes.

`write_film` writes one film. `write_example_study` writes the two films and their truth that the README, the demo and
the tests use.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import FileDataset
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from kneegrade.errors import UsageError
from kneegrade.files import make_directory, replacing, write_text
from kneegrade.phantom.film import FilmOptions, PhantomFilm, render_film
from kneegrade.version import __version__

TRANSFER_SYNTAXES = {"none": ExplicitVRLittleEndian, "jpeg2000": JPEG2000Lossless, "rle": RLELossless}
IMPLEMENTATION_UID = UID("2.25.288893312391158471229311213417613771157")  # derived from a UUID, see PS3.5 B.2
SIDE_CODES = {"R": ("24028007", "Right"), "L": ("7771000", "Left"), "B": ("51440002", "Right and left")}


@dataclass(frozen=True)
class DicomOptions:
    """How a film is encoded in DICOM.

    Attributes:
        bits: bits stored, 10 … 16.
        photometric: photometric interpretation; bone has low stored values in MONOCHROME1, high ones in MONOCHROME2.
        spacing: attribute that holds the pixel spacing, or "none".
        compression: "none", "jpeg2000" (lossless) or "rle".
        modality: "DX" or "CR".
        laterality: whether the file states the side.

    Raises:
        UsageError: an option is out of range.
    """

    bits: int = 12
    photometric: Literal["MONOCHROME1", "MONOCHROME2"] = "MONOCHROME2"
    spacing: Literal["ImagerPixelSpacing", "PixelSpacing", "none"] = "ImagerPixelSpacing"
    compression: Literal["none", "jpeg2000", "rle"] = "none"
    modality: Literal["DX", "CR"] = "DX"
    laterality: bool = True

    def __post_init__(self) -> None:
        if not 10 <= self.bits <= 16:
            raise UsageError(f"Bits stored: {self.bits}; expected 10 to 16.")
        if self.compression not in TRANSFER_SYNTAXES:
            raise UsageError(f"Compression {self.compression!r} is unknown; expected none, jpeg2000 or rle.")


def write_film(path: Path, film: PhantomFilm, options: DicomOptions | None = None) -> None:
    """Write a film to a DICOM file; an interrupted write leaves no partial file at `path`.

    Raises:
        UsageError: the directory of `path` does not exist.
    """
    if not path.parent.is_dir():
        raise UsageError(f"The folder {path.parent} does not exist; create it first.")
    with replacing(path, "wb") as stream:
        film_dataset(film, options or DicomOptions()).save_as(stream, enforce_file_format=True)


def film_dataset(film: PhantomFilm, options: DicomOptions) -> FileDataset:
    """The film as a pydicom data set; its identifiers are derived from the film."""
    is_dx = options.modality == "DX"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation if is_dx else ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = uid(film, "instance", options)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    meta.ImplementationVersionName = "KNEEGRADE"
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    _patient_and_study(dataset, film, options)
    _acquisition(dataset, film, options)
    _image(dataset, film, options)
    if options.compression != "none":
        dataset.compress(TRANSFER_SYNTAXES[options.compression], generate_instance_uid=False)
    return dataset


def uid(film: PhantomFilm, entity: str, options: DicomOptions | None = None) -> UID:
    """A UID under 2.25, derived from the film, the entity (study, series or instance) and the DICOM options."""
    digest = bytearray(_digest(film, f"{entity} {options}")[:16])
    # The version (8) and variant bits of an RFC 9562 UUID.
    digest[6], digest[8] = digest[6] & 0x0F | 0x80, digest[8] & 0x3F | 0x80
    return UID(f"2.25.{int.from_bytes(digest, 'big')}")


def _digest(film: PhantomFilm, entity: str) -> bytes:
    """SHA-256 of the film's identity, its pixels and an entity."""
    text = f"kneegrade phantom {film.seed} {film.index} {film.options} {film.plan.layout} {entity} "
    return hashlib.sha256(text.encode() + film.pixels.tobytes()).digest()


def _patient_and_study(dataset: Dataset, film: PhantomFilm, options: DicomOptions) -> None:
    """Set the patient, study, series and equipment attributes, all of them synthetic."""
    rng = np.random.default_rng(np.random.SeedSequence([film.seed, film.index, 4]))
    number = f"{film.seed:04d}-{film.index:06d}"
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = f"PHANTOM^KNEE {number}"
    dataset.PatientID = f"PHANTOM-{number}"
    dataset.PatientBirthDate = f"{rng.integers(1930, 1976)}0101"
    dataset.PatientSex = str(rng.choice(["F", "M"]))
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid(film, "study"), uid(film, "series", options)
    dataset.StudyID, dataset.AccessionNumber = "1", "P" + _digest(film, "accession").hex()[:15].upper()
    date, time = f"2024{rng.integers(1, 13):02d}{rng.integers(1, 29):02d}", f"{rng.integers(7, 18):02d}3000"
    for level in ("Study", "Series", "Acquisition", "Content"):
        setattr(dataset, f"{level}Date", date)
        setattr(dataset, f"{level}Time", time)
    dataset.StudyDescription = "Knee radiograph (synthetic)"
    dataset.SeriesDescription = f"{'Bilateral knees' if film.plan.layout == 'bilateral' else 'Knee'} {film.plan.view}"
    dataset.SeriesNumber, dataset.InstanceNumber = "1", "1"
    dataset.ReferringPhysicianName = ""
    dataset.Modality = options.modality
    dataset.Manufacturer, dataset.ManufacturerModelName = "kneegrade", "phantom"
    dataset.InstitutionName = "Synthetic data, no patient"
    dataset.SoftwareVersions, dataset.DeviceSerialNumber = __version__, "1"


def _acquisition(dataset: Dataset, film: PhantomFilm, options: DicomOptions) -> None:
    """Set body part, side, view, exposure and pixel spacing."""
    dataset.BodyPartExamined, dataset.ViewPosition = "KNEE", film.plan.view
    dataset.PatientOrientation = ["L", "F"]  # displayed as seen from the front, for AP and PA
    dataset.AnatomicRegionSequence = [_code("72696002", "SCT", "Knee")]
    view = codes.cid4010.AnteroPosterior if film.plan.view == "AP" else codes.cid4010.PosteroAnterior
    dataset.ViewCodeSequence = [_code(view.value, "SCT", view.meaning)]
    sides = "B" if len(film.knees) == 2 else "".join(knee.side for knee in film.knees)
    if options.modality == "DX":
        dataset.ImageLaterality = "U"  # required in DX, even if unknown
    if options.laterality and sides:
        dataset.ImageLaterality = sides
        modifier = _code(SIDE_CODES[sides][0], "SCT", SIDE_CODES[sides][1])
        dataset.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [modifier]
    dataset.KVP = f"{50 + (film.exposure.energy_kev - 34.0) * 1.2:.0f}"
    dataset.DistanceSourceToDetector = "1150"
    if options.modality == "DX":
        dataset.PresentationIntentType = "FOR PRESENTATION"
        dataset.PositionerType, dataset.DetectorType = "NONE", "DIRECT"
        dataset.AcquisitionContextSequence = []
    spacing = f"{film.pixel_spacing_mm:.6g}"
    if options.spacing != "none":
        setattr(dataset, options.spacing, [spacing, spacing])
    if options.spacing == "ImagerPixelSpacing":
        dataset.EstimatedRadiographicMagnificationFactor = f"{film.plan.magnification:.4f}"


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _image(dataset: Dataset, film: PhantomFilm, options: DicomOptions) -> None:
    """Set the pixel data and the attributes that describe their display."""
    values = stored_values(film, options)
    top = 2**options.bits - 1
    inverted = options.photometric == "MONOCHROME1"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", ""]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, options.photometric
    dataset.Rows, dataset.Columns = values.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, options.bits, options.bits - 1
    dataset.PixelRepresentation = 0
    dataset.PixelIntensityRelationship, dataset.PixelIntensityRelationshipSign = "LOG", 1 if inverted else -1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "US"
    dataset.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    dataset.WindowCenter, dataset.WindowWidth = str((top + 1) // 2), str(top + 1)
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.PixelData = values.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"


def stored_values(film: PhantomFilm, options: DicomOptions) -> NDArray[np.uint16]:
    """Stored pixel values (H, W) of a film: scaled to `bits` bits, inverted for MONOCHROME1."""
    top = 2**options.bits - 1
    values = np.rint(film.pixels * top).astype(np.uint16)
    return np.asarray(top - values if options.photometric == "MONOCHROME1" else values, dtype=np.uint16)


EXAMPLE_SEED = 2021
BILATERAL_INDEX, SINGLE_INDEX = 1127, 121  # KL 0 and KL 3; KL 2


def write_example_study(directory: Path) -> None:
    """Write `bilateral.dcm`, `single_right.dcm` and `truth.json` into a folder, which is created if missing.

    The bilateral film is 12-bit MONOCHROME1, JPEG 2000 lossless, with the pixel spacing at the detector. The single
    film is 16-bit MONOCHROME2 without pixel spacing.
    """
    make_directory(directory)
    bilateral = render_film(EXAMPLE_SEED, BILATERAL_INDEX, FilmOptions("bilateral", "uniform", longest_px=1700))
    single = render_film(EXAMPLE_SEED, SINGLE_INDEX, FilmOptions("single_right", "uniform", longest_px=1200))
    write_film(
        directory / "bilateral.dcm", bilateral, DicomOptions(12, "MONOCHROME1", "ImagerPixelSpacing", "jpeg2000")
    )
    write_film(directory / "single_right.dcm", single, DicomOptions(16, "MONOCHROME2", "none", "none", "CR"))
    truth = {
        "note": "Synthetic radiographs with known truth; they show no person.",
        "bilateral.dcm": film_truth(bilateral),
        "single_right.dcm": film_truth(single),
    }
    write_text(directory / "truth.json", json.dumps(truth, indent=1) + "\n")


def film_truth(film: PhantomFilm) -> dict[str, Any]:
    """Truth of a film as a JSON-serialisable dictionary; joint space widths are in mm of the knee, not magnified."""
    return {
        "seed": film.seed,
        "index": film.index,
        "pixel_spacing_mm": round(film.pixel_spacing_mm, 6),
        "magnification": round(film.plan.magnification, 4),
        "knees": [
            {
                "side": shown.side,
                "grades": dict(shown.knee.grades),
                "joint_space_width_mm": {
                    "medial": round(shown.knee.joint_space_mm.medial, 3),
                    "lateral": round(shown.knee.joint_space_mm.lateral, 3),
                },
                "landmarks_px": [[round(float(x), 2), round(float(y), 2)] for x, y in shown.landmarks_px],
            }
            for shown in film.knees
        ],
    }

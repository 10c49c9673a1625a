"""A film that names its patient in 36 and more places, to see whether anything of it is left in what is shared."""

import copy

import numpy as np
import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

KEYWORDS = (
    "PatientName", "PatientID", "OtherPatientIDs", "PatientAddress", "PatientComments", "PatientTelephoneNumbers",
    "AccessionNumber", "StudyID", "InstitutionName", "InstitutionAddress", "ReferringPhysicianName",
    "PerformingPhysicianName", "OperatorsName", "StudyDescription", "SeriesDescription", "ImageComments",
    "StationName", "DeviceSerialNumber", "RequestingPhysician", "AdditionalPatientHistory", "Allergies", "Occupation",
    "ProtocolName", "RequestedProcedureDescription", "AdmissionID", "MilitaryRank", "ResponsiblePerson",
    "DerivationDescription", "TextComments", "IssuerOfPatientID", "Manufacturer", "ManufacturerModelName",
)  # fmt: skip
CODED = ("ViewPosition", "BodyPartExamined", "DetectorType", "PositionerType", "PixelSpacingCalibrationType")
DATES = {
    "PatientBirthDate": "19610203",
    "StudyDate": "20240327",
    "SeriesDate": "20240328",
    "AcquisitionDate": "20240329",
}
TIMES = {"StudyTime": "091723", "AcquisitionTime": "091724"}


class MarkedFilm:
    """A film whose identity is made of canaries.

    Attributes:
        content: the file.
        canaries: what must not be left anywhere, and where it was.
    """

    def __init__(self, film: Dataset) -> None:
        self.canaries: dict[str, str] = {}
        self._count = 0
        film = copy.deepcopy(film)
        with pydicom.config.disable_value_validation():
            self._mark_elements(film)
            self._mark_nested(film)
            self._mark_pixels(film)
            self.content = self._file(film)

    def _new(self, where: str) -> str:
        self._count += 1
        canary = f"ZQ{self._count:02d}XK"
        self.canaries[canary] = where
        return canary

    def _mark_elements(self, film: Dataset) -> None:
        for keyword in (*KEYWORDS, *CODED):
            setattr(film, keyword, self._new(keyword))
        film.SoftwareVersions = [self._new("SoftwareVersions"), "1"]
        film.ImageType = ["ORIGINAL", "PRIMARY", self._new("ImageType")]
        for keyword, value in (DATES | TIMES).items():
            setattr(film, keyword, value)
            self.canaries[value] = keyword
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            self.canaries[str(film[keyword].value)] = keyword
        film.PatientAge = "097Y"
        self.canaries["097Y"] = "PatientAge"

    def _mark_nested(self, film: Dataset) -> None:
        item = Dataset()
        item.RequestedProcedureID = self._new("Requested Procedure ID in a sequence")
        item.RequestedProcedureDescription = self._new("description in a sequence")
        item.RequestingPhysician = self._new("physician in a sequence")
        item.RequestedProcedureCodeSequence = [self._code("code in a sequence of a sequence")]
        film.RequestAttributesSequence = [item]
        film.ProcedureCodeSequence = [self._code("procedure code")]
        film.AnatomicRegionSequence = [self._code("anatomic region")]
        block = film.private_block(0x0029, self._new("private creator"), create=True)
        block.add_new(1, "LO", self._new("private element"))
        nested = Dataset()
        nested.PatientName = self._new("name in a private sequence")
        block.add_new(2, "SQ", [nested])
        film.add(DataElement(0x60000010, "US", 8))
        film.add(DataElement(0x60000011, "US", 48))
        film.add(DataElement(0x60000022, "LO", self._new("overlay description")))
        film.add(DataElement(0x60003000, "OW", (self._new("overlay data") * 8)[:48].encode()))
        film.add(DataElement(0x60004000, "LT", self._new("overlay comments")))
        film.add(DataElement(0x50003000, "OW", self._new("curve data").encode()))
        film.IconImageSequence = [nested]
        table = Dataset()
        table.LUTDescriptor, table.LUTExplanation = [3, 0, 16], self._new("explanation of a lookup table")
        table.LUTData = self._new("lookup table").encode()
        film.ReferencedImageBoxSequence = [table]
        film.add(DataElement(0xFFFCFFFC, "OB", self._new("trailing padding").encode()))

    def _code(self, where: str) -> Dataset:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "X1", "99HOSP", self._new(where)
        return item

    def _mark_pixels(self, film: Dataset) -> None:
        """Padding after the pixels, and letters in the pixels of a corner, as bytes and as a pattern."""
        film.decompress(generate_instance_uid=False)
        values = film.pixel_array.copy()
        canary = self._new("pixels of a corner")
        letters = np.frombuffer(canary.encode(), "<u2")
        values[-1, -3:] = letters
        film.PixelData = values.tobytes() + self._new("padding of the pixel data").encode()

    def _file(self, film: Dataset) -> bytes:
        film.file_meta.ImplementationVersionName = self._new("implementation version")
        film.file_meta.SourceApplicationEntityTitle = self._new("application entity")
        film.file_meta.PrivateInformationCreatorUID = "1.2.3"
        film.file_meta.PrivateInformation = self._new("private file meta").encode()
        film.preamble = self._new("preamble").encode().ljust(128, b"\0")
        stream = pydicom.filebase.DicomBytesIO()
        pydicom.dcmwrite(stream, film, enforce_file_format=True)
        return stream.getvalue()

    def left_in(self, content: bytes) -> dict[str, str]:
        """The canaries that the bytes contain, in ASCII or UTF-16, and where they were."""
        return {
            canary: where
            for canary, where in self.canaries.items()
            if canary.encode() in content or canary.encode("utf-16-le") in content
        }

"""Synthetic images and DICOM files for the tests of `kneegrade.imaging`."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

ROWS, COLUMNS = 150, 160


def knee(rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    """(rows, columns) float64 in [0, 1]: a bright textured bone in a grey leg on dark uniform air."""
    across = np.abs(np.linspace(-1, 1, columns))[None, :].repeat(rows, 0)
    down = np.linspace(-1, 1, rows)[:, None]
    leg = np.where(across < 0.75, 0.35, 0.02)
    bone = np.where(across < 0.4, 0.4, 0.0) * (np.abs(down) > 0.06)
    grain = np.where(across < 0.4, 0.15, 0.04) * np.random.default_rng(5).random((rows, columns))
    return np.clip(leg + bone + np.where(across < 0.75, grain, 0), 0, 1)


def stored(bits: int = 12, signed: bool = False) -> np.ndarray:
    """The knee as stored integers with `bits` bits."""
    values = np.rint(knee() * ((1 << bits) - 1)).astype(np.int64)
    if signed:
        return (values - (1 << (bits - 1))).astype(np.int8 if bits <= 8 else np.int16)
    return values.astype(np.uint8 if bits <= 8 else np.uint16)


def dataset(values: np.ndarray | None = None, bits: int = 12, **elements: Any) -> Dataset:
    """A DX data set with these stored values; keyword arguments add, replace or (None) remove elements."""
    with pydicom.config.disable_value_validation():  # some tests write values that the standard forbids
        made = _dataset(stored(bits) if values is None else values, bits)
        for keyword, value in elements.items():
            if value is None:
                delattr(made, keyword)
            else:
                setattr(made, keyword, value)
    return made


def _dataset(values: np.ndarray, bits: int) -> Dataset:
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    made.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    made.SOPInstanceUID, made.StudyInstanceUID, made.SeriesInstanceUID = "1.2.3", "1.2.4", "1.2.5"
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.Modality = "DX"
    made.PatientName = "Nobody^Known"
    made.SamplesPerPixel = 1 if values.ndim == 2 else 3
    if values.ndim == 3:
        made.PlanarConfiguration = 0
    made.PhotometricInterpretation = "MONOCHROME2" if values.ndim == 2 else "RGB"
    made.Rows, made.Columns = values.shape[:2]
    made.BitsAllocated = values.dtype.itemsize * 8
    made.BitsStored = bits
    made.HighBit = bits - 1
    made.PixelRepresentation = int(np.issubdtype(values.dtype, np.signedinteger))
    made["PixelData"] = pydicom.DataElement(0x7FE00010, "OW" if values.dtype.itemsize > 1 else "OB", values.tobytes())
    return made


def dicom_bytes(made: Dataset) -> bytes:
    """The data set serialised as a DICOM file."""
    stream = BytesIO()
    with pydicom.config.disable_value_validation():
        pydicom.dcmwrite(stream, made, enforce_file_format=True)
    return stream.getvalue()


def compressed(made: Dataset, transfer_syntax: uid.UID, frame: bytes | None = None) -> Dataset:
    """The data set with its pixel data encoded by pydicom, or replaced by an encoded frame."""
    if frame is None:
        made.compress(transfer_syntax, generate_instance_uid=False)
        return made
    made.PixelData = encapsulate([frame])
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    made.file_meta.TransferSyntaxUID = transfer_syntax
    return made


def through_gdcm(made: Dataset, name: str, folder: Path) -> bytes:
    """The DICOM file encoded by GDCM; `name` is GDCM's name of the transfer syntax."""
    import gdcm

    plain, encoded = folder / "plain.dcm", folder / "encoded.dcm"
    plain.write_bytes(dicom_bytes(made))
    reader = gdcm.ImageReader()
    reader.SetFileName(str(plain))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(encoded))
    assert writer.Write()
    return encoded.read_bytes()

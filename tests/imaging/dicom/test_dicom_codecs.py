"""Every supported transfer syntax is decoded to the encoded array; declared sizes are parsed from the streams."""

from io import BytesIO

import numpy as np
import pytest
from films import COLUMNS, ROWS, compressed, dataset, dicom_bytes, stored, through_gdcm
from PIL import Image
from pydicom import dcmread, uid
from pydicom.encaps import get_frame
from pydicom.pixels.decoders import base

from kneegrade.errors import UnreadableFileError, UnsupportedFileError
from kneegrade.imaging.decoding_worker import decode
from kneegrade.imaging.dicom import dicom_codecs as codecs
from kneegrade.imaging.dicom.dicom_codecs import declared_size
from kneegrade.imaging.limits import Limits


def pixels_of(data: bytes) -> np.ndarray:
    return decode(data, Limits()).pixels


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_uncompressed_transfer_syntaxes_keep_every_value(syntax: uid.UID, bits: int) -> None:
    made = dataset(bits=bits)
    values = made.pixel_array.copy()
    made.file_meta.TransferSyntaxUID = syntax
    if syntax == uid.ExplicitVRBigEndian and bits > 8:
        made.PixelData = values.astype(">u2").tobytes()
    np.testing.assert_array_equal(pixels_of(dicom_bytes(made)), values)


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_streams_encoded_by_pydicom_keep_every_value(syntax: uid.UID, bits: int) -> None:
    made = dataset(bits=bits)
    values = made.pixel_array.copy()
    np.testing.assert_array_equal(pixels_of(dicom_bytes(compressed(made, syntax))), values)


@pytest.mark.parametrize("name", ["JPEGLosslessProcess14", "JPEGLosslessProcess14_1"])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_jpeg_keeps_every_value(name: str, bits: int, tmp_path) -> None:
    np.testing.assert_array_equal(pixels_of(through_gdcm(dataset(bits=bits), name, tmp_path)), stored(bits))


def test_extended_jpeg_with_12_bits_is_decoded(tmp_path) -> None:
    decoded = pixels_of(through_gdcm(dataset(bits=12), "JPEGExtendedProcess2_4", tmp_path))
    assert np.abs(decoded - stored(12)).max() <= 0.02 * 4095


def test_baseline_jpeg_is_decoded() -> None:
    stream = BytesIO()
    Image.fromarray(stored(8)).save(stream, "JPEG", quality=98)
    decoded = pixels_of(dicom_bytes(compressed(dataset(bits=8), uid.JPEGBaseline8Bit, stream.getvalue())))
    assert np.abs(decoded - stored(8)).max() <= 8


def test_near_lossless_jpeg_ls_stays_within_its_error() -> None:
    import jpeg_ls

    frame = bytes(jpeg_ls.encode_array(stored(8), lossy_error=2))
    decoded = pixels_of(dicom_bytes(compressed(dataset(bits=8), uid.JPEGLSNearLossless, frame)))
    assert 0 < np.abs(decoded - stored(8)).max() <= 2


def test_lossy_jpeg_2000_is_decoded() -> None:
    made = dataset(bits=12)
    made.compress(uid.JPEG2000, j2k_psnr=[60], generate_instance_uid=False)
    assert np.abs(pixels_of(dicom_bytes(made)) - stored(12)).mean() < 0.01 * 4095


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_signed_values_are_kept(bits: int) -> None:
    values = stored(bits, signed=True)
    np.testing.assert_array_equal(pixels_of(dicom_bytes(dataset(values, bits))), values)


def test_bits_above_the_high_bit_are_removed_and_the_sign_is_extended() -> None:
    made = dataset(stored(12) | 0x7000, bits=12)  # an overlay in the unused bits, as written by older devices
    np.testing.assert_array_equal(pixels_of(dicom_bytes(made)), stored(12))
    signed = stored(12, signed=True)
    made = dataset(signed & 0x0FFF, bits=12)
    np.testing.assert_array_equal(pixels_of(dicom_bytes(made)), signed)


def test_values_in_the_high_bits_are_shifted_down() -> None:
    made = dataset(stored(12) << 4, bits=12, HighBit=15)
    np.testing.assert_array_equal(pixels_of(dicom_bytes(made)), stored(12))


def test_rgb_becomes_luminance() -> None:
    values = np.stack([stored(8), stored(8) // 2, 255 - stored(8)], axis=-1)
    np.testing.assert_allclose(
        pixels_of(dicom_bytes(dataset(values, 8))), values @ [0.299, 0.587, 0.114], rtol=1e-5, atol=1e-3
    )


def test_grey_image_in_ybr_keeps_its_values() -> None:
    values = np.stack([stored(8), np.full_like(stored(8), 128), np.full_like(stored(8), 128)], axis=-1)
    made = dataset(values, 8, PhotometricInterpretation="YBR_FULL")
    np.testing.assert_allclose(pixels_of(dicom_bytes(made)), stored(8), atol=1)


def palette(**elements):
    made = dataset(stored(8), 8, PhotometricInterpretation="PALETTE COLOR", **elements)
    for name in ("Red", "Green", "Blue"):
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        table = (np.arange(256)[::-1] * 257).astype("<u2")
        setattr(made, f"{name}PaletteColorLookupTableData", table.tobytes())
    return made


def test_colour_palette_is_applied() -> None:
    np.testing.assert_allclose(pixels_of(dicom_bytes(palette())), (255.0 - stored(8)) * 257, rtol=1e-5)


def test_a_damaged_palette_is_an_error() -> None:
    made = palette()
    del made.RedPaletteColorLookupTableData
    with pytest.raises(UnreadableFileError, match="palette"):
        pixels_of(dicom_bytes(made))


def test_error_for_a_missing_codec_names_transfer_syntax_and_package(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dicom_bytes(compressed(dataset(), uid.JPEGLSLossless))
    monkeypatch.setattr(base.JPEGLSLosslessDecoder, "_available", {})
    with pytest.raises(UnsupportedFileError, match=r"JPEG-LS Lossless.*pyjpegls") as caught:
        pixels_of(data)
    assert caught.value.code == "codec"


def test_unknown_transfer_syntaxes_are_rejected() -> None:
    plain = dicom_bytes(compressed(dataset(), uid.JPEGBaseline8Bit, b"x" * 64))
    for syntax in (b"1.2.840.10008.1.2.4.94", b"1.2.333.10008.1.2.4.50"):
        data = plain.replace(uid.JPEGBaseline8Bit.encode(), syntax)
        with pytest.raises(UnsupportedFileError) as caught:
            pixels_of(data)
        assert caught.value.code == "transfer_syntax"
        assert syntax == b"1.2.840.10008.1.2.4.94" or syntax.decode() not in caught.value.message


@pytest.mark.parametrize(
    ("elements", "found"),
    [
        ({"BitsAllocated": 12}, "BitsAllocated is 12"),
        ({"SamplesPerPixel": 4}, "SamplesPerPixel is 4"),
        ({"PhotometricInterpretation": "MONOCHROM2"}, "PhotometricInterpretation is MONOCHROM2"),
        ({"PhotometricInterpretation": "CMYK"}, "PhotometricInterpretation is CMYK"),
    ],
)
def test_pixel_formats_that_no_codec_reads_are_named(elements, found: str) -> None:
    with pytest.raises(UnsupportedFileError, match=found) as caught:
        pixels_of(dicom_bytes(dataset(**elements)))
    assert caught.value.code == "pixel_format"


def test_encapsulated_uncompressed_pixels_keep_every_value() -> None:
    made = dataset()
    expected = pixels_of(dicom_bytes(dataset()))
    np.testing.assert_array_equal(
        pixels_of(dicom_bytes(compressed(made, uid.UID(codecs.ENCAPSULATED_UNCOMPRESSED), made.PixelData))), expected
    )


def test_colours_stored_plane_by_plane_are_read() -> None:
    rgb = np.stack([stored(8), stored(8) // 2, stored(8) // 3], axis=2)
    by_plane = dataset(rgb, 8, PlanarConfiguration=1)
    by_plane.PixelData = np.ascontiguousarray(rgb.transpose(2, 0, 1)).tobytes()
    np.testing.assert_array_equal(pixels_of(dicom_bytes(by_plane)), pixels_of(dicom_bytes(dataset(rgb, 8))))


def test_an_odd_number_of_bytes_is_read() -> None:
    odd = stored(8)[:149, :159]
    np.testing.assert_array_equal(pixels_of(dicom_bytes(dataset(odd, 8))), odd)


def test_a_stream_with_another_size_than_the_header_is_rejected() -> None:
    frame = compressed(dataset(), uid.JPEG2000Lossless)
    frame.Rows, frame.Columns = ROWS + 10, COLUMNS - 10
    assert frame.Rows * frame.Columns == ROWS * COLUMNS  # pydicom would reshape it without an error
    with pytest.raises(UnreadableFileError, match="size"):
        pixels_of(dicom_bytes(frame))


def test_memory_errors_are_not_reported_as_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*args: object, **kwargs: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(codecs, "apply_color_lut", greedy)
        with pytest.raises(MemoryError):
            pixels_of(dicom_bytes(palette()))
    monkeypatch.setattr(base.Decoder, "as_array", greedy)
    with pytest.raises(MemoryError):
        pixels_of(dicom_bytes(dataset()))


@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, uid.JPEG2000Lossless])
def test_declared_size_of_streams_encoded_by_pydicom(syntax: uid.UID) -> None:
    frame = get_frame(compressed(dataset(), syntax).PixelData, 0, number_of_frames=1)
    assert declared_size(frame) == (ROWS, COLUMNS)


@pytest.mark.parametrize("name", ["JPEGLosslessProcess14_1", "JPEGExtendedProcess2_4"])
def test_declared_size_of_streams_encoded_by_gdcm(name: str, tmp_path) -> None:
    made = dcmread(BytesIO(through_gdcm(dataset(), name, tmp_path)))
    assert declared_size(get_frame(made.PixelData, 0, number_of_frames=1)) == (ROWS, COLUMNS)


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("JPEG2000", {})])
def test_declared_size_of_streams_encoded_by_pillow(kind: str, options: dict[str, bool]) -> None:
    stream = BytesIO()
    Image.fromarray(stored(8)).save(stream, kind, **options)
    assert declared_size(stream.getvalue()) == (ROWS, COLUMNS)


def test_declared_size_skips_fill_bytes_and_restart_markers() -> None:
    frame = b"\xff\xc0\x00\x0b\x08\x00\x05\x00\x07\x01\x01\x11\x00"
    assert declared_size(b"\xff\xd8\xff\xff\xff\xd0" + frame) == (5, 7)


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff\xc0\x00\x0b",
        b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x00\x00\x07\x01\x01\x11\x00",
        b"\xff\x4f\xff\x51\x00",
        b"run lengths",
    ],
)
def test_declared_size_is_none_for_truncated_or_unknown_streams(stream: bytes) -> None:
    assert declared_size(stream) is None

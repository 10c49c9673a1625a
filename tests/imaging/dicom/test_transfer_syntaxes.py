"""The transfer syntaxes that a DICOM node may offer are those that the decoding process reads."""

from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    RLELossless,
)

from kneegrade.imaging.dicom.transfer_syntaxes import decoder_of, known_transfer_syntaxes, readable_transfer_syntaxes


def test_uncompressed_syntaxes_come_first():
    assert readable_transfer_syntaxes()[:2] == [ExplicitVRLittleEndian, ImplicitVRLittleEndian]


def test_every_readable_syntax_is_listed_once_and_has_a_decoder():
    readable = readable_transfer_syntaxes()
    assert len(readable) == len(set(readable))
    assert set(readable) <= set(known_transfer_syntaxes())
    assert all(decoder_of(syntax) for syntax in readable)
    assert {DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGExtended12Bit, RLELossless} <= set(readable)


def test_video_is_not_read():
    assert decoder_of(MPEG2MPML) is None
    assert MPEG2MPML not in readable_transfer_syntaxes()

"""`readable_transfer_syntaxes`: what the decoding process reads, by the codecs that are installed."""

from pydicom import uid
from pydicom._uid_dict import UID_dictionary
from pydicom.pixels.decoders.base import get_decoder

from kneegrade.imaging.dicom import dicom_codecs, dicom_deflate

SPECIAL = {  # read without a decoder of pydicom -> how
    dicom_deflate.DEFLATED: "inflated within the limits, then as Explicit VR Little Endian",
    dicom_codecs.ENCAPSULATED_UNCOMPRESSED: "as Explicit VR Little Endian",
}


def known_transfer_syntaxes() -> list[uid.UID]:
    """All transfer syntaxes of the standard, in the order of their numbers."""
    known = [value for value, (_, kind, *_) in UID_dictionary.items() if kind == "Transfer Syntax"]
    return [uid.UID(value) for value in sorted(known, key=lambda value: [int(part) for part in value.split(".")])]


def decoder_of(syntax: uid.UID) -> str | None:
    """How a transfer syntax is read: the name of a package, or a phrase; None if it is not read."""
    if syntax in SPECIAL:
        return SPECIAL[syntax]
    try:
        get_decoder(syntax)
    except NotImplementedError:
        return None
    return f"`{dicom_codecs.PACKAGES.get(syntax, 'pydicom')}`"


def readable_transfer_syntaxes() -> list[uid.UID]:
    """The transfer syntaxes that can be read here, uncompressed ones first, because they need no codec.

    Those whose codec is not installed are left out.
    """
    readable = [syntax for syntax in known_transfer_syntaxes() if decoder_of(syntax) and _has_codec(syntax)]
    first = [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian]
    return first + [syntax for syntax in readable if syntax not in first]


def _has_codec(syntax: uid.UID) -> bool:
    if syntax in SPECIAL or not syntax.is_encapsulated:
        return True
    return any(name in get_decoder(syntax).available_plugins for name in dicom_codecs.CODEC_ORDER)

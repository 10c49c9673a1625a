"""All codes that derived objects use, as data, each with its source.

Codes of standard schemes were checked against the dictionaries of PS3.16 in pydicom (the tests repeat it). What no
dictionary has is a code of the private scheme 99KNEEGRADE, which every DICOM object declares. A code never changes its
meaning: a new meaning gets a new code. `TABLE` lists all of them, for the reference page and the conformance statement.
"""

from dataclasses import dataclass
from typing import Final

from pydicom.sr.coding import Code

from kneegrade.results import Finding
from kneegrade.schema import KL_MEANING, OARSI_MEANING, TARGETS

SCHEME: Final = "99KNEEGRADE"
SCHEME_NAME: Final = "kneegrade private codes"
SCHEME_VERSION: Final = "1"

MAX_VALUE, MAX_MEANING = 16, 64  # characters of a code value (SH) and of its meaning (LO)


@dataclass(frozen=True)
class TableRow:
    """A code with its source.

    Attributes:
        code: value, scheme and meaning.
        source: dictionary or context group, or the definition of a private code.
    """

    code: Code
    source: str


TABLE: Final[list[TableRow]] = []


def _add(value: str, scheme: str, meaning: str, source: str) -> Code:
    code = Code(value, scheme, meaning)
    TABLE.append(TableRow(code, source))
    return code


def _sct(value: str, meaning: str, source: str) -> Code:
    return _add(value, "SCT", meaning, source)


def _dcm(value: str, meaning: str, source: str) -> Code:
    return _add(value, "DCM", meaning, source)


def _own(value: str, meaning: str, definition: str) -> Code:
    return _add(value, SCHEME, meaning, definition)


# Anatomy and modifiers
KNEE_JOINT: Final = _sct("49076000", "Knee joint", "PS3.16 CID 1000")
KNEE: Final = _sct("72696002", "Knee", "PS3.16 CID 4031; region of a shared film")
FEMUR: Final = _sct("71341001", "Femur", "PS3.16 CID 4031")
TIBIA: Final = _sct("12611008", "Tibia", "PS3.16 CID 7304")
TIBIAL_PLATEAU: Final = _sct("306783000", "Tibial Plateau", "PS3.16 CID 1000")
RIGHT: Final = _sct("24028007", "Right", "PS3.16 CID 244")
LEFT: Final = _sct("7771000", "Left", "PS3.16 CID 244")
BILATERAL: Final = _sct("51440002", "Bilateral", "PS3.16 CID 244")
LATERALITY: Final = _sct("272741003", "Laterality", "PS3.16 TID 1501, TID 1600")
MEDIAL: Final = _sct("255561001", "Medial", "PS3.16 CID 2")
LATERAL: Final = _sct("49370004", "Lateral", "PS3.16 CID 2")
TOPOGRAPHY: Final = _sct("106233006", "Topographical modifier", "PS3.16 CID 210, TID 1501")
FINDING_SITE: Final = _sct("363698007", "Finding Site", "PS3.16 TID 1501")
SOURCE: Final = _sct("260753009", "Source", "PS3.16 TID 1600")
MINIMUM: Final = _sct("255605001", "Minimum", "PS3.16 CID 7464")
SIDES: Final = {"R": RIGHT, "L": LEFT, "B": BILATERAL}

# Structure of the report
REPORT: Final = _dcm("126000", "Imaging Measurement Report", "PS3.16 TID 1500")
PLAIN_RADIOGRAPHY: Final = _sct("168537006", "Plain radiography", "PS3.16 CID 10005; procedure reported")
DIAGNOSTIC_STUDY: Final = _add(
    "18748-4", "LN", "Diagnostic imaging study", "LOINC long common name; FHIR DiagnosticReport"
)
IMAGE_LIBRARY: Final = _dcm("111028", "Image Library", "PS3.16 TID 1600")
IMAGE_LIBRARY_GROUP: Final = _dcm("126200", "Image Library Group", "PS3.16 TID 1600")
MEASUREMENTS: Final = _dcm("126010", "Imaging Measurements", "PS3.16 TID 1500")
MEASUREMENT_GROUP: Final = _dcm("125007", "Measurement Group", "PS3.16 TID 1410, TID 1501")
IMAGE_REGION: Final = _dcm("111030", "Image Region", "PS3.16 TID 1410")
TRACKING_ID: Final = _dcm("112039", "Tracking Identifier", "PS3.16 TID 1501")
TRACKING_UID: Final = _dcm("112040", "Tracking Unique Identifier", "PS3.16 TID 1501")
FINDING_TYPE: Final = _dcm("121071", "Finding", "PS3.16 TID 1501")
DERIVATION: Final = _dcm("121401", "Derivation", "PS3.16 TID 300")
ALGORITHM_NAME: Final = _dcm("111001", "Algorithm Name", "PS3.16 TID 4019")
ALGORITHM_VERSION: Final = _dcm("111003", "Algorithm Version", "PS3.16 TID 4019")
ALGORITHM_PARAMETERS: Final = _dcm("111002", "Algorithm Parameters", "PS3.16 TID 4019")
ARTIFICIAL_INTELLIGENCE: Final = _dcm("123110", "Artificial Intelligence", "PS3.16 CID 7162; algorithm family")
COMMENT: Final = _dcm("121106", "Comment", "PS3.16 dictionary of DICOM codes; text of a finding")
PROBABILITY: Final = _dcm("122157", "Probability", "PS3.16 dictionary of DICOM codes")
QUALITY_FINDING: Final = _dcm("111052", "Quality Finding", "PS3.16 dictionary of DICOM codes")
IMAGE_QUALITY: Final = _dcm("111101", "Image Quality", "PS3.16 dictionary of DICOM codes")
NON_DIAGNOSTIC: Final = _add("RID14", "RADLEX", "Non-diagnostic quality", "PS3.16 CID 7036")
PROCESSING_EQUIPMENT: Final = _dcm("109102", "Processing Equipment", "PS3.16 CID 7005")
SOURCE_IMAGE: Final = _dcm("121322", "Source image for image processing operation", "PS3.16 CID 7202")
SELECTION_STATUS: Final = _dcm("121404", "Selection Status", "PS3.16 TID 300; revisions by a reader")
USER_CHOSEN: Final = _dcm("121410", "User chosen value", "PS3.16 CID 224; revisions by a reader")
BASIC_PROFILE: Final = _dcm("113100", "Basic Application Confidentiality Profile", "PS3.16 CID 7050")
CLEAN_PIXELS: Final = _dcm("113101", "Clean Pixel Data Option", "PS3.16 CID 7050")
VIEWS: Final = {
    "AP": _sct("399348003", "antero-posterior", "PS3.16 CID 4010; view of a shared film"),
    "PA": _sct("272479007", "postero-anterior", "PS3.16 CID 4010; view of a shared film"),
}

# Units
MM: Final = _add("mm", "UCUM", "mm", "UCUM")
DEG: Final = _add("deg", "UCUM", "Degree", "UCUM")
UNITY: Final = _add("1", "UCUM", "no units", "UCUM")
RATIO: Final = _add("{ratio}", "UCUM", "ratio", "UCUM annotation; share of the width of the tibial plateau")
PIXELS: Final = _add("{pixels}", "UCUM", "Pixels", "UCUM annotation, PS3.16 TID 1601")

# Status of a knee
ASSESSMENT: Final = _own(
    "KNEEOA", "Radiographic knee osteoarthritis assessment", "Finding of the group of measurements of one knee."
)
FILM_ASSESSMENT: Final = _own(
    "FILMOA", "Radiograph without detected knee", "Finding of the group of a film on which no knee was detected."
)
STATUS: Final = _own("STATUS", "Automatic grading status", "What kneegrade did with a knee or a film.")
STATUS_VALUES: Final = {
    "graded": _own("GRADED", "Graded", "`status` is graded, `abstain` is false."),
    "reader": _own("READER", "Graded, to be decided by a reader", "`status` is graded, `abstain` is true."),
    "not_gradable": _own("NOTGRADED", "Not graded", "`status` is not_gradable."),
}


def status_code(*, is_graded: bool, abstain: bool) -> Code:
    """The code of what kneegrade did with a knee, one of `STATUS_VALUES`."""
    return STATUS_VALUES["not_gradable" if not is_graded else "reader" if abstain else "graded"]


REASON: Final = _own("REASON", "Reason why not graded or left to a reader", "`reason` of a knee or film, `open_grade`.")
FILM_FINDING: Final = _own("FILMFINDING", "Finding about the film", "One of `warnings` of a film.")
COHERENCE: Final = _own("COHERENCE", "Finding among grades", "One of `coherence.findings` of a knee.")
SET_MEMBER: Final = _own("SETMEMBER", "Grade within prediction set", "A member of `set` of a grade.")
STUDY_GRADE: Final = _own(
    "STUDYGRADE", "Grade on scale of training study's readers", "`study` of a grade, if calibrated to a site."
)
STANDARD_ERROR: Final = _own("STDERR", "Standard error of measurement", "Standard error of the number it belongs to.")
QUALITY_SCORE: Final = _own("QSCORE", "Similarity to calibration knees", "`quality.score` of a knee, 0 to 1.")

# Grades
GRADES: Final = {
    "kl": _own("KL", "Kellgren-Lawrence grade", "Kellgren and Lawrence 1957"),
    "jsn_lateral": _own(
        "OARSI-JSN-L", "OARSI joint space narrowing grade, lateral", "OARSI atlas, Altman and Gold 2007"
    ),
    "jsn_medial": _own("OARSI-JSN-M", "OARSI joint space narrowing grade, medial", "OARSI atlas, Altman and Gold 2007"),
    "osteophyte_femur_lateral": _own(
        "OARSI-OST-FL", "OARSI osteophyte grade, femur lateral", "OARSI atlas, Altman and Gold 2007"
    ),
    "osteophyte_femur_medial": _own(
        "OARSI-OST-FM", "OARSI osteophyte grade, femur medial", "OARSI atlas, Altman and Gold 2007"
    ),
    "osteophyte_tibia_lateral": _own(
        "OARSI-OST-TL", "OARSI osteophyte grade, tibia lateral", "OARSI atlas, Altman and Gold 2007"
    ),
    "osteophyte_tibia_medial": _own(
        "OARSI-OST-TM", "OARSI osteophyte grade, tibia medial", "OARSI atlas, Altman and Gold 2007"
    ),
}
GRADE_SITES: Final = {  # grade -> (bone or joint, compartment)
    "jsn_lateral": (KNEE_JOINT, LATERAL),
    "jsn_medial": (KNEE_JOINT, MEDIAL),
    "osteophyte_femur_lateral": (FEMUR, LATERAL),
    "osteophyte_femur_medial": (FEMUR, MEDIAL),
    "osteophyte_tibia_lateral": (TIBIA, LATERAL),
    "osteophyte_tibia_medial": (TIBIA, MEDIAL),
}
KL_VALUES: Final = tuple(
    _own(f"KL{grade}", f"KL {grade} ({meaning})", "Kellgren and Lawrence 1957")
    for grade, meaning in enumerate(KL_MEANING)
)
OARSI_VALUES: Final = tuple(
    _own(f"OARSI{grade}", f"OARSI {grade} ({meaning})", "OARSI atlas, Altman and Gold 2007")
    for grade, meaning in enumerate(OARSI_MEANING)
)
GRADE_VALUES: Final = {target.name: KL_VALUES if target.name == "kl" else OARSI_VALUES for target in TARGETS}

# Measurements
JSW_MEDIAL: Final = _own("JSW-M-MIN", "Minimum joint space width, medial", "Minimum over 0.15 to 0.30 of the plateau.")
JSW_LATERAL: Final = _own("JSW-L-0825", "Joint space width, lateral, at 0.825 of plateau", "From the medial edge.")
JSW_MEDIAL_REL: Final = _own(
    "JSW-M-REL", "Minimum joint space, medial, share of plateau width", "JSW-M-MIN over TIBWIDTH."
)
JSW_LATERAL_REL: Final = _own(
    "JSW-L-REL", "Joint space at 0.825, lateral, share of plateau width", "JSW-L-0825 over TIBWIDTH."
)
CONVERGENCE: Final = _own("JLCA", "Joint line convergence angle", "Positive if the joint opens laterally.")
TIBIAL_WIDTH: Final = _own("TIBWIDTH", "Width of tibial plateau", "Distance of its edges, landmarks 47 and 63.")
OUTLINES: Final = {
    "femur": _own("OUTLINE-F", "Outline of distal femur", "Landmarks 0 to 36, lateral to medial."),
    "tibia": _own("OUTLINE-T", "Outline of proximal tibia", "Landmarks 37 to 73, lateral to medial."),
}

# Findings and reasons: code of kneegrade -> code of a dictionary; one to one, so that it can be read back
FINDINGS: Final = {
    "implant": _sct("40388003", "Implant", "PS3.16 CID 6401; finding `implant`"),
    "blank": _dcm("111213", "No image", "PS3.16 CID 7011; finding `blank`"),
    **{
        code: _own(value, meaning, f"finding `{code}`")
        for code, value, meaning in (
            ("possible_implant", "POSSIBLEIMPLANT", "Possible implant"),
            ("exposure", "EXPOSURE", "Exposure unsuitable for grading"),
            ("unusual_exposure", "EXPOSURE-ODD", "Exposure unlike that of calibration knees"),
            ("blur", "BLUR", "Blurred, or of too low resolution"),
            ("view", "VIEW", "Not the outline of a natural knee in frontal view"),
            ("joint_cut_off", "CUTOFF", "Joint cut off by border of film"),
            ("no_knee", "NOKNEE", "No knee in frontal view detected"),
            ("too_small", "TOOSMALL", "Image too small"),
            ("unlike_training", "UNLIKE", "Unlike the knees of training"),
            ("unsure_landmarks", "UNSURELMK", "Landmarks uncertain"),
            ("open_grade", "OPENSET", "Three or more grades remain possible"),
            ("side_conflict", "SIDECONFLICT", "Stated side and anatomy disagree"),
            ("laterality_tag", "LATERALITY", "Stated side and number of knees disagree"),
            ("laterality_conflict", "LATCONFLICT", "Side given by user and side in file disagree"),
            ("one_knee_of_two", "ONEOFTWO", "One knee detected, two stated"),
            ("magnification_uncorrected", "MAGNIFY", "Spacing at detector, magnification not corrected"),
            ("spacing_conflict", "SPCCONFLICT", "Spacing given by user and in file disagree"),
            ("spacing_invalid", "SPCINVALID", "Pixel spacing invalid"),
            ("spacing_unequal", "SPCUNEQUAL", "Pixel spacing of rows and columns differ"),
            ("spacing_implausible", "SPCIMPLAUSIBLE", "Pixel spacing implausible"),
            ("spacing_placeholder", "SPCPLACEHOLDER", "Pixel spacing is a placeholder"),
            ("spacing_decimal_comma", "SPCCOMMA", "Pixel spacing has decimal commas"),
            ("attributes_missing", "ATTRMISSING", "Required attributes of the image missing"),
            ("modality_unusual", "MODALITY", "Modality not as the standard defines it"),
            ("view_declared", "VIEWDECLARED", "Declared view not frontal"),
            ("body_part", "BODYPART", "Declared body part not a knee"),
            ("aspect_ratio", "ASPECT", "Declared pixels not square"),
            ("pixels_not_square", "NOTSQUARE", "Image was stretched in one direction"),
            ("window_ignored", "WINDOW", "Display window clips the image, not applied"),
            ("alpha_ignored", "ALPHA", "Transparency ignored"),
            ("inverted_by_pixels", "INVERTED", "Undeclared negative, inverted"),
            ("polarity_kept", "POLARITYKEPT", "Negative suggested, not inverted"),
            ("polarity_undecided", "POLARITYOPEN", "Negative suggested, polarity uncertain"),
            ("display_curve_applied", "DISPLAYCURVE", "Display curve of the file applied"),
            ("pixel_data_excess", "PIXELEXCESS", "Pixel data longer than the declared image"),
            ("trailing_bytes", "TRAILINGBYTES", "Bytes that are no elements follow the pixel data"),
            ("stored_bits", "STOREDBITS", "Bits or sign of stored values not as declared"),
            ("laterality_unclear", "LATUNCLEAR", "Stated side not understood"),
            ("more_knees", "MOREKNEES", "More knees on the picture than were graded"),
            ("attributes_withheld", "ATTRWITHHELD", "Attributes of the film left out of its objects"),
            ("knees_stacked", "KNEESSTACKED", "Two knees one above the other"),
            ("mirrored_film", "MIRROREDFILM", "Film probably mirrored"),
            ("orientation_mirrored", "ORIENTMIRROR", "Declared orientation is a mirror image"),
            ("mirrored_marker", "MIRROREDMARKER", "Side marker mirrored"),
            ("marker_contradicts_side", "MARKERSIDE", "Side marker and side disagree"),
            ("burned_in_text", "BURNEDIN", "Text burned into pixels, or possibly so"),
            ("not_gradable", "NOREASON", "No reason recorded"),
            ("internal", "INTERNAL", "Error in kneegrade"),
            ("kl4_needs_jsn3", "KL4JSN3", "KL 4 without narrowing grade 3"),
            ("jsn3_needs_kl4", "JSN3KL4", "Narrowing grade 3 with KL below 4"),
            ("kl3_needs_jsn", "KL3JSN2", "KL 3 without narrowing grade 2"),
            ("low_kl_with_narrowing", "LOWKLJSN", "Narrowing grade 2 with KL below 3"),
            ("kl0_with_osteophyte", "KL0OST", "KL 0 with definite osteophyte"),
            ("kl1_with_osteophyte", "KL1OST", "KL 1 with osteophyte of grade 2 or more"),
            ("kl1_with_oarsi_zero", "KL1OARSI0", "KL 1 with all OARSI grades zero"),
            ("both_compartments", "BOTHJSN", "Definite narrowing of both compartments"),
            ("kl2_with_oarsi_zero", "KL2OARSI0", "KL 2 or more with all OARSI grades zero"),
            ("grade_moved", "GRADEMOVED", "Grade changed to keep a rule"),
            ("grade_between", "GRADEBETWEEN", "Grade between other probable grades"),
        )
    },
}
OTHER_FINDING: Final = _own("OTHER", "Finding stated in comment", "A finding without a code: `code: message`.")

_FINDING_NAMES: Final = {(code.value, code.scheme_designator): name for name, code in FINDINGS.items()}


def finding_code(finding: Finding) -> Code:
    """The code of a finding or reason; `OTHER_FINDING` if it has none."""
    return FINDINGS.get(finding.code, OTHER_FINDING)


def finding_name(value: str, scheme: str) -> str | None:
    """The code of kneegrade for the coded concept of a finding; None for `OTHER_FINDING` and foreign codes."""
    return _FINDING_NAMES.get((value, scheme))


def ascii_text(text: str) -> str:
    """The text in ASCII, which every character set of a film contains.

    Example:
        >>> ascii_text("Kellgren–Lawrence 2.5 ± 0.3 mm, ≥ 3")
        'Kellgren-Lawrence 2.5 +/- 0.3 mm, >= 3'
    """
    for character, plain in (("–", "-"), ("—", "-"), ("±", "+/-"), ("≤", "<="), ("≥", ">="), ("…", "..."), ("’", "'")):
        text = text.replace(character, plain)
    return text.encode("ascii", "replace").decode("ascii")

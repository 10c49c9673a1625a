"""Any file → a `Radiograph` in one convention, or a `KneeGradeError` with a reason.

`find_sources` lists what lies in files, folders and archives, `read_radiograph` reads one of them. Foreign bytes are
parsed and decoded in a process of their own (`child`, `worker`); the modules that run there (`decoding`, `dicom`,
`header`, `codecs`, `grey`, `plain`) are not imported here, which keeps this import cheap.
"""

from kneegrade.imaging.file_reader import read_radiograph
from kneegrade.imaging.film_quality import check_crop, check_film
from kneegrade.imaging.limits import Limits
from kneegrade.imaging.photometry import inversion_score, looks_inverted, normalise
from kneegrade.imaging.radiograph import Identity, Laterality, Radiograph
from kneegrade.imaging.sources import Source, find_sources, stem_of

__all__ = [
    "Identity",
    "Laterality",
    "Limits",
    "Radiograph",
    "Source",
    "check_crop",
    "check_film",
    "find_sources",
    "inversion_score",
    "looks_inverted",
    "normalise",
    "read_radiograph",
    "stem_of",
]

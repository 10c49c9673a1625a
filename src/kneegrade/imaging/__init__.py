"""Reading of radiographs: a file becomes a `Radiograph` in one convention, or a `KneeGradeError` with the reason.

`find_sources` lists the images in files, folders and zip archives; `read_radiograph` reads one of them, and
`read_dicom_elements` the listed elements of its header. Untrusted bytes are parsed and decoded in a child process
(`decoding_process` starts it, `decoding_worker` runs in it). The modules that run only there (`decoding_worker`,
`dicom`, `dicom_elements`, `dicom_header`, `dicom_values`, `dicom_codecs`, `grey_levels`, `plain_images`) are not
imported here, so that importing this package stays cheap.
"""

from kneegrade.imaging.file_reader import read_dicom_elements, read_radiograph
from kneegrade.imaging.film_quality import check_crop, check_film
from kneegrade.imaging.limits import Limits
from kneegrade.imaging.other_files import other_files_line
from kneegrade.imaging.photometry import looks_inverted, normalise, polarity_score
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
    "looks_inverted",
    "normalise",
    "other_files_line",
    "polarity_score",
    "read_dicom_elements",
    "read_radiograph",
    "stem_of",
]

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `clinical_films` and other modules of the tests

import pytest
from clinical_films import JOB, VARIANTS, ClinicalVariant, PhantomPair, first_knee, first_knee_refused, phantom_pair

from kneegrade.clinical import ClinicalFilm, Job, read_clinical_film
from kneegrade.grader import Grader
from kneegrade.imaging import Radiograph, Source, find_sources
from kneegrade.results import GradedRadiograph

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def pair() -> PhantomPair:
    """A small phantom film of two knees with hand-made results at its true landmarks."""
    return phantom_pair()


SLOW = {  # much like others; the rest are 36 or more
    "side_odd", "no_orientation", "greek", "cyrillic", "gb18030", "one_component_name", "instance_number_0",
    "side_of_series", "unknown_charset", "japanese_half", "private", "burned_in", "age_and_weight", "odd_time",
    "deidentified", "clinical_trial",
}  # fmt: skip


def _param(variant: ClinicalVariant) -> object:
    if variant.results is first_knee:  # only its header differs, so a small object will do
        variant = replace(variant, results=first_knee_refused)
    marks = [pytest.mark.slow] if variant.name in SLOW else []
    return pytest.param(variant, id=variant.name, marks=marks)


@pytest.fixture(params=[_param(variant) for variant in VARIANTS])
def variant(request: pytest.FixtureRequest) -> ClinicalVariant:
    """One kind of source film."""
    return request.param


@pytest.fixture(scope="session")
def grader() -> Grader:
    return Grader(device="cpu")


@pytest.fixture(scope="session")
def bilateral(grader: Grader) -> ClinicalFilm:
    """The example film of two knees (MONOCHROME1, spacing at the detector), as the grader grades it."""
    return graded_example(grader, "bilateral.dcm")


@pytest.fixture(scope="session")
def single(grader: Grader) -> ClinicalFilm:
    """The example film of a right knee (MONOCHROME2, no spacing), as the grader grades it."""
    return graded_example(grader, "single_right.dcm")


def graded_example(grader: Grader, name: str) -> ClinicalFilm:
    films = list[ClinicalFilm]()

    def keep(source: Source, film: GradedRadiograph, radiograph: Radiograph | None) -> GradedRadiograph:
        films.append(read_clinical_film(film, source, Job.of(grader, JOB.when), radiograph))
        return film

    grader.grade_sources(find_sources([EXAMPLES / name]), derive=keep)
    return films[0]

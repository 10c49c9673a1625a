import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `clinical_films` and `iod_check`

import pytest
from clinical_films import VARIANTS, ClinicalVariant, PhantomPair, phantom_pair


@pytest.fixture(scope="session")
def pair() -> PhantomPair:
    """A small phantom film of two knees with hand-made results at its true landmarks."""
    return phantom_pair()


SLOW = {  # much like others; the rest are more than 36
    "side_odd", "no_orientation", "greek", "cyrillic", "gb18030", "one_component_name", "instance_number_0",
    "burned_in", "age_and_weight", "odd_time", "deidentified", "clinical_trial",
}  # fmt: skip


def _param(variant: ClinicalVariant) -> object:
    marks = [pytest.mark.slow] if variant.name in SLOW else []
    return pytest.param(variant, id=variant.name, marks=marks)


@pytest.fixture(params=[_param(variant) for variant in VARIANTS])
def variant(request: pytest.FixtureRequest) -> ClinicalVariant:
    """One kind of source film."""
    return request.param

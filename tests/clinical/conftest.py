import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `clinical_films` and `iod_check`

import pytest
from clinical_films import VARIANTS, ClinicalVariant, PhantomPair, phantom_pair


@pytest.fixture(scope="session")
def pair() -> PhantomPair:
    """A small phantom film of two knees with hand-made results at its true landmarks."""
    return phantom_pair()


@pytest.fixture(params=[pytest.param(variant, id=variant.name) for variant in VARIANTS])
def variant(request: pytest.FixtureRequest) -> ClinicalVariant:
    """One kind of source film."""
    return request.param

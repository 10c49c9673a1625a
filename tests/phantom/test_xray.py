import pytest

from kneegrade.phantom.xray import attenuation_per_mm


def test_attenuation_is_that_of_the_cited_tables():
    assert attenuation_per_mm("bone", 50.0) == pytest.approx(0.4242 * 1.92 / 10)
    assert attenuation_per_mm("fat", 45.0) < attenuation_per_mm("muscle", 45.0) < attenuation_per_mm("bone", 45.0)

import pytest

from kneegrade.training.fit_provenance import with_provenance_of_implants
from kneegrade.uncertainty import ImplantLimits, ImplantNetwork, save_implants
from kneegrade.weights import save_weights


@pytest.fixture
def implants(tmp_path):
    """Writes weights with an implant network and these attribution lines."""

    def write(name, *lines):
        path = tmp_path / f"{name}.safetensors"
        save_implants(path, ImplantNetwork(), ImplantLimits(0.95, 0.3), {"attribution": list(lines)})
        return path

    return write


def test_weights_name_the_sources_of_an_implant_network_that_they_take_over(implants):
    path = implants("implants", "crops", "films of a hospital")
    found = with_provenance_of_implants({"attribution": ["crops", "phantoms"]}, path)
    assert found["attribution"] == ["crops", "phantoms", "films of a hospital"]
    assert found["implants"]["name"] == "implants"


def test_the_sources_of_an_implant_network_leave_with_it(implants):
    before = {"attribution": ["crops", "phantoms"]}
    first = with_provenance_of_implants(before, implants("first", "crops", "films of a hospital"))
    second = with_provenance_of_implants(first, implants("second", "other films"))
    assert second["attribution"] == ["crops", "phantoms", "other films"]
    assert second["implants"]["name"] == "second"
    assert with_provenance_of_implants(second, None) == before
    assert with_provenance_of_implants({}, None) == {}


def test_without_a_recipe_no_line_of_an_earlier_description_is_removed():
    before = {"attribution": ["crops", "films"], "implants": {"name": "implants", "sha256": "0"}}
    assert with_provenance_of_implants(before, None) == {"attribution": ["crops", "films"]}
    own = {**before, "recipe": {"attribution": ["crops"]}}
    assert with_provenance_of_implants(own, None)["attribution"] == ["crops"]


def test_no_source_is_lost_when_an_implant_network_is_taken_over_twice(implants, tmp_path):
    found = with_provenance_of_implants({"attribution": ["crops"]}, implants("first", "crops", "films"))
    grader = tmp_path / "grader.safetensors"
    save_weights(grader, {}, {"name": "grader", "kind": "grader", **found})
    assert with_provenance_of_implants({"attribution": ["phantoms"]}, grader)["attribution"] == [
        "phantoms", "crops", "films",
    ]  # fmt: skip

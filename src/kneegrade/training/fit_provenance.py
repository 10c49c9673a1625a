"""Which knees the quality control in a grader's weights was fitted on, and where its implant network comes from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kneegrade.weights import read_description, weights_reference


def names_of_sources(*tables: pd.DataFrame) -> list[str]:
    """Names of the sources of the knees of some manifests, sorted."""
    return sorted({str(name) for table in tables for name in table["source"]})


def implant_training(sound: pd.DataFrame, other_sites: Sequence[pd.DataFrame], implants: Path | None) -> dict[str, Any]:
    """What a newly trained implant network learnt from, for the description; empty if the network was taken over.

    Args:
        sound: manifest of knees without metal.
        other_sites: the same of other hospitals.
        implants: weights that the implant network was taken from; None if it was trained.
    """
    if implants is not None:
        return {}
    names = {"implant_sources": names_of_sources(sound), "other_site_sources": names_of_sources(*other_sites)}
    return {"other_sites": len(other_sites), **names}


def with_provenance_of_implants(description: Mapping[str, Any], implants: Path | None) -> dict[str, Any]:
    """A grader's description with the origin and the attribution of the implant network that its weights now contain.

    The entry `implants` of an earlier implant network is removed, with the attribution lines that the network brought.

    Args:
        description: of the weights before.
        implants: weights that the implant network was taken from; None if it was trained.
    """
    about, lines = dict(description), list(description.get("attribution") or ())
    if about.pop("implants", None) is not None:
        earlier = _added_lines(description)
        lines = [line for line in lines if line not in earlier]
    if implants is not None:
        found = read_description(implants)
        all_lines = list(found.get("implants", {}).get("attribution") or found.get("attribution") or ())
        added = [line for line in all_lines if line not in lines]
        about["implants"] = {**weights_reference(found), "attribution": all_lines, "added_attribution": added}
        lines += added
    return {**about, "attribution": lines} if lines or "attribution" in about else about


def _added_lines(description: Mapping[str, Any]) -> list[str]:
    """The attribution lines that the implant network of a grader's weights added to those of the grading network.

    The entry `implants` states them. In descriptions of earlier versions they are the lines that the recipe of the
    grading network does not have; without a recipe none is known.
    """
    stated: list[str] | None = description["implants"].get("added_attribution")
    if stated is not None:
        return stated
    lines = description.get("attribution") or ()
    own = (description.get("recipe") or {}).get("attribution", lines)
    return [line for line in lines if line not in own]

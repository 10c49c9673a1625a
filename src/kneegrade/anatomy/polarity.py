"""Polarity of a film: where its pixels leave doubt, knees are looked for in both polarities.

The pixels alone cannot tell a negative from a film in a bright surround, such as a white collimated border, a light box
or the window of a viewer: air is bright in the first, the surround in the second. The detector can. On films in the
wrong polarity it is nearly blind (docs/background/decisions.md has the figures), so the polarity in which it sees a
knee is the right one. Knees are looked for in the second polarity only

- if the pixels suggest a negative, or do not clearly suggest a positive (`WEAK_SCORE`), or
- if no knee is certain in the first one.

A bright surround also hides knees from the knee localizer, which sees the whole film at a low resolution. In these
cases, and where fewer than two knees were found, knees are therefore looked for without the surround too.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.pixel_aspect import MIN_CONFIDENCE_TO_RESAMPLE, Detection, best_confidence
from kneegrade.anatomy.several_films import MAX_KNEES
from kneegrade.imaging.photometry import INVERTED, INVERTED_BELOW, film_in_surround
from kneegrade.imaging.radiograph import Polarity, Radiograph
from kneegrade.results import Finding

WEAK_SCORE = 0.5  # of `Polarity`; of 1,494 real films and crops, 1 positive and no negative is closer to 0
CERTAIN_KNEE = 0.5  # confidence from which a knee is seen for certain; knees in the wrong polarity have at most 0.47
MIN_KNEE = MIN_CONFIDENCE_TO_RESAMPLE  # confidence of a knee that confirms the pixels
DECISIVE = 2.0  # ratio of the confidences in both polarities from which a knee decides


class MovableDetection(Detection, Protocol):
    """A detected knee that can be moved."""

    def shifted(self, x: int, y: int) -> Self:
        """Return the knee at a position that is larger by (x, y) pixels."""


Detected = TypeVar("Detected", bound=MovableDetection)
Search = Callable[[NDArray[np.float32]], list[Detected]]


def search_both_polarities(radiograph: Radiograph, search: Search[Detected]) -> tuple[Radiograph, list[Detected]]:
    """Return the film in the polarity that shows a knee, with a warning that says what was done, and its knees.

    Where neither polarity shows a knee, the one that a DICOM tag declares is kept, or the one that the pixels suggest
    if there is no tag.

    Args:
        radiograph: the film, in the polarity that its pixels suggest.
        search: finds knees on the pixels (H, W) of an image.
    """
    knees, polarity = search(radiograph.pixels), radiograph.polarity
    if polarity is None:
        return radiograph, knees
    if len(knees) < MAX_KNEES or has_doubtful_polarity(radiograph):
        knees = _search_in_surround(radiograph, search, knees, white_only=not has_doubtful_polarity(radiograph))
    if best_confidence(knees) >= CERTAIN_KNEE and not has_doubtful_polarity(radiograph):
        return radiograph, knees
    other = radiograph.in_other_polarity()
    other_knees = _search_in_surround(other, search, search(other.pixels))
    ours, theirs = best_confidence(knees), best_confidence(other_knees)
    is_other = theirs >= CERTAIN_KNEE and theirs >= DECISIVE * ours
    is_ours = ours >= MIN_KNEE and ours >= DECISIVE * theirs
    is_against_tag = polarity.declared_by is not None and polarity.inverted
    if is_other or (is_against_tag and not is_ours):
        radiograph, knees = other, other_knees
    return _with_warning(radiograph, is_decided=is_ours or is_other), knees


def with_settled_polarity(radiograph: Radiograph, search: Search[Detected]) -> Radiograph:
    """Return the film in the polarity that shows a knee; knees are only looked for if the pixels leave doubt."""
    return search_both_polarities(radiograph, search)[0] if has_doubtful_polarity(radiograph) else radiograph


def has_doubtful_polarity(radiograph: Radiograph) -> bool:
    """Return True if the pixels suggest that the file is a negative, or do not clearly suggest that it is not."""
    return radiograph.polarity is not None and radiograph.polarity.score < WEAK_SCORE


def _search_in_surround(
    film: Radiograph, search: Search[Detected], knees: list[Detected], *, white_only: bool = False
) -> list[Detected]:
    """Return the knees found on the film without its surround, if more of these are certain, else `knees`."""
    rows, columns = film_in_surround(film.pixels, white_only=white_only)
    if film.pixels[rows, columns].shape == film.pixels.shape:
        return knees
    found = [knee.shifted(columns.start, rows.start) for knee in search(film.pixels[rows, columns])]
    certain, certain_found = (sum(k.confidence >= CERTAIN_KNEE for k in some) for some in (knees, found))
    if certain == certain_found == 0:
        return max(knees, found, key=best_confidence)
    return found if certain_found > certain else knees


def _with_warning(radiograph: Radiograph, *, is_decided: bool) -> Radiograph:
    """Return the film with the warning about its polarity, in place of that of the pixels alone."""
    kept = tuple(warning for warning in radiograph.warnings if warning.code != INVERTED.code)
    finding = None if radiograph.polarity is None else _finding(radiograph.polarity, is_decided=is_decided)
    return replace(radiograph, warnings=kept if finding is None else (*kept, finding))


def _finding(polarity: Polarity, *, is_decided: bool) -> Finding | None:
    """Return what was done, or None for a film that does not look like a negative and was not inverted."""
    tag = polarity.declared_by
    if is_decided and polarity.inverted:
        declared = "although its file does not declare this" if tag is None else f"although its file declares {tag}"
        return Finding(
            INVERTED.code,
            f"The image is a negative, {declared}: both polarities were examined, and only the inverted image shows a "
            "knee. It was inverted.",
        )
    if polarity.score >= INVERTED_BELOW:
        return None
    stored = "as it is stored" if tag is None else f"in the polarity that its file declares ({tag})"
    if is_decided:
        return Finding(
            "polarity_kept",
            "The grey values of the image, perhaps those of a bright surround, suggest a negative. Both polarities "
            f"were examined, and only the image {stored} shows a knee. It was not inverted.",
        )
    done = "It was inverted." if polarity.inverted else f"It was read {stored}."
    return Finding(
        "polarity_undecided",
        "The grey values of the image suggest a negative, but neither polarity shows a knee for certain. "
        f"{done} Check the film.",
    )

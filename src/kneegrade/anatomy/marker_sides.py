"""Side markers as one more witness of the sides of the knees: what they say against the reported sides.

A marker never changes a side. Where a legible letter contradicts the reported side of the knee beside it, or is
mirrored, the film gets a warning. If its sides are in doubt, the `side_confidence` of its knees becomes 0.5.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kneegrade.anatomy.geometry import Pose, pose_of
from kneegrade.anatomy.knee import Knee
from kneegrade.anatomy.laterality import SIDE_NAMES
from kneegrade.anatomy.marker_reader import Marker, MarkerReader
from kneegrade.imaging.radiograph import Laterality, Radiograph
from kneegrade.results import Finding, Side

MIN_FILM_WIDTHS = 1.7  # longer side of a film in plateau widths; tighter crops have no room for a marker
OWN_PLACE = 0.5  # a letter alone belongs to a knee of two from this share of the way to it, counted from between them
MAX_DISTANCE_WIDTHS = 2.0  # of a marker from a single knee, across
JOINT_WIDTHS = 0.6  # a letter this close to the centre of a joint is an edge of bone, no marker
DOUBTED_CONFIDENCE = 0.5  # that the side of a knee is right, on a film with a warning of these codes
DOUBTING = ("mirrored_film", "marker_contradicts_side")


@dataclass(frozen=True)
class _Witness:
    """A marker with what it is compared with.

    Attributes:
        marker: that was read.
        knee: index of its knee from left to right, or None where the marker may belong to either or to none.
        expected: side of that knee as reported or, if that is unknown, as stated; "unknown" if neither is known.
    """

    marker: Marker
    knee: int | None
    expected: Laterality

    @property
    def contradicts(self) -> bool:
        """Whether the marker shows the other side."""
        return self.knee is not None and self.expected in SIDE_NAMES and self.expected != self.marker.letter

    @property
    def agrees(self) -> bool:
        """Whether the marker shows the side of its knee."""
        return self.knee is not None and self.expected == self.marker.letter


def check_markers(
    knees: Sequence[Knee], radiograph: Radiograph, reader: MarkerReader
) -> tuple[tuple[Knee, ...], tuple[Finding, ...]]:
    """The knees with their sides as they were, and a warning where a side marker contradicts these or is mirrored.

    Crops that are tight round the knee are not read.

    Args:
        knees: of a film, at most two.
        radiograph: the film.
        reader: of the markers.
    """
    poses, shape = [pose_of(knee.landmarks_px) for knee in knees], radiograph.pixels.shape
    width = max((pose.width for pose in poses), default=0.0)
    if not poses or max(shape) < MIN_FILM_WIDTHS * width:
        return tuple(knees), ()
    turns = _quarter_turns(poses)
    joints = [_turned(pose.centre, shape, turns) for pose in poses]
    markers = [
        marker
        for marker in reader.read(np.rot90(radiograph.pixels, turns))
        if all(max(abs(marker.x - x), abs(marker.y - y)) > JOINT_WIDTHS * width for x, y in joints)
    ]
    centres = [x for x, _ in joints]
    order = sorted(range(len(centres)), key=centres.__getitem__)
    witnesses = _witnesses(
        markers, [centres[i] for i in order], [knees[i].side for i in order], radiograph.laterality, width
    )
    findings = _findings(witnesses, radiograph.laterality, len(knees))
    if not any(finding.code in DOUBTING for finding in findings):
        return tuple(knees), findings
    return tuple(replace(knee, side_confidence=DOUBTED_CONFIDENCE) for knee in knees), findings


def _quarter_turns(poses: Sequence[Pose]) -> int:
    """Number of quarter turns, as of `numpy.rot90`, after which the femur is on top."""
    x, y = np.sum([pose.down for pose in poses], axis=0).tolist()
    return round(-math.atan2(x, y) / (math.pi / 2)) % 4


def _turned(point: tuple[float, float], shape: tuple[int, ...], turns: int) -> tuple[float, float]:
    """A point (x, y) of the film after the quarter turns."""
    (x, y), (rows, columns) = point, shape
    return ((x, y), (y, columns - 1 - x), (columns - 1 - x, rows - 1 - y), (rows - 1 - y, x))[turns]


def _witnesses(
    markers: Sequence[Marker], centres: Sequence[float], sides: Sequence[Side], stated: Laterality, width: float
) -> list[_Witness]:
    """The most certain marker of each letter, with its knee.

    Args:
        markers: the most certain first, in pixels of the upright film.
        centres: x of the one or two knees, from left to right.
        sides: their reported sides.
        stated: laterality of the film.
        width: of the larger tibial plateau, in pixels.
    """
    best: dict[str, Marker] = {}
    for marker in markers:
        best.setdefault(marker.letter, marker)
    if len(centres) == 1:  # two different letters, or a far one, say nothing about a single knee
        own = len(best) == 1 and stated != "both"
        expected = sides[0] if sides[0] in SIDE_NAMES else stated
        near = MAX_DISTANCE_WIDTHS * width
        return [
            _Witness(marker, 0 if own and abs(marker.x - centres[0]) <= near else None, expected)
            for marker in best.values()
        ]
    places = {letter: _place(marker.x, centres) for letter, marker in best.items()}
    if len(best) == 2:  # the order of two letters tells more than their places
        right = 0 if places["R"] < places["L"] else 1
        knees: dict[str, int | None] = {"R": right, "L": 1 - right}
    else:
        knees = {letter: None if abs(place) < OWN_PLACE else int(place > 0) for letter, place in places.items()}
    return [
        _Witness(marker, knee, "unknown" if knee is None else sides[knee])
        for letter, marker in best.items()
        for knee in [knees[letter]]
    ]


def _place(x: float, centres: Sequence[float]) -> float:
    """Position across the film: -1 at the left one of two knees, 1 at the right one."""
    left, right = centres
    return (2 * x - left - right) / max(right - left, 1e-6)


def _findings(witnesses: Sequence[_Witness], stated: Laterality, knees: int) -> tuple[Finding, ...]:
    """At most one warning: the film is mirrored, a marker contradicts a side, or a marker is mirrored."""
    mirrored = [one for one in witnesses if one.marker.mirrored]
    legible = [one for one in witnesses if one.marker.mirrored is False]
    contradicting = [one for one in witnesses if one.contradicts]
    if mirrored and not legible and not any(one.agrees for one in witnesses):
        return (_mirrored_film(mirrored),)
    if contradicting:
        return (_contradiction(contradicting, stated, knees),)
    return (_mirrored_marker(mirrored),) if mirrored else ()


def _read(witnesses: Sequence[_Witness]) -> str:
    letters = sorted({one.marker.letter for one in witnesses}, reverse=True)
    return f"side marker {letters[0]} was read" if len(letters) == 1 else "side markers R and L were read"


def _mirrored_film(mirrored: Sequence[_Witness]) -> Finding:
    place = " beside the knee of the other side" if any(one.contradicts for one in mirrored) else ""
    return Finding(
        "mirrored_film",
        f"The {_read(mirrored)} as a mirror image{place}, so the film is probably mirrored and its sides may be "
        "exchanged. The sides were not changed by this; check them, and grade the film as it was taken.",
    )


def _contradiction(contradicting: Sequence[_Witness], stated: Laterality, knees: int) -> Finding:
    if knees == 2:
        what = f"The {_read(contradicting)} beside the knee of the other side, according to the position on the film"
    else:
        side, known = contradicting[0].expected, stated in SIDE_NAMES
        source = "the stated laterality" if known else "the anatomy"
        what = f"The {_read(contradicting)}, but according to {source} this is a {SIDE_NAMES[side]} knee"
    return Finding(
        "marker_contradicts_side",
        f"{what}, so the film may be mirrored or mislabelled. The sides were not changed by this; check them.",
    )


def _mirrored_marker(mirrored: Sequence[_Witness]) -> Finding:
    return Finding(
        "mirrored_marker",
        f"The {_read(mirrored)} as a mirror image, but on the expected side, so the marker may have lain face down, or "
        "the film may be mirrored. Check the sides.",
    )

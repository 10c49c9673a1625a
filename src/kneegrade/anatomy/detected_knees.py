"""Knees as the networks of the detector read them, and which of them are read further and reported."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kneegrade.anatomy.geometry import pose_of
from kneegrade.anatomy.knee_localizer import MIN_SEPARATION, Candidate
from kneegrade.anatomy.landmarks import Landmarks
from kneegrade.anatomy.several_films import MAX_KNEES

MIN_COARSE_CONFIDENCE = 0.1  # of the coarse landmarks of a candidate that the fine network reads
MIN_CONFIDENCE = 0.5  # of a knee that is reported
MIN_SCORE_ALONE = 0.6  # localizer score from which a knee is reported even if its landmarks are poor, as at an implant
SURE_CONFIDENCE = 0.97  # of a knee that the fine network reads only once


@dataclass(frozen=True, eq=False)
class DetectedKnee:
    """One detected knee, before its side is assigned.

    Attributes:
        landmarks: in pixels of the film.
        lateral_left: probability that lateral is on the left when the femur is on top.
        knee_probability: output of the fine landmark network, probability that its crop is level and centred on a knee.
        score: of the knee localizer, 0 … 1.
    """

    landmarks: Landmarks
    lateral_left: float
    knee_probability: float
    score: float

    @property
    def confidence(self) -> float:
        """Expected share of articular landmarks within 2 % of the tibial width, times `knee_probability`; 0 … 1."""
        return self.knee_probability * self.landmarks.confidence

    def shifted(self, x: int, y: int) -> "DetectedKnee":
        """Return the knee at a position that is larger by (x, y) pixels."""
        return replace(self, landmarks=self.landmarks.moved(np.array([[1.0, 0.0, x], [0.0, 1.0, y]])))

    @property
    def is_sure(self) -> bool:
        """Whether a second look of the fine network would not improve the landmarks."""
        return self.confidence >= SURE_CONFIDENCE


@dataclass(frozen=True, eq=False)
class CoarseLook:
    """What the coarse network reads of a candidate: landmarks in pixels of the film, logit that lateral is left."""

    candidate: Candidate
    landmarks: Landmarks
    logit: float


def promising(looks: Sequence[CoarseLook]) -> list[CoarseLook]:
    """Return the candidates that the fine network reads: those that may be knees, or all of them if none may be."""
    chosen = [
        look
        for look in looks
        if look.landmarks.confidence >= MIN_COARSE_CONFIDENCE or look.candidate.score >= MIN_SCORE_ALONE
    ]
    return chosen or list(looks)


def accepted_rows(detected: Sequence[DetectedKnee]) -> list[int]:
    """Return the rows of the knees to report, best first; of several implausible ones the best, if there is no other.

    Of at most two knees the localizer alone may be confident, as at an implant. Further knees must be certain.
    """
    order = sorted(range(len(detected)), key=lambda i: -detected[i].confidence)
    kept: list[int] = []
    for i in order:
        certain = detected[i].confidence >= MIN_CONFIDENCE
        accepted = certain or (detected[i].score >= MIN_SCORE_ALONE and len(kept) < MAX_KNEES)
        if accepted and not any(_same_knee(detected[i], detected[k]) for k in kept):
            kept.append(i)
    return kept or order[:1]


def _same_knee(knee: DetectedKnee, other: DetectedKnee) -> bool:
    """Return whether two detections are too near to each other to be two knees."""
    pose, other_pose = pose_of(knee.landmarks.points_px), pose_of(other.landmarks.points_px)
    return math.dist(pose.centre, other_pose.centre) < MIN_SEPARATION * max(pose.width, other_pose.width)

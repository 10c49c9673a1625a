"""Radiograph → knees: find, locate 74 points, call the side, cut the region of interest."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kneegrade.anatomy.geometry import Pose, RoiFrame, extract_crop, frame_at, pose_of, roi_frame, stretch_contrast
from kneegrade.anatomy.knee import Knee, knee_at, points_inside
from kneegrade.anatomy.landmark_networks import (
    APART,
    COARSE,
    FINE,
    LANDMARK_STRIDE,
    Candidate,
    LocatedLandmarks,
    PyramidNetwork,
    coarse_landmark_network,
    fine_landmark_network,
    knee_localizer_network,
    localize_knees,
    read_points,
)
from kneegrade.anatomy.landmarks import Landmarks, landmarks_from_heatmaps, regularize_by_shape
from kneegrade.anatomy.laterality import SideCall, assign_sides
from kneegrade.anatomy.shape_model import ShapeModel
from kneegrade.imaging.radiograph import Radiograph
from kneegrade.results import Finding
from kneegrade.weights import load_part, load_weights, shipped_path
from kneegrade.weights.fusion import fuse_batchnorm, has_native_bfloat16

FINDER_THRESHOLD = 0.15  # low, since the locators have the last word
PLAUSIBLE = 0.5  # confidence of a knee
SECOND_WIDTHS = 1.15  # of the square of the second, closer look
SURE_SCORE = 0.6  # a place that the finder is so sure of is reported even where no outline fits (an implant, say)


@dataclass(frozen=True, eq=False)
class Found:
    """One knee before its side is settled.

    Attributes:
        outline: in film pixels.
        lateral_left: probability that lateral lies on the left when the femur is up.
        fits: the fine locator's probability that it looks at a knee in its place.
        score: the finder's, 0 … 1.
    """

    outline: Landmarks
    lateral_left: float
    fits: float
    score: float

    @property
    def confidence(self) -> float:
        """Expected share of articular points within 2 % of the tibial width, times `fits`; 0 … 1."""
        return self.fits * self.outline.confidence


class LandmarkDetector:
    """Finds the knees of radiographs.

    Args:
        weights: a detector's safetensors file; the shipped one by default.
        device: "cpu" or "cuda".
        roi_px: side of the regions that are cut for the grader.

    Raises:
        WeightsError: weights missing, damaged, of another kind or of another version.
    """

    def __init__(self, weights: Path | None = None, device: str = "cpu", roi_px: int = 224) -> None:
        held = load_weights(weights or shipped_path("detector"), "detector")
        self.device = torch.device(device)
        self.roi_px = roi_px
        self.finder, self.coarse, self.fine = (
            knee_localizer_network(),
            coarse_landmark_network(),
            fine_landmark_network(),
        )
        for name in ("finder", "coarse", "fine"):
            network: PyramidNetwork = getattr(self, name)
            load_part(network, held, name)
            lean = fuse_batchnorm(network).requires_grad_(False)
            setattr(self, name, lean.to(self.device, memory_format=torch.channels_last))  # type: ignore[call-overload]
        self.in_bfloat16 = self.device.type == "cpu" and has_native_bfloat16()
        self.shape = ShapeModel.load()

    def find(self, radiograph: Radiograph) -> tuple[tuple[Knee, ...], tuple[Finding, ...]]:
        """Knees as an upright viewer sees them from left to right, and warnings about their sides; perhaps none."""
        found = self.search(radiograph.pixels)
        calls, warnings = assign_sides([knee.lateral_left for knee in found], radiograph.laterality)
        return tuple(self._knee(radiograph, f, c) for f, c in zip(found, calls, strict=True)), warnings

    @torch.inference_mode()
    def search(self, pixels: NDArray[np.float32]) -> list[Found]:
        """At most two knees on a film (H, W) in [0, 1], ordered as an upright viewer sees them.

        What does not look like a knee comes along where the finder is sure of one, or where there is nothing better:
        the gate refuses it.
        """
        candidates = localize_knees(self.finder, pixels, FINDER_THRESHOLD, self.device)
        found = sorted(self._locate(pixels, candidates), key=lambda knee: -knee.confidence)
        knees: list[Found] = []
        for knee in found:
            believed = knee.confidence >= PLAUSIBLE or knee.score >= SURE_SCORE
            if believed and len(knees) < 2 and not any(_overlap(knee, other) for other in knees):
                knees.append(knee)
        return sorted(knees or found[:1], key=_place_across)

    def _locate(self, pixels: NDArray[np.float32], candidates: Sequence[Candidate]) -> list[Found]:
        """Every candidate's outline: coarse in both orientations, then fine in the better one, twice, averaged."""
        if not candidates:
            return []
        poses = [c.pose for c in candidates]
        plain = [frame_at(p, COARSE.size_px, COARSE.widths) for p in poses]
        turned = [
            frame_at(Pose(p.centre, p.width, p.down, mirrored=True), COARSE.size_px, COARSE.widths) for p in poses
        ]
        located = self._read(self.coarse, pixels, plain + turned)
        logits = ((located.score[: len(poses)] - located.score[len(poses) :]) / 2).tolist()
        frames = [a if logit >= 0 else b for a, b, logit in zip(plain, turned, logits, strict=True)]
        rows = [i if logit >= 0 else i + len(poses) for i, logit in enumerate(logits)]
        rough = [_outline(pixels, located, row, frame) for row, frame in zip(rows, frames, strict=True)]
        rough = [regularize_by_shape(o, self.shape).moved(f.matrix) for o, f in zip(rough, frames, strict=True)]
        fine, fits = self._finely(pixels, rough, rough, FINE.widths)
        again, _ = self._finely(pixels, fine, rough, SECOND_WIDTHS)
        mean = [replace(o, points_px=(o.points_px + other.points_px) / 2) for o, other in zip(fine, again, strict=True)]
        return [
            Found(replace(o, seen=points_inside(o.points_px, pixels.shape)), _sigmoid(logit), fit, candidate.score)
            for o, logit, fit, candidate in zip(mean, logits, fits, candidates, strict=True)
        ]

    def _finely(
        self, pixels: NDArray[np.float32], about: Sequence[Landmarks], rough: Sequence[Landmarks], widths: float
    ) -> tuple[list[Landmarks], list[float]]:
        """What the fine locator sees in level squares of `widths` about outlines; `rough` serves beyond the squares."""
        frames = [roi_frame(o.points_px, FINE.size_px, widths) for o in about]
        located = self._read(self.fine, pixels, frames)
        outlines = [self._merged(pixels, located, i, pair) for i, pair in enumerate(zip(frames, rough, strict=True))]
        return outlines, torch.sigmoid(located.score).tolist()

    def _read(
        self, network: PyramidNetwork, pixels: NDArray[np.float32], frames: Sequence[RoiFrame]
    ) -> LocatedLandmarks:
        squares = torch.cat([stretch_contrast(*extract_crop(pixels, frame)) for frame in frames])
        squares = squares.to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.in_bfloat16):
            maps, score = network(squares)
        return read_points(maps.float().cpu(), score.float().cpu())

    def _merged(
        self, pixels: NDArray[np.float32], located: LocatedLandmarks, row: int, where: tuple[RoiFrame, Landmarks]
    ) -> Landmarks:
        """The fine outline, with the coarse one where the fine square does not reach, in film pixels."""
        frame, rough = where
        fine, wide = _outline(pixels, located, row, frame), rough.moved(_inverse(frame))
        reached = points_inside(wide.points_px, (frame.size_px, frame.size_px))
        both = Landmarks(
            np.where(reached[:, None], fine.points_px, wide.points_px),
            np.where(reached[:, None, None], fine.covariance_px2, wide.covariance_px2),
            np.where(reached, fine.seen, wide.seen),
        )
        return regularize_by_shape(both, self.shape).moved(frame.matrix)

    def _knee(self, radiograph: Radiograph, found: Found, call: SideCall) -> Knee:
        return knee_at(radiograph, found.outline, call, (found.confidence, self.roi_px))


def _outline(pixels: NDArray[np.float32], located: LocatedLandmarks, row: int, frame: RoiFrame) -> Landmarks:
    """Row `row` of what was located, in the pixels of its square."""
    points = located.points_px[row].double().numpy()
    seen = points_inside(frame.to_source(points), pixels.shape)
    return landmarks_from_heatmaps(points, located.covariance_px2[row].double().numpy(), seen, LANDMARK_STRIDE)


def _inverse(frame: RoiFrame) -> NDArray[np.float64]:
    """(2, 3) from source pixels to pixels of the square."""
    turn = np.linalg.inv(frame.matrix[:, :2])
    return np.concatenate([turn, -turn @ frame.matrix[:, 2:]], axis=1).astype(np.float64)


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def _overlap(knee: Found, other: Found) -> bool:
    here, there = pose_of(knee.outline.points_px), pose_of(other.outline.points_px)
    return math.dist(here.centre, there.centre) < APART * max(here.width, there.width)


def _place_across(knee: Found) -> float:
    return pose_of(knee.outline.points_px).across

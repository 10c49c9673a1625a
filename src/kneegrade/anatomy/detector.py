"""Radiograph → knees: find, locate 74 points, call the side, cut the region of interest."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kneegrade.anatomy.finder import APART, Candidate, finder_input, finder_network, read_candidates
from kneegrade.anatomy.knee import Knee, points_inside
from kneegrade.anatomy.landmarks import ARTICULAR
from kneegrade.anatomy.locator import LOCATOR_PX, LOCATOR_WIDTHS, Located, locator_network, read_points
from kneegrade.anatomy.roi import Pose, RoiFrame, cut_region, frame_at, pose_of, roi_frame, stretch_contrast
from kneegrade.anatomy.shape_model import ShapeModel
from kneegrade.anatomy.sides import SideCall, call_sides
from kneegrade.imaging.radiograph import Radiograph
from kneegrade.results import Finding
from kneegrade.weights import load_weights, shipped_path

FINDER_THRESHOLD = 0.15  # low, since the locator has the last word
PLAUSIBLE = 0.5  # confidence of an outline; knees reach 0.75, what the finder took for one by mistake 0.3
SURE_SCORE = 0.6  # a place that the finder is so sure of is reported even where no outline fits (an implant, say)
TRUSTED_MASS = 0.35  # a point whose heat map is flatter is replaced by the shape model's
MIN_SHARP = 10  # articular points that the shape model needs to complete an outline


@dataclass(frozen=True, eq=False)
class Outline:
    """Points of one knee before the side is settled.

    Attributes:
        landmarks_px: (74, 2) float64 in film pixels, lateral → medial.
        mass: (74,) sharpness of each point's heat map, 0 … 1.
        lateral_left: probability that lateral lies on the left when femur is up.
        score: the finder's, 0 … 1.
    """

    landmarks_px: NDArray[np.float64]
    mass: NDArray[np.float64]
    lateral_left: float
    score: float

    @property
    def confidence(self) -> float:
        """Mean sharpness over the articular points, 0 … 1."""
        return float(self.mass[list(ARTICULAR)].mean())


class LandmarkDetector:
    """Finds the knees of radiographs.

    Args:
        weights: a detector's safetensors file; the shipped one by default.
        device: "cpu" or "cuda".
        roi_px: side of the regions that are cut for the grader.
    """

    def __init__(self, weights: Path | None = None, device: str = "cpu", roi_px: int = 224) -> None:
        held = load_weights(weights or shipped_path("detector"), "detector")
        self.device = torch.device(device)
        self.roi_px = roi_px
        self.finder, self.locator = finder_network(), locator_network()
        self.finder.load_state_dict(held.part("finder"))
        self.locator.load_state_dict(held.part("locator"))
        for network in (self.finder, self.locator):
            network.eval().requires_grad_(False).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.shape = ShapeModel.load()

    @torch.inference_mode()
    def find(self, radiograph: Radiograph) -> tuple[tuple[Knee, ...], tuple[Finding, ...]]:
        """Knees as an upright viewer sees them from left to right, and warnings about their sides; perhaps none."""
        outlines = self.outlines(radiograph.pixels)
        calls, warnings = call_sides([(o.landmarks_px, o.lateral_left) for o in outlines], radiograph.laterality)
        return tuple(self._knee(radiograph, o, c) for o, c in zip(outlines, calls, strict=True)), warnings

    @torch.inference_mode()
    def outlines(self, pixels: NDArray[np.float32]) -> list[Outline]:
        """Outlines of at most two knees on a film (H, W) in [0, 1], ordered as an upright viewer sees them.

        An outline that does not fit comes along where the finder is sure of a knee, or where there is nothing better:
        the gate refuses it.
        """
        picture, factor = finder_input(torch.from_numpy(np.ascontiguousarray(pixels)))
        maps, _ = self.finder(picture.to(self.device))
        candidates = read_candidates(maps[0].cpu(), factor, FINDER_THRESHOLD)
        found = sorted((self._outline(pixels, c) for c in candidates), key=lambda o: -o.confidence)
        knees: list[Outline] = []
        for outline in found:
            believed = outline.confidence >= PLAUSIBLE or outline.score >= SURE_SCORE
            if believed and len(knees) < 2 and not any(_overlap(outline, k) for k in knees):
                knees.append(outline)
        return sorted(knees or found[:1], key=_place_across)

    def _outline(self, pixels: NDArray[np.float32], candidate: Candidate) -> Outline:
        pose = candidate.pose
        plain = frame_at(pose, LOCATOR_PX, LOCATOR_WIDTHS)
        turned = frame_at(Pose(pose.centre, pose.width, pose.down, mirrored=True), LOCATOR_PX, LOCATOR_WIDTHS)
        both = self._locate(pixels, [plain, turned])
        logit = float(both.lateral_left[0] - both.lateral_left[1]) / 2
        first = 0 if logit >= 0 else 1
        rough = self._complete(pixels, (plain, turned)[first], both, first)[0]
        frame = roi_frame(rough, LOCATOR_PX, LOCATOR_WIDTHS)
        landmarks, mass = self._complete(pixels, frame, self._locate(pixels, [frame]), 0)
        return Outline(landmarks, mass, 1 / (1 + math.exp(-logit)), candidate.score)

    def _locate(self, pixels: NDArray[np.float32], frames: Sequence[RoiFrame]) -> Located:
        squares = torch.cat([stretch_contrast(*cut_region(pixels, frame)) for frame in frames])
        maps, scalars = self.locator(squares.to(self.device, memory_format=torch.channels_last))
        return read_points(maps.cpu(), scalars.cpu())

    def _complete(
        self, pixels: NDArray[np.float32], frame: RoiFrame, located: Located, which: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Points in film pixels; those off the film or with a flat heat map come from the shape model."""
        in_square = located.points_px[which].double().numpy()
        mass = located.mass[which].double().numpy()
        points = frame.to_source(in_square)
        on_film = points_inside(points, pixels.shape)
        sharp = on_film & (mass >= TRUSTED_MASS)
        if sharp[list(ARTICULAR)].sum() >= MIN_SHARP:
            fitted = frame.to_source(self.shape.fit(in_square, np.where(sharp, mass, 0.0)).points)
            points = np.where(sharp[:, None], points, fitted)
        return points, np.where(on_film, mass, 0.0)

    def _knee(self, radiograph: Radiograph, outline: Outline, call: SideCall) -> Knee:
        frame = roi_frame(outline.landmarks_px, self.roi_px)
        region, inside = cut_region(radiograph.pixels, frame)
        points = frame.to_roi(outline.landmarks_px)
        on_film = points_inside(outline.landmarks_px, radiograph.pixels.shape)
        return Knee(
            side=call.side,
            side_confidence=call.confidence,
            landmarks_px=outline.landmarks_px,
            landmark_confidence=outline.confidence,
            roi=stretch_contrast(region, inside)[0, 0].numpy(),
            inside=inside[0, 0].numpy(),
            roi_landmarks_px=points,
            visible=points_inside(points, inside.shape[-2:]) & on_film,
            on_film_share=float(on_film[list(ARTICULAR)].mean()),
            frame=frame,
        )


def _overlap(outline: Outline, other: Outline) -> bool:
    here, there = pose_of(outline.landmarks_px), pose_of(other.landmarks_px)
    return math.dist(here.centre, there.centre) < APART * max(here.width, there.width)


def _place_across(outline: Outline) -> float:
    pose = pose_of(outline.landmarks_px)
    return pose.centre[0] * pose.down[1] - pose.centre[1] * pose.down[0]

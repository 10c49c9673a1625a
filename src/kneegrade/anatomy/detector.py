"""`LandmarkDetector`: radiograph → knees with 74 landmarks, side of the body and normalised crop.

Three networks run one after the other: the knee localizer on the whole film, the coarse landmark network on a wide crop
of each candidate in both orientations, and the fine landmark network on level crops with lateral on the left.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kneegrade.anatomy.detected_knees import MIN_CONFIDENCE, CoarseLook, DetectedKnee, accepted_rows, promising
from kneegrade.anatomy.geometry import RoiFrame, extract_crops, frame_at, pose_of, roi_frame, stretch_contrast
from kneegrade.anatomy.knee import Knee, build_knee, points_inside
from kneegrade.anatomy.knee_localizer import (
    LOCALIZER_PX,
    MAX_CANDIDATES,
    Candidate,
    knee_localizer_network,
    localize_knees,
)
from kneegrade.anatomy.landmark_networks import (
    COARSE,
    FINE,
    LANDMARK_STRIDE,
    LocatedLandmarks,
    coarse_landmark_network,
    fine_landmark_network,
    read_points,
)
from kneegrade.anatomy.landmarks import Landmarks, landmarks_from_heatmaps, regularize_by_shape
from kneegrade.anatomy.laterality import SideAssignment, assign_sides
from kneegrade.anatomy.marker_reader import MarkerReader
from kneegrade.anatomy.pixel_aspect import NOT_SQUARE, in_source, search_square
from kneegrade.anatomy.polarity import search_both_polarities, with_settled_polarity
from kneegrade.anatomy.pyramid_network import PreparedPyramid, PyramidNetwork
from kneegrade.anatomy.several_films import MAX_KNEES, several_films
from kneegrade.anatomy.shape_model import ShapeModel
from kneegrade.imaging.radiograph import Radiograph
from kneegrade.results import Finding
from kneegrade.weights import check_process, load_part, load_weights, shipped_path
from kneegrade.weights.compute import Compute

DEFAULT_COMPUTE = Compute()
MAX_SEEN = 48  # candidates that are read if a picture shows more knees than a film has
LOCALIZER_THRESHOLD = 0.15  # low, because the landmark networks decide
SMALL_KNEE = 0.3  # plateau width over the longer side of the picture; a knee of one of several films is smaller
SECOND_PASS_WIDTHS = 1.15  # side of the crop of the second fine pass, in plateau widths


class LandmarkDetector:
    """Detects the knees of radiographs and their landmarks.

    Args:
        weights: safetensors file of a detector; the shipped one by default.
        compute: device, runtime, precision and threads of the networks.
        roi_px: side of the crops for the grading network.

    Raises:
        WeightsError: the weights are missing, damaged, of another kind or of another version.
    """

    def __init__(self, weights: Path | None = None, compute: Compute = DEFAULT_COMPUTE, roi_px: int = 224) -> None:
        loaded = load_weights(weights or shipped_path("detector"), "detector")
        self.sha256 = loaded.sha256
        self.device = torch.device(compute.device)
        self.roi_px = roi_px

        def prepared(network: PyramidNetwork, part: str, size_px: int) -> PreparedPyramid:
            load_part(network, loaded, part)
            return PreparedPyramid(network.eval(), compute, size_px)

        self.knee_localizer = prepared(knee_localizer_network(), "finder", LOCALIZER_PX)
        self.coarse = prepared(coarse_landmark_network(), "coarse", COARSE.size_px)
        self.fine = prepared(fine_landmark_network(), "fine", FINE.size_px)
        self.shape_model = ShapeModel.load()
        self.marker_reader = MarkerReader(compute=compute)

    def find(self, radiograph: Radiograph) -> tuple[tuple[Knee, ...], tuple[Finding, ...]]:
        """Return the knees of a radiograph, at most two, and warnings about the film.

        The warnings concern sides, stretched pixels, and a picture that shows several films. Of more than two knees the
        two with the highest confidence are returned. Knees are ordered from left to right for a viewer to whom the
        femur is on top. Landmarks are in pixels of the radiograph; the crop of a knee shows it without the stretch, in
        the polarity of `detect`.
        """
        return self.detect(radiograph)[1:]

    def settle_polarity(self, radiograph: Radiograph) -> Radiograph:
        """Return the radiograph in the polarity that shows a knee, and with a warning, if its pixels leave doubt."""
        return with_settled_polarity(radiograph, self.search)

    def detect(self, radiograph: Radiograph) -> tuple[Radiograph, tuple[Knee, ...], tuple[Finding, ...]]:
        """Return the radiograph in the polarity that shows a knee, and what `find` returns for it.

        The radiograph has a warning if its polarity was in doubt.
        """
        check_process(self.device.type)
        radiograph, first = search_both_polarities(radiograph, self.search)
        found = search_square(radiograph, self.search, first)
        best = sorted(found.knees, key=lambda knee: -knee.confidence)[:MAX_KNEES]
        reported = [knee for knee in found.knees if knee in best]
        several = several_films([pose_of(knee.landmarks.points_px) for knee in reported], len(found.knees))
        sides, warnings = assign_sides(
            [knee.lateral_left for knee in reported], radiograph.laterality, several_films=several is not None
        )
        warnings = warnings if several is None else (several, *warnings)
        knees = tuple(
            in_source(self._knee(found.radiograph, knee, side), found.pixel_aspect)
            for knee, side in zip(reported, sides, strict=True)
        )
        is_estimated = found.radiograph is not radiograph and not found.is_declared
        return radiograph, knees, (*warnings, NOT_SQUARE) if is_estimated else warnings

    @torch.inference_mode()
    def search(self, pixels: NDArray[np.float32]) -> list[DetectedKnee]:
        """Return the knees of a film (H, W) in [0, 1], ordered as in `find`; more than two if it shows several films.

        An implausible detection is included if the localizer is confident of it, or if there is no better one; a later
        check refuses to grade it and states why.
        """
        detected, looks = self._read_candidates(pixels, MAX_CANDIDATES)
        kept = accepted_rows(detected)
        unsure = all(detected[i].confidence < MIN_CONFIDENCE for i in kept)
        small = all(looks[i].candidate.pose.width < SMALL_KNEE * max(pixels.shape) for i in kept)
        if len(kept) > MAX_KNEES or (unsure and small):
            more, more_looks = self._read_candidates(pixels, MAX_SEEN, in_tiles=True)
            kept_more = accepted_rows(more)
            if len(kept_more) > MAX_KNEES:  # the picture shows several films
                detected, looks, kept = more, more_looks, kept_more
        knees = self._look_again(pixels, [detected[i] for i in kept], [looks[i].landmarks for i in kept])
        return sorted(knees, key=lambda knee: pose_of(knee.landmarks.points_px).across)

    def _read_candidates(
        self, pixels: NDArray[np.float32], limit: int, *, in_tiles: bool = False
    ) -> tuple[list[DetectedKnee], list[CoarseLook]]:
        """Return what the landmark networks read of the best `limit` candidates of the localizer."""
        candidates = localize_knees(
            self.knee_localizer, pixels, LOCALIZER_THRESHOLD, self.device, limit, in_tiles=in_tiles
        )
        looks: list[CoarseLook] = []
        for start in range(0, len(candidates), MAX_CANDIDATES):  # one film's worth at a time needs little memory
            looks += self._look_coarsely(pixels, candidates[start : start + MAX_CANDIDATES])
        looks = promising(looks)
        detected: list[DetectedKnee] = []
        for start in range(0, len(looks), MAX_CANDIDATES):
            detected += self._look_closely(pixels, looks[start : start + MAX_CANDIDATES])
        return detected, looks

    def _look_coarsely(self, pixels: NDArray[np.float32], candidates: Sequence[Candidate]) -> list[CoarseLook]:
        """Return what the coarse network reads of every candidate, in the more probable of the two orientations."""
        if not candidates:
            return []
        poses, number = [c.pose for c in candidates], len(candidates)
        frames = [frame_at(p, COARSE.size_px, COARSE.plateau_widths) for p in poses]
        frames += [frame_at(replace(p, mirrored=True), COARSE.size_px, COARSE.plateau_widths) for p in poses]
        pyramid, score = self.coarse.encode(self._crops(pixels, frames))
        score = score.float()
        logits = ((score[:number] - score[number:]) / 2).tolist()
        rows = [i if logit >= 0 else i + number for i, logit in enumerate(logits)]
        maps = self.coarse.decode([features[rows] for features in pyramid])  # of the chosen orientation alone
        located = read_points(maps.float().cpu(), score[rows].cpu())
        looks = []
        for i, row in enumerate(rows):
            landmarks = regularize_by_shape(_landmarks(pixels, located, i, frames[row]), self.shape_model)
            looks.append(CoarseLook(candidates[i], landmarks.moved(frames[row].matrix), logits[i]))
        return looks

    def _look_closely(self, pixels: NDArray[np.float32], looks: Sequence[CoarseLook]) -> list[DetectedKnee]:
        """Return what the fine network reads in crops centred on the coarse landmarks."""
        if not looks:
            return []
        coarse = [look.landmarks for look in looks]
        refined, probabilities = self._refine(pixels, coarse, coarse, FINE.plateau_widths)
        return [
            DetectedKnee(
                landmarks=replace(landmarks, seen=points_inside(landmarks.points_px, pixels.shape)),
                lateral_left=_sigmoid(look.logit),
                knee_probability=probability,
                score=look.candidate.score,
            )
            for landmarks, look, probability in zip(refined, looks, probabilities, strict=True)
        ]

    def _look_again(
        self, pixels: NDArray[np.float32], knees: Sequence[DetectedKnee], coarse: Sequence[Landmarks]
    ) -> list[DetectedKnee]:
        """Return the knees; landmarks that are not sure become the mean with those of a second, closer crop."""
        result = list(knees)
        unsure = [i for i, knee in enumerate(knees) if not knee.is_sure]
        if not unsure:
            return result
        first = [knees[i].landmarks for i in unsure]
        second, _ = self._refine(pixels, first, [coarse[i] for i in unsure], SECOND_PASS_WIDTHS)
        for i, a, b in zip(unsure, first, second, strict=True):
            points = (a.points_px + b.points_px) / 2
            landmarks = replace(a, points_px=points, seen=points_inside(points, pixels.shape))
            result[i] = replace(knees[i], landmarks=landmarks)
        return result

    def _refine(
        self,
        pixels: NDArray[np.float32],
        around: Sequence[Landmarks],
        coarse: Sequence[Landmarks],
        plateau_widths: float,
    ) -> tuple[list[Landmarks], list[float]]:
        """Return landmarks and knee probabilities of the fine network, in crops centred on the knees `around`.

        Landmarks outside the crops are taken from `coarse`.
        """
        frames = [roi_frame(landmarks.points_px, FINE.size_px, plateau_widths) for landmarks in around]
        located = self._read(self.fine, pixels, frames)
        merged = [
            self._merge(_landmarks(pixels, located, row, frame), landmarks, frame)
            for row, (frame, landmarks) in enumerate(zip(frames, coarse, strict=True))
        ]
        return merged, torch.sigmoid(located.score).tolist()

    def _merge(self, fine: Landmarks, coarse_on_film: Landmarks, frame: RoiFrame) -> Landmarks:
        """Return the fine landmarks, completed by coarse ones outside the crop, in pixels of the film."""
        coarse = coarse_on_film.moved(_film_to_crop(frame))
        in_crop = points_inside(coarse.points_px, (frame.size_px, frame.size_px))
        merged = Landmarks(
            np.where(in_crop[:, None], fine.points_px, coarse.points_px),
            np.where(in_crop[:, None, None], fine.covariance_px2, coarse.covariance_px2),
            np.where(in_crop, fine.seen, coarse.seen),
        )
        return regularize_by_shape(merged, self.shape_model).moved(frame.matrix)

    def _read(
        self, network: PreparedPyramid, pixels: NDArray[np.float32], frames: Sequence[RoiFrame]
    ) -> LocatedLandmarks:
        """Return what a landmark network reads in the crops of a film."""
        maps, score = network(self._crops(pixels, frames))
        return read_points(maps.float().cpu(), score.float().cpu())

    def _crops(self, pixels: NDArray[np.float32], frames: Sequence[RoiFrame]) -> torch.Tensor:
        """Return the crops of a film with stretched contrast, (B, 1, S, S), on the device."""
        crops = torch.cat([stretch_contrast(*crop) for crop in extract_crops(pixels, frames)])
        return crops.to(self.device, memory_format=torch.channels_last)

    def _knee(self, radiograph: Radiograph, detected: DetectedKnee, side: SideAssignment) -> Knee:
        return build_knee(
            radiograph, detected.landmarks, side, landmark_confidence=detected.confidence, roi_px=self.roi_px
        )


def _landmarks(pixels: NDArray[np.float32], located: LocatedLandmarks, row: int, frame: RoiFrame) -> Landmarks:
    """Return row `row` of a batch of located landmarks, in pixels of its crop."""
    points = located.points_px[row].double().numpy()
    seen = points_inside(frame.to_source(points), pixels.shape)
    return landmarks_from_heatmaps(points, located.covariance_px2[row].double().numpy(), seen, LANDMARK_STRIDE)


def _film_to_crop(frame: RoiFrame) -> NDArray[np.float64]:
    """Return the inverse of `frame.matrix`, (2, 3)."""
    inverse = np.linalg.inv(frame.matrix[:, :2])
    return np.concatenate([inverse, -inverse @ frame.matrix[:, 2:]], axis=1).astype(np.float64)


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))

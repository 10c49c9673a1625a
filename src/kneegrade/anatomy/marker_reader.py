"""`MarkerReader`: reads the side markers L and R of a film, and whether a letter is mirrored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from kneegrade.anatomy.marker_networks import (
    MIRRORED_CLASS,
    MarkerClassifier,
    MarkerLocator,
    Proposal,
    marker_crops,
    proposals_of,
    reduced_film,
)
from kneegrade.weights import load_part, load_weights, save_weights, shipped_path
from kneegrade.weights.compute import Compute

DEFAULT_COMPUTE = Compute()
MAX_PROPOSALS = 8
MIN_SCORE = 0.1  # of the locator, low because the classifier decides
MIN_PROBABILITY = 0.93  # of a letter that is read
MIN_AT_FIRST = 0.3  # of a letter in its first crop, to be read in the others too
MIN_CHIRALITY = 0.9  # of the direction of a letter that is read, else it is unknown
ZOOMS = (1.0, 0.85, 1.2)  # of the crops of a letter, as its height is uncertain; the one with the surest letter counts

Letter = Literal["R", "L"]


@dataclass(frozen=True)
class Marker:
    """A side marker that was read.

    Attributes:
        letter: "R" or "L".
        mirrored: whether the letter is mirrored; None where that is uncertain.
        x: of its centre, in pixels of the film; the centre of the first pixel is (0, 0).
        y: likewise.
        height: of the letter in pixels, about.
        probability: of the letter, 0 … 1.
    """

    letter: Letter
    mirrored: bool | None
    x: float
    y: float
    height: float
    probability: float


class MarkerReader:
    """Reads side markers.

    Args:
        weights: safetensors file of kind "markers"; the shipped one by default.
        compute: device, precision and threads; the runtime is torch, because the size of the input varies.

    Raises:
        WeightsError: the weights are missing, damaged, of another kind or of another version.
    """

    def __init__(self, weights: Path | None = None, compute: Compute = DEFAULT_COMPUTE) -> None:
        self.device = torch.device(compute.device)
        in_torch = replace(compute, runtime="torch")
        self.locator, self.classifier = (
            in_torch.prepared(network) for network in load_marker_weights(weights or shipped_path("markers"))
        )

    @torch.inference_mode()
    def read(self, pixels: NDArray[np.float32], *, min_probability: float = MIN_PROBABILITY) -> tuple[Marker, ...]:
        """The markers of a film, the most certain first.

        Letters that lie on their side or upside down are not read.

        Args:
            pixels: (H, W) in [0, 1], bone bright.
            min_probability: of a letter that is read.
        """
        film, scale = reduced_film(pixels)
        output = self.locator(film.to(self.device))[0].float().cpu()
        proposals = proposals_of(output, scale, most=MAX_PROPOSALS, threshold=MIN_SCORE)
        if not proposals:
            return ()
        markers = self._markers(pixels, proposals, ZOOMS[0])
        likely = [proposal for proposal, one in zip(proposals, markers, strict=True) if one.probability >= MIN_AT_FIRST]
        for zoom in ZOOMS[1:] if likely else ():
            markers += self._markers(pixels, likely, zoom)
        return _distinct([marker for marker in markers if marker.probability >= min_probability])

    def _markers(self, pixels: NDArray[np.float32], proposals: Sequence[Proposal], zoom: float) -> list[Marker]:
        """The readings of crops, whatever their probability.

        A crop and its mirror image are read, so that a mirrored crop gives the mirrored reading.
        """
        crops = marker_crops(pixels, proposals, zoom).to(self.device)
        straight, mirrored = self.classifier(torch.cat([crops, crops.flip(-1)])).float().softmax(1).cpu().chunk(2)
        mean = (straight + mirrored[:, list(MIRRORED_CLASS)]) / 2
        return [marker_of(proposal, own.tolist()) for proposal, own in zip(proposals, mean, strict=True)]


def marker_of(proposal: Proposal, probability: Sequence[float]) -> Marker:
    """The reading of a proposal, whatever its probability.

    Args:
        proposal: where.
        probability: of each of `CLASSES`.
    """
    _, r, left, mirrored_r, mirrored_left = probability
    letter: Letter = "R" if r + mirrored_r >= left + mirrored_left else "L"
    straight, mirrored = (r, mirrored_r) if letter == "R" else (left, mirrored_left)
    total = straight + mirrored
    share = mirrored / max(total, 1e-9)
    direction = True if share >= MIN_CHIRALITY else False if share <= 1 - MIN_CHIRALITY else None
    return Marker(letter, direction, proposal.x, proposal.y, proposal.height, total)


def _distinct(markers: Sequence[Marker]) -> tuple[Marker, ...]:
    """The markers, best first, without further readings of the same letter."""
    kept: list[Marker] = []
    for marker in sorted(markers, key=lambda one: -one.probability):
        if all(np.hypot(marker.x - k.x, marker.y - k.y) > max(marker.height, k.height) for k in kept):
            kept.append(marker)
    return tuple(kept)


def load_marker_weights(path: Path) -> tuple[MarkerLocator, MarkerClassifier]:
    """The two networks in weights of kind "markers".

    Raises:
        WeightsError: the weights are missing, damaged, of another kind or of another version.
    """
    loaded = load_weights(path, "markers")
    locator, classifier = MarkerLocator(), MarkerClassifier()
    load_part(locator, loaded, "locator")
    load_part(classifier, loaded, "classifier")
    return locator, classifier


def save_marker_weights(
    path: Path, locator: MarkerLocator, classifier: MarkerClassifier, description: Mapping[str, Any]
) -> None:
    """Write the two networks as weights of kind "markers".

    Args:
        path: safetensors file; its description is written beside it.
        locator: trained.
        classifier: trained.
        description: what they were trained on.
    """
    tensors = {
        f"{name}.{key}": value
        for name, network in (("locator", locator), ("classifier", classifier))
        for key, value in network.state_dict().items()
    }
    save_weights(path, tensors, {"name": path.stem, "kind": "markers", **description})

"""Training of the networks that read side markers, on drawn markers (`kneegrade.training.markers.marker_drawings`).

    python recipes/train_markers.py --backgrounds crops/ films/ --output markers.safetensors

First the locator is trained. Then it proposes letters on the backgrounds, which have none; these proposals are part of
the classifier's examples of class "none".
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kneegrade.anatomy.marker_networks import (
    BASE_HEIGHT_PX,
    CELL_PX,
    CROP_PX,
    MIRRORED_CLASS,
    MarkerClassifier,
    MarkerLocator,
    Proposal,
    marker_crops,
    proposals_of,
    reduced_film,
)
from kneegrade.anatomy.marker_reader import ZOOMS
from kneegrade.phantom.film import FilmOptions, compose_film, render_scene
from kneegrade.progress import Progress
from kneegrade.training.initialization import seeded
from kneegrade.training.markers.marker_drawings import (
    DrawnMarker,
    background_patch,
    degrade,
    draw_distractor,
    draw_marker,
)
from kneegrade.training.markers.marker_text import FloatImage
from kneegrade.training.trainer import LoopSettings, Tensors, TrainingTask, step_generator, train

LOCATOR_STEPS, CLASSIFIER_STEPS = 1000, 1500
LOCATOR_BATCH, CLASSIFIER_BATCH = 24, 64
LEARNING_RATE, CONTINUED_LEARNING_RATE, WEIGHT_DECAY = 4e-3, 1.5e-3, 1e-2
PATCH_PX, CANVAS_PX = 192, 128  # sides of the pictures on which markers are drawn for the two networks
HEIGHTS_PX = (7.0, 64.0)  # of a letter for the locator
CANVAS_HEIGHTS_PX = (8.0, 40.0)  # of a letter for the classifier, before its crop is resampled
MARKER_SHARE, DISTRACTOR_SHARE = 0.4, 0.25  # of the classifier's examples; the others are backgrounds
MINED_SHARE, MIN_MINED_SCORE, MINED_PER_PICTURE = 0.8, 0.02, 12  # of the examples on backgrounds
MIN_HARD = 0.02  # probability of a letter from which a mined crop is hard for the classifier that is continued
POSITION_JITTER, LOG_SIZE_JITTER = 0.09, 0.18  # of the classifier's crops, in heights of the letter

Backgrounds = Sequence[NDArray[np.uint8]]


def phantom_backgrounds(number: int, seed: int, longest_px: int = 1024) -> list[NDArray[np.uint8]]:
    """Phantom films without letters and text."""
    films = []
    for index in range(number):
        scene = compose_film(seed, index, FilmOptions(longest_px=longest_px))
        overlay = replace(scene.overlay, letters=("",) * len(scene.overlay.letters), text="")
        films.append(np.asarray(render_scene(replace(scene, overlay=overlay)).pixels * 255, dtype=np.uint8))
    return films


def fit_markers(
    backgrounds: Backgrounds, *, locator_steps: int = LOCATOR_STEPS, classifier_steps: int = CLASSIFIER_STEPS,
    seed: int = 0, start: tuple[MarkerLocator, MarkerClassifier] | None = None, progress: Progress | None = None,
) -> tuple[MarkerLocator, MarkerClassifier]:  # fmt: skip
    """The trained networks, in evaluation mode. On one core of a CPU they take about ten minutes.

    Args:
        backgrounds: pictures (H, W) without markers, at most about 1,024 px long.
        locator_steps: of its training; 0 to keep the network as it is.
        classifier_steps: the same for the classifier.
        seed: of initial weights and all drawings.
        start: networks to continue, at a lower learning rate; they are not changed. By default new ones.
        progress: called with (steps done, steps in all, loss) of each of the two trainings.
    """
    old_locator, old_classifier = start or (None, None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        locator_task = LocatorTask(backgrounds, locator_steps, seed, old_locator)
        _train(locator_task, progress)
        classifier_task = ClassifierTask(backgrounds, locator_task.network, classifier_steps, seed, old_classifier)
        _train(classifier_task, progress)
    return locator_task.network, classifier_task.network


def _train(task: TrainingTask, progress: Progress | None) -> None:
    if task.settings.steps_per_epoch:
        train(task, progress=progress)
    task.network.eval()


def _settings(steps: int, start: torch.nn.Module | None) -> LoopSettings:
    rate = LEARNING_RATE if start is None else CONTINUED_LEARNING_RATE
    return LoopSettings(
        epochs=1, steps_per_epoch=steps, learning_rate=rate, schedule="one_cycle", weight_decay=WEIGHT_DECAY,
        clip_norm=5.0, bf16=True, cpu=True,
    )  # fmt: skip


class LocatorTask(TrainingTask):
    """The locator, trained on patches with drawn markers and distractors."""

    name = identity = "locator"
    network: MarkerLocator

    def __init__(self, backgrounds: Backgrounds, steps: int, seed: int, start: MarkerLocator | None) -> None:
        self.backgrounds, self.seed, self.settings = backgrounds, seed, _settings(steps, start)
        self.network = seeded(MarkerLocator, seed)
        if start is not None:
            self.network.load_state_dict(start.state_dict())

    def batch(self, epoch: int, step: int) -> tuple[Tensors, Tensors]:
        """((patches (B, 1, 192, 192),), (targets (B, 4, 24, 24), weights (B, 2, 24, 24)))."""
        rng = _generator(self.seed, step, 1)
        drawn = [draw_scene(self.backgrounds, rng) for _ in range(LOCATOR_BATCH)]
        patches = torch.from_numpy(np.stack([patch for patch, _ in drawn])).unsqueeze(1)
        labels = [locator_targets(own, PATCH_PX // CELL_PX) for _, own in drawn]
        return (patches,), (torch.stack([label[0] for label in labels]), torch.stack([label[1] for label in labels]))

    def losses(self, output: Tensor, labels: Tensors, epoch: int) -> dict[str, Tensor]:
        """Focal cross entropy of the score, plus absolute errors of position and height at the letters."""
        (targets, weights), output = labels, output.float()
        truth, score = targets[:, 0], output[:, 0]
        entropy = functional.binary_cross_entropy_with_logits(score, truth, reduction="none")
        wrong = (score.sigmoid() - truth).abs().square()
        number = truth.sum().clamp(min=1)
        focal = (entropy * wrong * weights[:, 0]).sum() / number
        error = ((output[:, 1:] - targets[:, 1:]).abs().sum(1) * weights[:, 1]).sum() / weights[:, 1].sum().clamp(min=1)
        return {"loss": focal + 0.3 * error, "score": focal, "error": error}


def draw_scene(backgrounds: Backgrounds, rng: np.random.Generator) -> tuple[FloatImage, list[DrawnMarker]]:
    """A patch (192, 192) with up to two markers and up to three distractors, and the markers."""
    patch = background_patch(backgrounds, PATCH_PX, rng)
    number, others = int(rng.choice(3, p=[0.25, 0.5, 0.25])), int(rng.choice(4, p=[0.35, 0.35, 0.2, 0.1]))
    places: list[tuple[float, float, float]] = []
    markers = []
    for thing in range(number + others):
        height = float(np.exp(rng.uniform(*np.log(HEIGHTS_PX))))
        for _ in range(8):
            x, y = (float(v) for v in rng.uniform(height / 2, PATCH_PX - height / 2, 2))
            if all(np.hypot(x - a, y - b) > 1.5 * (height + h) for a, b, h in places):
                break
        else:
            continue
        places.append((x, y, height))
        if thing < number:
            markers.append(draw_marker(patch, rng, height=height, centre=(x, y), kind=int(rng.integers(1, 5))))
        else:
            draw_distractor(patch, rng, height=height, centre=(x, y))
    return degrade(patch, rng, blur_px=1.0), markers


def locator_targets(markers: Sequence[DrawnMarker], cells: int) -> tuple[Tensor, Tensor]:
    """Targets (4, n, n) of the locator, and weights (2, n, n) of its score and of position and height."""
    targets, weights = torch.zeros(4, cells, cells), torch.stack([torch.ones(cells, cells), torch.zeros(cells, cells)])
    for marker in markers:
        x, y = (marker.x + 0.5) / CELL_PX - 0.5, (marker.y + 0.5) / CELL_PX - 0.5
        column, row = min(max(round(x), 0), cells - 1), min(max(round(y), 0), cells - 1)
        for i in range(max(0, row - 1), min(cells, row + 2)):
            for j in range(max(0, column - 1), min(cells, column + 2)):
                targets[1:, i, j] = torch.tensor([x - j, y - i, float(np.log(marker.height / BASE_HEIGHT_PX))])
                weights[0, i, j], weights[1, i, j] = 0.0, 1.0
        targets[0, row, column], weights[0, row, column] = 1.0, 1.0
    return targets, weights


class ClassifierTask(TrainingTask):
    """The classifier, trained on crops of drawn markers, of distractors and of the locator's proposals."""

    name = identity = "classifier"
    network: MarkerClassifier

    def __init__(
        self, backgrounds: Backgrounds, locator: MarkerLocator, steps: int, seed: int, start: MarkerClassifier | None
    ) -> None:
        self.backgrounds, self.seed, self.settings = backgrounds, seed, _settings(steps, start)
        self.mined = mined_crops(backgrounds if steps else (), locator)
        if start is not None:
            self.mined = _with_hard_half(self.mined, start)
        self.network = seeded(MarkerClassifier, seed + 1)
        if start is not None:
            self.network.load_state_dict(start.state_dict())

    def batch(self, epoch: int, step: int) -> tuple[Tensors, Tensors]:
        """((crops (B, 1, 64, 64),), (classes (B,),)); every crop also mirrored, with its mirrored class."""
        rng = _generator(self.seed, step, 2)
        drawn = [self._example(rng) for _ in range(CLASSIFIER_BATCH // 2)]
        crops = torch.from_numpy(np.stack([crop for crop, _ in drawn])).unsqueeze(1)
        classes = torch.tensor([kind for _, kind in drawn])
        mirrored = torch.tensor(MIRRORED_CLASS)[classes]
        return (torch.cat([crops, crops.flip(-1)]),), (torch.cat([classes, mirrored]),)

    def losses(self, output: Tensor, labels: Tensors, epoch: int) -> dict[str, Tensor]:
        """Cross entropy with a little label smoothing."""
        return {"loss": functional.cross_entropy(output.float(), labels[0], label_smoothing=0.01)}

    def _example(self, rng: np.random.Generator) -> tuple[FloatImage, int]:
        choice = rng.random()
        if choice >= MARKER_SHARE + DISTRACTOR_SHARE and len(self.mined) and rng.random() < MINED_SHARE:
            mined = self.mined[rng.integers(len(self.mined))].astype(np.float32) / 255
            return degrade(mined, rng, blur_px=0.7), 0
        canvas = background_patch(self.backgrounds, CANVAS_PX, rng)
        height, kind = float(np.exp(rng.uniform(*np.log(CANVAS_HEIGHTS_PX)))), 0
        if choice < MARKER_SHARE:
            kind = int(rng.integers(1, 5))
            draw_marker(canvas, rng, height=height, centre=(CANVAS_PX / 2, CANVAS_PX / 2), kind=kind)
        elif choice < MARKER_SHARE + DISTRACTOR_SHARE:
            shift = rng.normal(0, 0.25 * height, 2)
            draw_distractor(canvas, rng, height=height, centre=(CANVAS_PX / 2 + shift[0], CANVAS_PX / 2 + shift[1]))
        if rng.random() < 0.1:  # cut off beside the letter, as by the border of the film
            _cut(canvas, height, rng)
        canvas = degrade(canvas, rng, blur_px=0.05 * height + 0.3)
        x, y = CANVAS_PX / 2 + height * rng.normal(0, POSITION_JITTER, 2)
        where = Proposal(float(x), float(y), height * float(np.exp(rng.normal(0, LOG_SIZE_JITTER))), 1.0)
        return marker_crops(canvas, [where])[0, 0].numpy(), kind


def _cut(canvas: FloatImage, height: float, rng: np.random.Generator) -> None:
    """Black out what is beyond a line 0.55 to 1.2 heights from the centre, on a random side."""
    reach = round(CANVAS_PX / 2 + float(rng.uniform(0.55, 1.2)) * height)
    turned = np.rot90(canvas, int(rng.integers(4)))
    turned[:, reach:] = 0


@torch.no_grad()
def mined_crops(backgrounds: Backgrounds, locator: MarkerLocator) -> NDArray[np.uint8]:
    """(N, 64, 64) crops around the locator's proposals on backgrounds, which have no markers."""
    crops = []
    for picture in {id(picture): picture for picture in backgrounds}.values():  # some are listed several times
        pixels = picture.astype(np.float32) / np.float32(255)
        film, scale = reduced_film(pixels)
        proposals = proposals_of(locator(film)[0], scale, most=MINED_PER_PICTURE, threshold=MIN_MINED_SCORE)
        for zoom in ZOOMS:
            crops.append((marker_crops(pixels, proposals, zoom)[:, 0] * 255).round().to(torch.uint8).numpy())
    return np.concatenate(crops) if crops else np.empty((0, CROP_PX, CROP_PX), dtype=np.uint8)


@torch.no_grad()
def _with_hard_half(crops: NDArray[np.uint8], classifier: MarkerClassifier) -> NDArray[np.uint8]:
    """The crops, and those that a classifier may take for letters so often that they are half of all."""
    parts = (torch.from_numpy(crops[i : i + 256]).unsqueeze(1).float() / 255 for i in range(0, len(crops), 256))
    letter = np.concatenate([1 - classifier(part).softmax(1)[:, 0].numpy() for part in parts] or [np.empty(0)])
    hard = crops[letter > MIN_HARD]
    return np.concatenate([crops, *([hard] * (len(crops) // max(1, len(hard))) if len(hard) else ())])


def _generator(*key: int) -> np.random.Generator:
    return np.random.default_rng(step_generator(*key).initial_seed())

"""`render_film`: whole films with one knee, two knees or none, at any resolution, with the truth of every knee.

`compose_film` makes every random choice and returns a `FilmScene`; `render_scene` computes its pixels.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from kneegrade.errors import UsageError
from kneegrade.phantom.film_content import Overlay, distractor_path, draw_collimation, draw_markers, sample_overlay
from kneegrade.phantom.phantom_knee import PhantomKnee, Side, check_identity, sample_knee
from kneegrade.phantom.prevalence import Prevalence
from kneegrade.phantom.render_params import Canvas, render_params_of, stack
from kneegrade.phantom.rois import Placement
from kneegrade.phantom.texture import trabeculae
from kneegrade.phantom.thickness import COARSE_MM, full_precision, leg_maps
from kneegrade.phantom.xray import Exposure, ExposureBatch, attenuation, develop, expose, sample_exposure

FloatImage = NDArray[np.float32]
Layout = Literal["random", "bilateral", "single_right", "single_left", "none"]
LAYOUT_SHARES = {"bilateral": 0.5, "single_right": 0.2, "single_left": 0.2, "none": 0.1}
FILM_ROTATION_DEG = 20.0  # largest rotation of a knee
SPACING_RANGE_MM = (0.1, 0.2)  # of a film rendered at its own resolution


@dataclass(frozen=True)
class FilmOptions:
    """Options of `render_film`.

    Attributes:
        layout: which knees a film shows, or "random" (half bilateral, a tenth without a knee).
        prevalence: population of the grades.
        implants: share of knees with metal.
        pixel_spacing_mm: pixel spacing instead of the film's own 0.1–0.2 mm; coarse films render faster.
        longest_px: number of pixels along the longer side; overrides the pixel spacing.

    Raises:
        UsageError: an option is out of range.
    """

    layout: Layout = "random"
    prevalence: Prevalence = "natural"
    implants: float = 0.0
    pixel_spacing_mm: float | None = None
    longest_px: int | None = None

    def __post_init__(self) -> None:
        sizes = [size for size in (self.pixel_spacing_mm, self.longest_px) if size is not None]
        if self.layout not in get_args(Layout) or not 0 <= self.implants <= 1 or min(sizes, default=1) <= 0:
            raise UsageError(
                f"Invalid film options: layout {self.layout!r}, implant share {self.implants}, sizes {sizes}. "
                f"Expected a layout among {', '.join(get_args(Layout))}, a share from 0 to 1 and positive sizes."
            )


class KneePose(NamedTuple):
    """Position of one knee in a film: side, origin (x, y) in mm of the knee, clockwise rotation in degrees."""

    side: Side
    x_mm: float
    y_mm: float
    rotation_deg: float


@dataclass(frozen=True)
class FilmPlan:
    """All random choices of a film's geometry.

    Attributes:
        layout: which knees; never "random".
        view: projection.
        width_mm, height_mm: field of view in mm of the knee.
        poses: one per knee, right before left.
        spacing_mm: pixel spacing at the detector.
        magnification: size at the detector relative to the size of the knee.
    """

    layout: Layout
    view: Literal["AP", "PA"]
    width_mm: float
    height_mm: float
    poses: tuple[KneePose, ...]
    spacing_mm: float
    magnification: float


@dataclass(frozen=True, eq=False)
class FilmKnee:
    """One knee of a film: side, landmarks (74, 2) float64 in pixels of the film, and the synthetic knee itself."""

    side: Side
    landmarks_px: NDArray[np.float64]
    knee: PhantomKnee


@dataclass(frozen=True, eq=False)
class FilmScene:
    """Everything about a film except its pixels.

    Attributes:
        seed, index, options: identity of the film.
        plan, exposure, overlay: the random choices.
        shape: (H, W) of the image.
        pixel_spacing_mm: pixel spacing at the detector.
        knees: the knees of the film, right before left.
        placements: map from mm to pixels, one per knee.
        key: seed of noise and texture.
    """

    seed: int
    index: int
    options: FilmOptions
    plan: FilmPlan
    exposure: Exposure
    overlay: Overlay
    shape: tuple[int, int]
    pixel_spacing_mm: float
    knees: tuple[FilmKnee, ...]
    placements: tuple[Placement, ...]
    key: int

    @property
    def knee_mm(self) -> float:
        """Size of a pixel in mm of the knee."""
        return self.pixel_spacing_mm / self.plan.magnification


@dataclass(frozen=True, eq=False)
class PhantomFilm:
    """A whole synthetic radiograph.

    Attributes:
        seed, index, options: identity of the film.
        plan: its geometry; `plan.layout` is never "random".
        pixels: (H, W) float32 in [0, 1], bone bright.
        pixel_spacing_mm: pixel spacing at the detector, where the knee is larger by `plan.magnification`.
        knees: the knees of the film, right before left; landmarks may lie outside the image.
        exposure: its exposure and image processing.
    """

    seed: int
    index: int
    options: FilmOptions
    plan: FilmPlan
    pixels: FloatImage
    pixel_spacing_mm: float
    knees: tuple[FilmKnee, ...]
    exposure: Exposure


def render_film(seed: int, index: int, options: FilmOptions | None = None) -> PhantomFilm:
    """Film `index` of population `seed`: knees 2·index (right) and 2·index + 1 (left), which belong to one person.

    The same arguments always give the same film.

    Raises:
        UsageError: seed or index is out of range, or the population is unknown.
    """
    return render_scene(compose_film(seed, index, options))


def compose_film(seed: int, index: int, options: FilmOptions | None = None) -> FilmScene:
    """The scene of a film: everything that `render_film` determines, without computing the pixels.

    Raises:
        UsageError: seed or index is out of range, or the population is unknown.
    """
    check_identity(seed, index)
    options = options or FilmOptions()
    rng = np.random.default_rng(np.random.SeedSequence([seed, index, 2]))
    plan = plan_film(rng, options.layout)
    exposure = sample_exposure(rng, whole_film=True)
    overlay = sample_overlay(rng, [pose.side for pose in plan.poses])
    spacing = options.pixel_spacing_mm or plan.spacing_mm
    if options.longest_px is not None:
        spacing = max(plan.width_mm, plan.height_mm) * plan.magnification / options.longest_px
    knee_mm = spacing / plan.magnification
    placements, knees = [], []
    for side, x, y, rotation in plan.poses:
        knee = sample_knee(seed, 2 * index + (side == "L"), options.prevalence, implants=options.implants)
        placement = Placement.of((x / knee_mm, y / knee_mm), 1 / knee_mm, rotation, side == "L")
        placements.append(placement)
        knees.append(FilmKnee(side, placement.to_px(knee.outline_mm), knee))
    shape = (round(plan.height_mm / knee_mm), round(plan.width_mm / knee_mm))
    key = int(rng.integers(2**31))
    return FilmScene(
        seed, index, options, plan, exposure, overlay, shape, spacing, tuple(knees), tuple(placements), key
    )


def plan_film(rng: np.random.Generator, layout: Layout = "random") -> FilmPlan:
    """Draw the geometry of a film."""
    if layout == "random":
        layout = list(LAYOUT_SHARES)[rng.choice(len(LAYOUT_SHARES), p=list(LAYOUT_SHARES.values()))]  # type: ignore[assignment]
    spacing = float(np.exp(rng.uniform(*np.log(SPACING_RANGE_MM))))
    magnification = float(rng.uniform(1.0, 1.12))
    if layout == "bilateral":
        width, height, poses = _plan_bilateral(rng)
    else:
        width = float(np.exp(rng.uniform(np.log(130.0), np.log(330.0))))
        height = float(np.clip(width * np.exp(rng.uniform(np.log(0.85), np.log(2.0))), 150.0, 450.0))
        side: Side = "R" if layout == "single_right" else "L"
        poses = () if layout == "none" else (_plan_single(rng, side, width, height),)
    view: Literal["AP", "PA"] = "PA" if layout == "bilateral" and rng.random() < 0.5 else "AP"
    return FilmPlan(layout, view, width, height, poses, spacing, magnification)


def _plan_single(rng: np.random.Generator, side: Side, width: float, height: float) -> KneePose:
    """One knee near the centre of its field."""
    x = width * 0.5 + rng.uniform(-1, 1) * max(0.0, width / 2 - 62.0) * 0.7
    y = height * 0.5 + rng.uniform(-1, 1) * max(0.0, height / 2 - 62.0) * 0.6
    return KneePose(side, float(x), float(y), _clip_rotation(rng.normal(0, 7.0)))


def _plan_bilateral(rng: np.random.Generator) -> tuple[float, float, tuple[KneePose, ...]]:
    """Width and height in mm of a film with two knees side by side, and their poses, the right knee on the left."""
    apart = float(rng.uniform(118.0, 230.0))
    width = apart + float(rng.uniform(95.0, 210.0))
    height = float(np.clip(width * rng.uniform(0.5, 1.3), 140.0, 450.0))
    centre = width / 2 + rng.uniform(-0.3, 0.3) * (width - apart - 90.0)
    y = height * 0.5 + rng.uniform(-1, 1) * max(0.0, height / 2 - 62.0) * 0.6
    common_deg, opposed_deg = rng.normal(0, 3.0), rng.normal(0, 4.0)
    step = np.deg2rad(common_deg) * apart / 2 + rng.normal(0, 4.0)
    sides: tuple[tuple[Side, int], ...] = (("R", -1), ("L", 1))
    poses = []
    for side, sign in sides:
        rotation = common_deg + sign * opposed_deg + rng.normal(0, 2.0)
        poses.append(KneePose(side, float(centre + sign * apart / 2), float(y + sign * step), _clip_rotation(rotation)))
    return width, height, tuple(poses)


def _clip_rotation(rotation_deg: float) -> float:
    return float(np.clip(rotation_deg, -FILM_ROTATION_DEG, FILM_ROTATION_DEG))


def render_scene(scene: FilmScene) -> PhantomFilm:
    """The film of a scene, with its pixels."""
    batch = ExposureBatch([scene.exposure], [scene.knee_mm])
    keys = torch.tensor([scene.key])
    with full_precision(keys.device):
        path, body = _knees_path(scene, batch, keys) if scene.knees else _distractor_path(scene, keys)
        measured, noise = expose(path, batch, keys)
        pixels = develop(measured, body, batch, noise)[0].numpy()
    pixels = draw_markers(pixels, scene.knee_mm, scene.overlay)
    pixels = draw_collimation(pixels, scene.knee_mm, scene.overlay)
    return PhantomFilm(
        scene.seed, scene.index, scene.options, scene.plan, pixels, scene.pixel_spacing_mm, scene.knees, scene.exposure
    )


def _knees_path(scene: FilmScene, batch: ExposureBatch, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Line integral of attenuation (1, H, W) and mask of the legs; soft tissue of overlapping legs counts once."""
    soft = hard = torch.zeros((1, *scene.shape))
    body = torch.zeros((1, *scene.shape), dtype=torch.bool)
    for shown, placement in zip(scene.knees, scene.placements, strict=True):
        to_mm = torch.from_numpy(placement.to_mm_matrix()).float().unsqueeze(0)
        canvas = Canvas(to_mm, scene.shape, max(1, round(COARSE_MM * placement.px_per_mm)))
        leg = leg_maps(stack([render_params_of(shown.knee)]), canvas, trabeculae(keys, scene.shape, to_mm))
        own_soft, own_hard = attenuation(leg, batch)
        soft, hard = torch.maximum(soft, own_soft), hard + own_hard
        body = body | (leg.muscle + leg.fat > 0)
    return soft + hard, body


def _distractor_path(scene: FilmScene, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Line integral of attenuation (1, H, W) and mask of the object in a film without a knee."""
    upright = torch.tensor([[[scene.knee_mm, 0.0, 0.0], [0.0, scene.knee_mm, 0.0]]])
    texture = trabeculae(keys, scene.shape, upright)[0].numpy()
    rng = np.random.default_rng(scene.key)
    path = torch.from_numpy(distractor_path(scene.shape, scene.knee_mm, scene.exposure, texture, rng)).unsqueeze(0)
    return path, path > 0.05

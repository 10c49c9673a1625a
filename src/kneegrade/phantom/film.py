"""`render_film`: whole films with one knee, two or none, at any resolution, with the truth of every knee."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from kneegrade.errors import UsageError
from kneegrade.phantom.film_content import Overlay, distractor_path, draw_collimation, draw_markers, sample_overlay
from kneegrade.phantom.phantom_knee import PhantomKnee, Side, check_identity, sample_knee
from kneegrade.phantom.prevalence import Prevalence
from kneegrade.phantom.render_params import render_params_of, stack
from kneegrade.phantom.rois import Placement
from kneegrade.phantom.texture import trabeculae
from kneegrade.phantom.thickness import COARSE_MM, Canvas, exact, leg_maps
from kneegrade.phantom.xray import Exposure, Exposures, attenuation, develop, expose, sample_exposure

FloatImage = NDArray[np.float32]
Layout = Literal["random", "bilateral", "single_right", "single_left", "none"]
LAYOUT_SHARES = {"bilateral": 0.5, "single_right": 0.2, "single_left": 0.2, "none": 0.1}
FILM_ROTATION_DEG = 20.0
SPACING_RANGE_MM = (0.1, 0.2)  # of a film drawn at its own resolution


@dataclass(frozen=True)
class FilmOptions:
    """What kind of films are drawn.

    Attributes:
        layout: which knees, or "random" (half bilateral, a tenth without a knee).
        prevalence: population of the grades.
        implants: share of knees with metal in them.
        pixel_spacing_mm: draw at this spacing instead of the film's own 0.1–0.2 mm; coarse films are fast.
        longest_px: or so that the longer side has this many pixels.

    Raises:
        UsageError: one of them is out of range.
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
                f"Layout {self.layout!r}, a share of {self.implants} with implants and sizes {sizes} were given; "
                f"one of {', '.join(get_args(Layout))}, a share from 0 to 1 and positive sizes are expected."
            )


@dataclass(frozen=True, eq=False)
class FilmKnee:
    """One knee of a film: side, landmarks (74, 2) float64 in pixels of the film, and the phantom itself."""

    side: Side
    landmarks_px: NDArray[np.float64]
    knee: PhantomKnee


@dataclass(frozen=True)
class FilmPlan:
    """All random choices of a film's geometry: field in mm of the knee, and each knee's side, origin and rotation."""

    layout: Layout
    view: Literal["AP", "PA"]
    width_mm: float
    height_mm: float
    places: tuple[tuple[Side, float, float, float], ...]  # side, x mm, y mm, rotation in degrees
    spacing_mm: float
    magnification: float


@dataclass(frozen=True, eq=False)
class PhantomFilm:
    """A whole synthetic radiograph.

    Attributes:
        seed, index, options: what it was drawn from.
        plan: its geometry; `plan.layout` is never "random".
        pixels: (H, W) float32 in [0, 1], bone bright.
        pixel_spacing_mm: distance of pixel centres in the plane of the detector; the knee appears larger there, by
            `plan.magnification`.
        knees: those in the picture, right before left; landmarks may lie outside the picture.
        exposure: how it was exposed.
    """

    seed: int
    index: int
    options: FilmOptions
    plan: FilmPlan
    pixels: FloatImage
    pixel_spacing_mm: float
    knees: tuple[FilmKnee, ...]
    exposure: Exposure


def plan_film(rng: np.random.Generator, layout: Layout = "random") -> FilmPlan:
    """Draw the geometry of a film."""
    if layout == "random":
        layout = list(LAYOUT_SHARES)[rng.choice(len(LAYOUT_SHARES), p=list(LAYOUT_SHARES.values()))]  # type: ignore[assignment]
    spacing = float(np.exp(rng.uniform(*np.log(SPACING_RANGE_MM))))
    magnification = float(rng.uniform(1.0, 1.12))
    if layout == "bilateral":
        width, height, places = _plan_two(rng)
    else:
        width = float(np.exp(rng.uniform(np.log(130.0), np.log(330.0))))
        height = float(np.clip(width * np.exp(rng.uniform(np.log(0.85), np.log(2.0))), 150.0, 450.0))
        places = () if layout == "none" else (_plan_one(rng, "R" if layout == "single_right" else "L", width, height),)
    view: Literal["AP", "PA"] = "PA" if layout == "bilateral" and rng.random() < 0.5 else "AP"
    return FilmPlan(layout, view, width, height, places, spacing, magnification)


def _plan_one(rng: np.random.Generator, side: Side, width: float, height: float) -> tuple[Side, float, float, float]:
    """One knee near the middle of its field."""
    x = width * 0.5 + rng.uniform(-1, 1) * max(0.0, width / 2 - 62.0) * 0.7
    y = height * 0.5 + rng.uniform(-1, 1) * max(0.0, height / 2 - 62.0) * 0.6
    return side, float(x), float(y), float(np.clip(rng.normal(0, 7.0), -FILM_ROTATION_DEG, FILM_ROTATION_DEG))


def _plan_two(rng: np.random.Generator) -> tuple[float, float, tuple[tuple[Side, float, float, float], ...]]:
    """Two knees side by side, the right one on the image's left."""
    apart = float(rng.uniform(118.0, 230.0))
    width = apart + float(rng.uniform(95.0, 210.0))
    height = float(np.clip(width * rng.uniform(0.5, 1.3), 140.0, 450.0))
    centre = width / 2 + rng.uniform(-0.3, 0.3) * (width - apart - 90.0)
    y = height * 0.5 + rng.uniform(-1, 1) * max(0.0, height / 2 - 62.0) * 0.6
    whole, spread = rng.normal(0, 3.0), rng.normal(0, 4.0)
    step = np.deg2rad(whole) * apart / 2 + rng.normal(0, 4.0)
    sides: tuple[Side, Side] = ("R", "L")
    return (
        width,
        height,
        tuple(
            (
                side,
                float(centre + sign * apart / 2),
                float(y + sign * step),
                float(np.clip(whole + sign * spread + rng.normal(0, 2.0), -FILM_ROTATION_DEG, FILM_ROTATION_DEG)),
            )
            for side, sign in zip(sides, (-1, 1), strict=True)
        ),
    )


@dataclass(frozen=True, eq=False)
class FilmScene:
    """A film drawn but for its pixels: everything that is true of it.

    Attributes:
        seed, index, options: what it was drawn from.
        plan, exposure, overlay: the choices made.
        shape: (H, W) of the picture; `pixel_spacing_mm`: of its pixels at the detector.
        knees: those in the picture, right before left; `placements`: where each lies.
        key: what noise and texture are drawn from.
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


def compose_film(seed: int, index: int, options: FilmOptions | None = None) -> FilmScene:
    """What `render_film` would draw, without drawing it.

    Raises:
        UsageError: seed or index is out of range, or the population unknown.
    """
    check_identity(seed, index)
    options = options or FilmOptions()
    rng = np.random.default_rng(np.random.SeedSequence([seed, index, 2]))
    plan = plan_film(rng, options.layout)
    exposure = sample_exposure(rng, whole_film=True)
    overlay = sample_overlay(rng, [side for side, *_ in plan.places])
    spacing = options.pixel_spacing_mm or plan.spacing_mm
    if options.longest_px is not None:
        spacing = max(plan.width_mm, plan.height_mm) * plan.magnification / options.longest_px
    knee_mm = spacing / plan.magnification  # of the knee, per pixel
    placements, knees = [], []
    for side, x, y, rotation in plan.places:
        drawn = sample_knee(seed, 2 * index + (side == "L"), options.prevalence, implants=options.implants)
        placement = Placement.of((x / knee_mm, y / knee_mm), 1 / knee_mm, rotation, side == "L")
        placements.append(placement)
        knees.append(FilmKnee(side, placement.to_px(drawn.outline_mm), drawn))
    shape = (round(plan.height_mm / knee_mm), round(plan.width_mm / knee_mm))
    key = int(rng.integers(2**31))
    return FilmScene(
        seed, index, options, plan, exposure, overlay, shape, spacing, tuple(knees), tuple(placements), key
    )


def render_film(seed: int, index: int, options: FilmOptions | None = None) -> PhantomFilm:
    """Draw film `index` of population `seed`: person `index`'s knees, 2·index (right) and 2·index + 1 (left).

    The same arguments give the same film, whatever else was drawn.

    Raises:
        UsageError: seed or index is out of range, or the population unknown.
    """
    return develop_film(compose_film(seed, index, options))


def develop_film(scene: FilmScene) -> PhantomFilm:
    """The film of a scene."""
    plan = scene.plan
    knee_mm = scene.pixel_spacing_mm / plan.magnification
    looks = Exposures([scene.exposure], [knee_mm])
    keys = torch.tensor([scene.key])
    with exact(keys.device):
        path, body = _path_of(scene, looks, keys) if scene.knees else _distractor(scene, knee_mm, keys)
        measured, grain = expose(path, looks, keys)
        pixels = develop(measured, body, looks, grain)[0].numpy()
    pixels = draw_markers(pixels, knee_mm, scene.overlay)
    pixels = draw_collimation(pixels, knee_mm, scene.overlay)
    return PhantomFilm(
        scene.seed, scene.index, scene.options, plan, pixels, scene.pixel_spacing_mm, scene.knees, scene.exposure
    )


def _path_of(scene: FilmScene, looks: Exposures, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Line integral of attenuation (1, H, W) and where legs lie; soft tissue of legs that overlap counts once."""
    soft = hard = torch.zeros((1, *scene.shape))
    body = torch.zeros((1, *scene.shape), dtype=torch.bool)
    for shown, placement in zip(scene.knees, scene.placements, strict=True):
        to_mm = torch.from_numpy(placement.to_mm_matrix()).float().unsqueeze(0)
        canvas = Canvas(to_mm, scene.shape, max(1, round(COARSE_MM * placement.px_per_mm)))
        leg = leg_maps(stack([render_params_of(shown.knee)]), canvas, trabeculae(keys, scene.shape, to_mm))
        own_soft, own_hard = attenuation(leg, looks)
        soft, hard = torch.maximum(soft, own_soft), hard + own_hard
        body = body | (leg.muscle + leg.fat > 0)
    return soft + hard, body


def _distractor(scene: FilmScene, knee_mm: float, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of a film without a knee."""
    upright = torch.tensor([[[knee_mm, 0.0, 0.0], [0.0, knee_mm, 0.0]]])
    grain = trabeculae(keys, scene.shape, upright)[0].numpy()
    path = torch.from_numpy(
        distractor_path(scene.shape, knee_mm, scene.exposure, grain, np.random.default_rng(scene.key))
    )
    return path.unsqueeze(0), path.unsqueeze(0) > 0.05

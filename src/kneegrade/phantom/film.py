"""`render_film`: whole films with one knee, two or none, at any resolution, with the truth of every knee."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from kneegrade.errors import UsageError
from kneegrade.phantom.distractors import distractor_path
from kneegrade.phantom.grades import Prevalence
from kneegrade.phantom.knee import PhantomKnee, sample_knee, with_build, with_side
from kneegrade.phantom.overlays import Overlay, draw_collimation, draw_markers, sample_overlay
from kneegrade.phantom.rasterise import FloatImage, Placement
from kneegrade.phantom.thickness import leg_maps
from kneegrade.phantom.xray import Exposure, attenuation, develop, expose, sample_exposure, trabeculae

Layout = Literal["random", "bilateral", "single_right", "single_left", "none"]
Side = Literal["R", "L"]
LAYOUT_SHARES = {"bilateral": 0.5, "single_right": 0.2, "single_left": 0.2, "none": 0.1}
MAX_ROTATION_DEG = 20.0
SPACING_RANGE_MM = (0.1, 0.2)  # of a film drawn at its own resolution


@dataclass(frozen=True, eq=False)
class FilmKnee:
    """One knee of a film: side, landmarks (74, 2) float64 in pixels of the film, and the phantom itself."""

    side: Side
    landmarks_px: NDArray[np.float64]
    knee: PhantomKnee


@dataclass(frozen=True, eq=False)
class PhantomFilm:
    """A whole synthetic radiograph.

    Attributes:
        seed, index, layout: what it was drawn from; `layout` is never "random".
        pixels: (H, W) float32 in [0, 1], bone bright.
        pixel_spacing_mm: distance of pixel centres in the plane of the detector.
        magnification: pixels show the knee this much larger than the spacing says.
        knees: those in the picture, right before left; landmarks may lie outside the picture.
        exposure: how it was exposed.
    """

    seed: int
    index: int
    layout: Layout
    pixels: FloatImage
    pixel_spacing_mm: float
    magnification: float
    knees: tuple[FilmKnee, ...]
    exposure: Exposure


@dataclass(frozen=True)
class FilmPlan:
    """All random choices of a film's geometry: field in mm of the knee, and each knee's side, origin and rotation."""

    layout: Layout
    width_mm: float
    height_mm: float
    places: tuple[tuple[Side, float, float, float], ...]  # side, x mm, y mm, rotation in degrees
    spacing_mm: float
    magnification: float


def plan_film(rng: np.random.Generator, layout: Layout = "random") -> FilmPlan:
    """Draw the geometry of a film.

    Raises:
        UsageError: the layout is unknown.
    """
    if layout not in get_args(Layout):
        raise UsageError(f"Layout {layout!r} was given; one of {', '.join(get_args(Layout))} is expected.")
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
    return FilmPlan(layout, width, height, places, spacing, magnification)


def _plan_one(rng: np.random.Generator, side: Side, width: float, height: float) -> tuple[Side, float, float, float]:
    """One knee near the middle of its field."""
    x = width * 0.5 + rng.uniform(-1, 1) * max(0.0, width / 2 - 62.0) * 0.7
    y = height * 0.5 + rng.uniform(-1, 1) * max(0.0, height / 2 - 62.0) * 0.6
    return side, float(x), float(y), float(np.clip(rng.normal(0, 7.0), -MAX_ROTATION_DEG, MAX_ROTATION_DEG))


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
                float(np.clip(whole + sign * spread + rng.normal(0, 2.0), -MAX_ROTATION_DEG, MAX_ROTATION_DEG)),
            )
            for side, sign in zip(sides, (-1, 1), strict=True)
        ),
    )


@dataclass(frozen=True, eq=False)
class FilmScene:
    """A film drawn but for its pixels: everything that is true of it.

    Attributes:
        seed, index: what it was drawn from.
        plan, exposure, overlay: the choices made.
        shape: (H, W) of the picture; `pixel_spacing_mm`: of its pixels at the detector.
        knees: those in the picture, right before left; `placements`: where each lies.
        rng: in the state from which noise and texture are drawn.
    """

    seed: int
    index: int
    plan: FilmPlan
    exposure: Exposure
    overlay: Overlay
    shape: tuple[int, int]
    pixel_spacing_mm: float
    knees: tuple[FilmKnee, ...]
    placements: tuple[Placement, ...]
    rng: np.random.Generator


def compose_film(
    seed: int,
    index: int,
    layout: Layout = "random",
    *,
    prevalence: Prevalence = "natural",
    pixel_spacing_mm: float | None = None,
    longest_px: int | None = None,
) -> FilmScene:
    """What `render_film` would draw, without drawing it; the arguments are the same."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, index, 2]))
    plan = plan_film(rng, layout)
    exposure = sample_exposure(rng, whole_film=True)
    overlay = sample_overlay(rng, [side for side, *_ in plan.places])
    spacing = pixel_spacing_mm or plan.spacing_mm
    if longest_px is not None:
        spacing = max(plan.width_mm, plan.height_mm) * plan.magnification / longest_px
    knee_mm = spacing / plan.magnification  # of the knee, per pixel
    placements = tuple(
        Placement.of((x / knee_mm, y / knee_mm), 1 / knee_mm, rotation, side == "L")
        for side, x, y, rotation in plan.places
    )
    knees = tuple(
        FilmKnee(knee.side, placement.to_px(knee.outline_mm), knee)
        for knee, placement in zip(_knees(seed, index, plan, prevalence), placements, strict=True)
    )
    shape = (round(plan.height_mm / knee_mm), round(plan.width_mm / knee_mm))
    return FilmScene(seed, index, plan, exposure, overlay, shape, spacing, knees, placements, rng)


def render_film(
    seed: int,
    index: int,
    layout: Layout = "random",
    *,
    prevalence: Prevalence = "natural",
    pixel_spacing_mm: float | None = None,
    longest_px: int | None = None,
) -> PhantomFilm:
    """Draw film `index` of population `seed`, with knees 2·index (right) and 2·index + 1 (left) of that population.

    Args:
        seed: of the population.
        index: of the film; the same pair gives the same film, whatever else was drawn.
        layout: which knees, or "random" (half bilateral, a tenth without a knee).
        prevalence: population of the grades.
        pixel_spacing_mm: draw at this spacing instead of the film's own 0.1–0.2 mm; coarse films are fast.
        longest_px: or so that the longer side has this many pixels.

    Raises:
        UsageError: layout or prevalence is unknown.
    """
    scene = compose_film(
        seed, index, layout, prevalence=prevalence, pixel_spacing_mm=pixel_spacing_mm, longest_px=longest_px
    )
    return develop_film(scene)


def develop_film(scene: FilmScene) -> PhantomFilm:
    """The film of a scene. A scene is used up by this: its generator moves on."""
    plan, exposure, rng = scene.plan, scene.exposure, scene.rng
    knee_mm = scene.pixel_spacing_mm / plan.magnification
    grain = trabeculae(scene.shape, knee_mm, rng)
    if scene.knees:
        pairs = zip(scene.knees, scene.placements, strict=True)
        legs = [leg_maps(shown.knee, placement, scene.shape, grain) for shown, placement in pairs]
        path = attenuation(legs, exposure)
        body = np.max([leg.muscle + leg.fat for leg in legs], axis=0) > 0
    else:
        path = distractor_path(scene.shape, knee_mm, exposure, grain, rng)
        body = path > 0.05
    measured = expose(path, knee_mm, exposure, rng)
    pixels = develop(measured, body, knee_mm, exposure, rng)
    pixels = draw_markers(pixels, knee_mm, scene.overlay)
    pixels = draw_collimation(pixels, knee_mm, scene.overlay)
    return PhantomFilm(
        scene.seed,
        scene.index,
        plan.layout,
        pixels,
        scene.pixel_spacing_mm,
        plan.magnification,
        scene.knees,
        exposure,
    )


def _knees(seed: int, index: int, plan: FilmPlan, prevalence: Prevalence) -> list[PhantomKnee]:
    """The film's knees; the legs of one person share the right one's soft tissue."""
    knees = [with_side(sample_knee(seed, 2 * index + (side == "L"), prevalence), side) for side, *_ in plan.places]
    return [knees[0], with_build(knees[1], knees[0].build)] if len(knees) == 2 else knees

"""Processing styles: how X-ray systems, films and files make different pictures of one knee.

`make_style_params` draws the parameters of every knee from an explicit generator; `apply_styles` applies them. A style
is a set of families, in the order of the way of a picture: acquisition (shading, quantum noise, grid, lead markers),
film, processing by software, and export. Training uses `TRAINING_FAMILIES`. It never uses `UNSEEN_FAMILIES`, which
stand for a hospital that no network has seen.

`FAMILIES` gives the range of each parameter at strength 1. The ranges end where the shipped network would lose too much
agreement of the OARSI grades; `benchmarks/styles.py` measures it, and docs/background/styles.md has the figures.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kneegrade.imaging import style_artefacts, style_filters
from kneegrade.imaging.style_filters import Values

MAX_SEED = 2**31


@dataclass(frozen=True)
class Range:
    """Range of a uniformly distributed parameter.

    Attributes:
        low: smallest value at strength 1.
        high: largest value at strength 1.
        neutral: value of knees for which the family is not drawn, and at strength 0.
        scaled: whether values move towards `neutral` when the strength falls; False for what has no strength.
        number: number k of values per knee; 0: the parameter has shape (B,), not (B, k).
    """

    low: float
    high: float
    neutral: float = 0.0
    scaled: bool = True
    number: int = 0


@dataclass(frozen=True)
class Family:
    """A family of styles.

    Attributes:
        ranges: range of each parameter.
        apply: function of crops (N, 1, S, S), parameters and seeds (N,) that returns crops; None for `collimation`,
            which changes the coverage instead.
    """

    ranges: Mapping[str, Range]
    apply: Callable[[Tensor, Values, Tensor], Tensor] | None


def _without_seed(function: Callable[[Tensor, Values], Tensor]) -> Callable[[Tensor, Values, Tensor], Tensor]:
    return lambda crops, values, seed: function(crops, values)


FAMILIES: Mapping[str, Family] = {
    "shading": Family(
        {"slope": Range(-0.25, 0.25, number=2), "bowl": Range(-0.3, 0.3)}, _without_seed(style_filters.shading)
    ),
    "quantum_noise": Family(
        {"amplitude": Range(0.005, 0.03), "attenuation": Range(1, 3, scaled=False),
         "correlation_mm": Range(0, 0.35, scaled=False)},
        style_artefacts.quantum_noise,
    ),
    "grid_lines": Family(
        {"amplitude": Range(0.005, 0.04), "period_mm": Range(0.8, 4, scaled=False),
         "angle_deg": Range(-8, 8, scaled=False), "phase_rad": Range(0, 6.28, scaled=False),
         "harmonic": Range(0, 0.5, scaled=False), "along_x": Range(-1, 1, scaled=False)},
        _without_seed(style_artefacts.grid_lines),
    ),
    "markers": Family(
        {"opacity": Range(0.5, 1), "number": Range(0, 3, scaled=False), "size_mm": Range(5, 14, scaled=False)},
        style_artefacts.markers,
    ),
    "digitised_film": Family(
        {"slope": Range(2, 6), "centre": Range(0.4, 0.65, scaled=False), "falloff": Range(0, 0.35),
         "banding": Range(0.004, 0.015), "grain": Range(0.01, 0.03), "grain_mm": Range(0.2, 0.5, scaled=False),
         "along_x": Range(-1, 1, scaled=False)},
        style_artefacts.digitised_film,
    ),
    "dust": Family(
        {"amplitude": Range(0.1, 0.4), "scratches": Range(0, 4, scaled=False), "specks": Range(0, 40, scaled=False)},
        style_artefacts.dust,
    ),
    "dynamic_range": Family(
        {"radius_mm": Range(5, 20, scaled=False), "share": Range(-0.3, 0.85)},
        _without_seed(style_filters.dynamic_range_compression),
    ),
    "multiscale": Family(
        {"exponent": Range(0.6, 1, neutral=1), "log_gains": Range(-0.4, 0.6, number=6),
         "latitude": Range(0.5, 1.2, neutral=1)},
        _without_seed(style_filters.multiscale_contrast),
    ),
    "unsharp": Family(
        {"radius_mm": Range(0.5, 5, scaled=False), "gain": Range(0.2, 1.3)}, _without_seed(style_filters.unsharp_mask)
    ),
    "local_equalisation": Family(
        {"clip": Range(1.5, 4, scaled=False), "share": Range(0.4, 1)}, _without_seed(style_filters.local_equalisation)
    ),
    "tone_curve": Family(
        {"log_gamma": Range(-0.7, 0.5), "slope": Range(0, 4.5), "centre": Range(0.35, 0.65, scaled=False),
         "log_steps": Range(-0.55, 0.55, number=8)},
        _without_seed(style_filters.tone_curve),
    ),
    "window": Family(
        {"clipped": Range(0, 0.06, number=2), "log_levels": Range(3.0, 5.545, neutral=5.545)},
        _without_seed(style_filters.window),
    ),
    "resolution": Family(
        {"pixel_mm": Range(0.4, 1.0), "blur_mm": Range(0, 0.4)}, _without_seed(style_artefacts.resolution)
    ),
    "jpeg": Family({"quality": Range(25, 85, neutral=100)}, _without_seed(style_artefacts.jpeg)),
    "collimation": Family(
        {"sides": Range(-0.04, 0.04, number=2), "ends": Range(-0.1, 0.26, number=2), "angle_deg": Range(-4, 4)}, None
    ),
}  # fmt: skip
"""All families by name, in the order in which they are applied."""

UNSEEN_FAMILIES = ("digitised_film", "local_equalisation")
TRAINING_FAMILIES = tuple(name for name in FAMILIES if name not in UNSEEN_FAMILIES)


@dataclass(frozen=True)
class StyleParams:
    """Styles of B knees, as drawn.

    Attributes:
        drawn: family → (B,) bool.
        values: family → parameter → (B,) or (B, k) float32, neutral for knees for which the family is not drawn.
        seed: (B,) int64, of the random patterns.
    """

    drawn: Mapping[str, Tensor]
    values: Mapping[str, Mapping[str, Tensor]]
    seed: Tensor

    def __len__(self) -> int:
        return len(self.seed)

    @property
    def styled(self) -> Tensor:
        """(B,) bool, knees that have a style."""
        return torch.stack(list(self.drawn.values())).any(0)

    def to(self, device: torch.device | str) -> "StyleParams":
        """The parameters on a device."""
        return self._mapped(lambda value: value.to(device))

    def select(self, rows: Tensor) -> "StyleParams":
        """The parameters of some knees: `rows` is an index (N,) or a mask (B,)."""
        return self._mapped(lambda value: value[rows])

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> "StyleParams":
        return replace(
            self,
            drawn={name: function(drawn) for name, drawn in self.drawn.items()},
            values={name: {key: function(value) for key, value in v.items()} for name, v in self.values.items()},
            seed=function(self.seed),
        )


def make_style_params(
    batch: int,
    generator: torch.Generator,
    *,
    families: Sequence[str] = TRAINING_FAMILIES,
    strength: float = 1.0,
    probability: float = 1.0,
    family_probability: float = 0.2,
) -> StyleParams:
    """Random styles for a batch.

    A knee with a style has one of the families, chosen at random, and each other one with `family_probability`. The
    same numbers are drawn whatever the settings, so that settings can be compared knee by knee.

    Args:
        batch: number B of knees.
        generator: source of all random numbers, on the CPU.
        families: names that may be drawn.
        strength: 0 changes nothing, 1 uses the full ranges.
        probability: that a knee gets a style.
        family_probability: that a family belongs to a style; 1: every style has all families.

    Raises:
        KeyError: a name in `families` is unknown.
    """
    place = {name: position for position, name in enumerate(FAMILIES)}
    allowed = torch.tensor([place[name] for name in families])
    styled = torch.rand(batch, generator=generator) < probability
    member = torch.rand(batch, len(FAMILIES), generator=generator) < family_probability
    first = allowed[(torch.rand(batch, generator=generator) * len(allowed)).long()]
    member[torch.arange(batch), first] = True
    seed = torch.randint(MAX_SEED, (batch,), generator=generator)
    drawn: dict[str, Tensor] = {}
    values: dict[str, dict[str, Tensor]] = {}
    for name, family in FAMILIES.items():
        chosen = member[:, place[name]] & styled & (name in families)
        drawn[name], values[name] = chosen, {}
        for key, limits in family.ranges.items():
            shape = (batch, limits.number) if limits.number else (batch,)
            value = limits.low + torch.rand(shape, generator=generator) * (limits.high - limits.low)
            if limits.scaled:
                value = torch.lerp(torch.full_like(value, limits.neutral), value, strength)
            keep = chosen.view(-1, *[1] * (value.dim() - 1))
            values[name][key] = torch.where(keep, value, torch.full_like(value, limits.neutral))
    return StyleParams(drawn, values, seed)


def apply_styles(crops: Tensor, covered: Tensor, params: StyleParams) -> tuple[Tensor, Tensor]:
    """Crops in their styles and their coverage.

    The grey values are not stretched again; `stretch_contrast` on the returned coverage does it, as for any picture.

    Args:
        crops: (B, 1, S, S) float32 in [0, 1], bone bright.
        covered: (B, 1, S, S) bool, False outside the film.
        params: styles of the B knees, on the device of `crops`.

    Returns:
        Crops (B, 1, S, S) float32 in [0, 1], 0 where not covered, and the coverage (B, 1, S, S) bool, which
        `collimation` reduces. Knees without a style are returned as they came.
    """
    styled = params.styled.nonzero().flatten()
    if not len(styled):
        return crops, covered
    part, inside, own = crops[styled], covered[styled], params.select(styled)
    part = style_filters.filled(part, inside)  # filters must not see an edge at the border of the film
    for position, (name, family) in enumerate(FAMILIES.items()):
        rows = own.drawn[name].nonzero().flatten()
        if not len(rows):
            continue
        values = {key: value[rows] for key, value in own.values[name].items()}
        if family.apply is None:
            inside[rows] = style_artefacts.collimated(inside[rows], values)
        else:
            with torch.autocast(crops.device.type, enabled=False):  # a blur in bfloat16 would lose grey levels
                part[rows] = family.apply(part[rows], values, (own.seed[rows] + position) % MAX_SEED)
    crops, covered = crops.clone(), covered.clone()
    crops[styled], covered[styled] = part.clamp(0, 1) * inside, inside
    return crops, covered

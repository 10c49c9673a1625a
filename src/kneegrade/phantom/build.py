"""Appearance of a synthetic knee apart from its grades: shafts, small bones, bone composition, soft tissue."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.landmark_scheme import TIBIA_PLATEAU_LATERAL, TIBIA_PLATEAU_MEDIAL
from kneegrade.phantom.contours import ShaftShape

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Person:
    """Properties that the two knees of one person share.

    Attributes:
        severity: standard normal score of the severity of osteoarthritis.
        shape_scores: (K,) shared part of the shape scores.
        stoutness: amount of soft tissue relative to the median, 0.25 (thin) … 2.6 (obese).
        bone_volume_fraction: mineral fraction of cancellous bone.
        cortex: thickness of all cortices relative to the average.
        texture: strength of the trabecular texture.
        thigh, calf: width of the leg at the thigh and calf relative to the joint.
    """

    severity: float
    shape_scores: Array
    stoutness: float
    bone_volume_fraction: float
    cortex: float
    texture: float
    thigh: float
    calf: float


def sample_person(seed: int, number: int, modes: int) -> Person:
    """Person `number` of population `seed`; `modes` is the number K of shape scores."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, number, 7]))
    stoutness = float(np.clip(rng.gamma(4.0, 0.25), 0.25, 2.6))
    return Person(
        severity=float(rng.standard_normal()),
        shape_scores=rng.standard_normal(modes),
        stoutness=stoutness,
        bone_volume_fraction=float(rng.uniform(0.10, 0.24)),
        cortex=float(rng.uniform(0.7, 1.35)),
        texture=float(rng.uniform(0.06, 0.2)),
        thigh=float(rng.uniform(1.1, 1.25)) + 0.12 * stoutness,
        calf=float(rng.uniform(0.92, 1.12)),
    )


@dataclass(frozen=True)
class Cyst:
    """A subchondral cyst: centre and half-axes in mm, fraction of bone lost inside, strength of its sclerotic rim."""

    centre: tuple[float, float]
    half: tuple[float, float]
    loss: float
    rim: float


@dataclass(frozen=True)
class Build:
    """Appearance of one knee; lengths in mm, angles in degrees, other quantities relative to 1.

    Attributes:
        femur_shaft, tibia_shaft: shape of the shafts beyond the landmarks.
        fibula_head: (x, y) of the centre of the fibular head relative to the plateau's lateral end (landmark 47).
        fibula_head_half, fibula_shaft_half: half-widths of the fibula.
        patella: centre x, centre y, half-width, half-height, thickness.
        fabella: centre x, centre y, half-width; half-width 0 = none.
        bone_volume_fraction, cortex, texture: see `Person`.
        tibia_share: bone volume fraction of tibia and fibula relative to that of the femur.
        sclerosis_medial, sclerosis_lateral: increase of subchondral bone under the plateaus.
        cysts: subchondral cysts.
        chondrocalcinosis: mineral in the menisci, mm along the ray; 0 = none.
        flexion_deg: knee flexion; moves the plateau rims, the second lines and the roof of the notch further out.
        rim_medial, rim_lateral: height of a plateau's anterior or posterior rim above its floor (the outline follows
            the floor).
        margin_rim: the same at the margins of the femur.
        second_line: depth of an inner, parallel line below the joint surface.
        roughness_mm: height of small bumps on the bone margins.
        scar: strength of growth-plate scars.
        leg_half_width: half-width of the leg at the joint.
        fat: thickness of the fat layer.
        thigh, calf: see `Person`.
    """

    femur_shaft: ShaftShape
    tibia_shaft: ShaftShape
    fibula_head: tuple[float, float]
    fibula_head_half: float
    fibula_shaft_half: float
    patella: tuple[float, float, float, float, float]
    fabella: tuple[float, float, float]
    bone_volume_fraction: float
    tibia_share: float
    cortex: float
    texture: float
    sclerosis_medial: float
    sclerosis_lateral: float
    cysts: tuple[Cyst, ...]
    chondrocalcinosis: float
    flexion_deg: float
    rim_medial: float
    rim_lateral: float
    margin_rim: float
    second_line: float
    roughness_mm: float
    scar: float
    leg_half_width: float
    fat: float
    thigh: float
    calf: float


def sample_build(grades: Mapping[str, int], outline: Array, person: Person, rng: np.random.Generator) -> Build:
    """The appearance of one knee, scaled with its bone size; sclerosis and cysts depend on joint space narrowing.

    Args:
        grades: the seven grades.
        outline: (74, 2) mm.
        person: the person of the knee.
        rng: random generator of this knee.
    """
    size = float(np.hypot(*(outline[TIBIA_PLATEAU_MEDIAL] - outline[TIBIA_PLATEAU_LATERAL]))) / 80.0
    notch = outline[18]
    flexion = float(rng.uniform(0.0, 25.0))
    return Build(
        femur_shaft=ShaftShape(float(rng.uniform(12.5, 16.0)) * size, float(rng.uniform(0.06, 0.18)), 34.0 * size),
        tibia_shaft=ShaftShape(float(rng.uniform(11.5, 14.5)) * size, float(rng.uniform(-0.03, 0.05)), 38.0 * size),
        fibula_head=(float(rng.normal(2.0, 3.5)) * size, float(rng.normal(23.0, 4.0)) * size),
        fibula_head_half=float(rng.uniform(10.0, 13.5)) * size,
        fibula_shaft_half=float(rng.uniform(5.5, 7.5)) * size,
        patella=_sample_patella(notch, size, rng),
        fabella=(
            float(outline[8, 0] + rng.uniform(8.0, 16.0)),
            float(outline[12, 1] - rng.uniform(4.0, 16.0)),
            float(rng.uniform(2.5, 5.0) * (rng.random() < 0.15)),
        ),
        bone_volume_fraction=person.bone_volume_fraction,
        tibia_share=float(rng.uniform(0.25, 0.7)),
        cortex=person.cortex,
        texture=person.texture * float(np.exp(rng.normal(0.0, 0.1))),
        sclerosis_medial=float(grades["jsn_medial"] * rng.uniform(0.2, 0.8) + rng.uniform(1.0, 3.8)),
        sclerosis_lateral=float(grades["jsn_lateral"] * rng.uniform(0.2, 0.8) + rng.uniform(0.6, 2.8)),
        cysts=tuple(_sample_cysts(grades, outline, rng)),
        chondrocalcinosis=float(rng.uniform(0.3, 1.2) * (rng.random() < 0.03)),
        flexion_deg=flexion,
        rim_medial=float(rng.uniform(0.3, 2.4) + 0.05 * flexion),
        rim_lateral=float(rng.uniform(0.1, 1.0) + 0.02 * flexion),
        margin_rim=float(rng.uniform(0.3, 3.0)),
        second_line=float(rng.uniform(1.0, 3.0) + 0.06 * flexion),
        roughness_mm=float(rng.uniform(0.05, 0.25)),
        scar=float(rng.uniform(0.0, 1.0)),
        leg_half_width=(47.0 + 10.0 * person.stoutness) * size + float(rng.normal(0, 2.0)),
        fat=3.0 + 8.0 * person.stoutness,
        thigh=person.thigh,
        calf=person.calf,
    )


def _sample_patella(notch: Array, size: float, rng: np.random.Generator) -> tuple[float, float, float, float, float]:
    """Centre x, y, half-width, half-height and thickness of the patella, above the notch."""
    return (
        float(notch[0] + rng.normal(-3.0, 5.0)),
        float(notch[1] + rng.normal(-26.0, 9.0)),
        float(rng.uniform(19.0, 24.0)) * size,
        float(rng.uniform(18.0, 24.0)) * size,
        float(rng.uniform(10.0, 24.0)),
    )


def _sample_cysts(grades: Mapping[str, int], outline: Array, rng: np.random.Generator) -> list[Cyst]:
    """Up to two cysts per plateau; cysts are rare without joint space narrowing."""
    cysts = []
    for side, first, last in (("lateral", 48, 52), ("medial", 58, 62)):
        chance = (0.0, 0.01, 0.1, 0.3)[grades[f"jsn_{side}"]]
        for _ in range(int(rng.binomial(2, chance))):
            x, y = outline[rng.integers(first, last + 1)]
            half = float(rng.uniform(1.0, 3.5))
            centre = (float(x + rng.normal(0, 2.0)), float(y + half + rng.uniform(2.0, 6.0)))
            cysts.append(
                Cyst(
                    centre,
                    (half, half * float(rng.uniform(0.7, 1.3))),
                    float(rng.uniform(0.2, 0.6)),
                    float(rng.uniform(0.1, 0.5)),
                )
            )
    return cysts

"""`sample_knee`: one synthetic knee, drawn from (seed, index) alone: grades, outline, joint space, spurs, build."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.joint_space import joint_space_width
from kneegrade.anatomy.shape_model import ShapeModel
from kneegrade.errors import UsageError
from kneegrade.phantom.build import Build, Person, sample_build, sample_person
from kneegrade.phantom.contours import Spur
from kneegrade.phantom.grades import Prevalence, grades_at
from kneegrade.phantom.implants import Implant, sample_implant
from kneegrade.phantom.outline import sample_outline
from kneegrade.results import JointSpaceWidth

Array = NDArray[np.float64]
Side = Literal["R", "L"]

SEVERITY_CORRELATION = 0.6  # correlation of the severity scores of one person's two knees
SPUR_AREA_MM2 = 24.0  # of a grade 3, median


@dataclass(frozen=True, eq=False)
class PhantomKnee:
    """One synthetic knee with its truth.

    Attributes:
        seed, index: what it was drawn from; knees 2p (right) and 2p + 1 (left) are of person p.
        side: "R" or "L"; the outline is always lateral left, a left knee is mirrored when it is drawn.
        grades: the seven grades by name.
        outline_mm: (74, 2) float64, origin near landmark 55, x medial +, y distal +.
        joint_space_mm: `joint_space_width` of the outline; `drawn_joint_space_mm`: what the table's draw asked for.
        attrition_mm: bone worn off the "medial" and "lateral" plateau, part of the outline.
        spurs: osteophytes beyond the outline, none where the grade is 0.
        build: everything else.
        implant: metal in the knee; with an arthroplasty the grades are not readable.
    """

    seed: int
    index: int
    side: Side
    grades: Mapping[str, int]
    outline_mm: Array
    joint_space_mm: JointSpaceWidth
    drawn_joint_space_mm: JointSpaceWidth
    attrition_mm: Mapping[str, float]
    spurs: tuple[Spur, ...]
    build: Build
    implant: Implant | None = None

    @property
    def gradable(self) -> bool:
        """Whether a reader could grade this knee: not with a replaced joint."""
        return self.implant is None or not self.implant.is_arthroplasty


def sample_knee(seed: int, index: int, prevalence: Prevalence = "natural", *, implants: float = 0.0) -> PhantomKnee:
    """Draw knee `index` of population `seed`; no other knee is needed for it.

    The two knees of a person are alike: their severities have a correlation of 0.6, their shape scores of 0.8, their
    soft tissue and bone substance are the same. Each knee's grades have the population's distribution all the same.

    Args:
        seed: of the population.
        index: of the knee; even ones are right.
        prevalence: population of the grades.
        implants: share of knees with metal, drawn apart, so that all else stays the same.

    Raises:
        UsageError: seed or index is out of range, or the population unknown.

    Example:
        >>> sample_knee(1, 5).grades == sample_knee(1, 5).grades
        True
    """
    check_identity(seed, index)
    person = sample_person(seed, index // 2, len(ShapeModel.load().mode_sd_mm))
    rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
    severity = (
        np.sqrt(SEVERITY_CORRELATION) * person.severity + np.sqrt(1 - SEVERITY_CORRELATION) * rng.standard_normal()
    )
    grades = grades_at(float(severity), prevalence)
    spurs = tuple(
        _sample_spur(name, grade, rng) for name, grade in grades.items() if name.startswith("osteophyte") and grade > 0
    )
    outline, drawn, attrition = sample_outline(grades, person.shape_scores, rng)
    return PhantomKnee(
        seed=seed,
        index=index,
        side="L" if index % 2 else "R",
        grades=grades,
        outline_mm=outline,
        joint_space_mm=joint_space_width(outline),
        drawn_joint_space_mm=drawn,
        attrition_mm=attrition,
        spurs=spurs,
        build=sample_build(grades, outline, person, rng),
        implant=sample_implant(seed, index, outline) if implants and _draw(seed, index, 8) < implants else None,
    )


def sample_grades(person: Person, prevalence: Prevalence, rng: np.random.Generator) -> dict[str, int]:
    """Draw the seven grades of one of a person's knees, `rng` being that knee's."""
    own = float(rng.standard_normal())
    return grades_at(
        np.sqrt(SEVERITY_CORRELATION) * person.severity + np.sqrt(1 - SEVERITY_CORRELATION) * own, prevalence
    )


def check_identity(seed: int, index: int) -> None:
    """Raise a UsageError unless 0 ≤ seed < 2³² and index ≥ 0, within which every stream of numbers is its own."""
    if not (0 <= seed < 2**32 and index >= 0):
        raise UsageError(f"Seed {seed}, index {index}: a seed from 0 to 2³² - 1 and an index from 0 on are expected.")


def _draw(seed: int, index: int, stream: int) -> float:
    """One uniform number of a knee, apart from the generator of its anatomy."""
    return float(np.random.default_rng(np.random.SeedSequence([seed, index, stream])).random())


def _sample_spur(target: str, grade: int, rng: np.random.Generator) -> Spur:
    """Draw one spur: length 1–2, 2–4, 4–8 mm, area about 1/3, 2/3 and all of a grade 3's."""
    length = float(rng.uniform(1.0, 2.0) * 2 ** (grade - 1))
    area = SPUR_AREA_MM2 * grade / 3 * float(np.exp(0.2 * rng.standard_normal()))
    sharpness = float(rng.uniform(0.7, 1.5))
    base = float(np.clip(area * (sharpness + 1) / length, 5.0, 16.0))
    lift = float(rng.normal(25.0 if "tibia" in target else -5.0, 15.0))
    return Spur(target, grade, length, base, lift, sharpness)

"""`Reading`: what a reader decides about a film; and the merge of two readings of the same film."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from kneegrade.errors import KneeGradeError
from kneegrade.schema import TARGETS

Coordinate = Annotated[float, Field(allow_inf_nan=False, ge=-1e5, le=1e5)]
Points = Annotated[list[tuple[Coordinate, Coordinate]], Field(min_length=74, max_length=74)]
Status = Literal["draft", "read", "signed"]
STATUSES: Final = get_args(Status)

CLASSES: Final = {target.name: target.classes for target in TARGETS}
MAX_KNEES: Final = 2


class KneeReading(BaseModel):
    """One knee.

    Attributes:
        side: of the patient's body.
        gradable: False if the reader cannot grade the knee.
        reason: why not.
        grades: grade name → grade; a grade that was not read is absent.
        landmarks_px: the 74 points if the reader moved any; else None.
    """

    model_config = ConfigDict(extra="forbid")

    side: Literal["R", "L", "unknown"]
    gradable: bool = True
    reason: Annotated[str, Field(max_length=200)] = ""
    grades: dict[str, int] = {}
    landmarks_px: Points | None = None

    @field_validator("grades")
    @classmethod
    def _on_scale(cls, grades: dict[str, int]) -> dict[str, int]:
        for name, grade in grades.items():
            if name not in CLASSES or not 0 <= grade < CLASSES[name]:
                raise ValueError("a grade is unknown or outside its scale")
        return grades


class Reading(BaseModel):
    """A film: its knees in the order of the report, a note, and how far the reader is."""

    model_config = ConfigDict(extra="forbid")

    knees: Annotated[list[KneeReading], Field(max_length=MAX_KNEES)]
    note: Annotated[str, Field(max_length=2000)] = ""
    status: Status = "draft"


class IncompleteError(KneeGradeError):
    """The reading lacks a knee, a KL grade or a reason, or the study has no such reading. Remedy: complete it."""

    default_code = "incomplete"


def check_complete(reading: Reading, knees: int) -> None:
    """Check that a reading has all knees, and a finished one a KL grade or a reason for each of them.

    Args:
        reading: to save.
        knees: number of knees in the results of the film.

    Raises:
        IncompleteError: something is missing.
    """
    if len(reading.knees) < knees:
        raise IncompleteError(f"The reading has {len(reading.knees)} of the film's {knees} knees; send all of them.")
    if reading.status == "draft":
        return
    for number, knee in enumerate(reading.knees, start=1):
        if knee.gradable and "kl" not in knee.grades:
            raise IncompleteError(f"Knee {number} has no KL grade; give it, or mark the knee as not gradable.")
        if not knee.gradable and not knee.reason.strip():
            raise IncompleteError(f"Knee {number} is not gradable, but has no reason; give one.")


def with_all_knees(reading: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """The reading; a draft with the knees that it lacks, if the film was graded again and has more knees now."""
    missing = base["knees"][len(reading["knees"]) :]
    return {**reading, "knees": [*reading["knees"], *missing], "status": "draft"} if missing else reading


@dataclass(frozen=True)
class Difference:
    """A field on which two readings differ and that both changed.

    Attributes:
        knee: number of the knee; None for a field of the film.
        field: name of a grade, or "side", "gradable", "landmarks_px" or "note".
        mine: value in the first reading.
        theirs: value in the second one.
    """

    knee: int | None
    field: str
    mine: Any
    theirs: Any


def merge(
    base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]
) -> tuple[dict[str, Any], list[Difference]]:
    """The reading with the changes of both, and the fields that both changed to different values.

    Such a field has the value of `theirs`. A landmark counts as one field with the other landmarks of its knee. The
    merge is finished or signed only if it is what one of the readers finished or signed: nobody has seen another one.

    Args:
        base: reading that both started from.
        mine: first reading.
        theirs: second reading, of the same knees.
    """
    merged, differences = deepcopy(theirs), list[Difference]()
    for number in range(min(len(base["knees"]), len(mine["knees"]), len(theirs["knees"]))):
        before, own, other = (reading["knees"][number] for reading in (base, mine, theirs))
        knee = merged["knees"][number]
        for field in ("side", "landmarks_px"):
            knee[field] = _field(number, field, before.get(field), own.get(field), other.get(field), differences)
        start, my, their = ((one.get("gradable", True), one.get("reason", "")) for one in (before, own, other))
        knee["gradable"], knee["reason"] = _field(number, "gradable", start, my, their, differences)
        knee["grades"] = _merged_grades(number, before["grades"], own["grades"], other["grades"], differences)
    first, my, their = (reading.get("note", "") for reading in (base, mine, theirs))
    merged["note"] = _field(None, "note", first, my, their, differences)
    same = [one.get("status", "draft") for one in (mine, theirs) if _content(one) == _content(merged)]
    merged["status"] = max(same, key=STATUSES.index, default="draft")
    return merged, differences


def is_withdrawal(signed: dict[str, Any], reading: dict[str, Any]) -> bool:
    """True if a reading only withdraws the signature of another one."""
    return reading["status"] == "draft" and _content(reading) == _content(signed)


def _content(reading: dict[str, Any]) -> tuple[Any, str]:
    return reading["knees"], reading.get("note", "")


def _merged_grades(
    number: int, before: dict[str, int], mine: dict[str, int], theirs: dict[str, int], differences: list[Difference]
) -> dict[str, int]:
    values = {
        name: _field(number, name, before.get(name), mine.get(name), theirs.get(name), differences) for name in CLASSES
    }
    return {name: value for name, value in values.items() if value is not None}


def _field(knee: int | None, field: str, before: Any, mine: Any, theirs: Any, differences: list[Difference]) -> Any:
    if mine in (theirs, before):
        return theirs
    if theirs == before:
        return mine
    differences.append(Difference(knee, field, mine, theirs))
    return theirs

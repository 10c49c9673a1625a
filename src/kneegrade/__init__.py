"""kneegrade: Kellgren-Lawrence and OARSI grades of plain knee radiographs, with evidence and honest uncertainty.

>>> import kneegrade
>>> report = kneegrade.grade("film.dcm")  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

from kneegrade.errors import KneeGradeError
from kneegrade.results import GradedKnee, GradedRadiograph, GradeResult, Report
from kneegrade.version import __version__

if TYPE_CHECKING:
    from kneegrade.grader import Grader, grade

__all__ = [
    "GradeResult",
    "GradedKnee",
    "GradedRadiograph",
    "Grader",
    "KneeGradeError",
    "Report",
    "__version__",
    "grade",
]


def __getattr__(name: str) -> Any:
    """`grade` and `Grader` import torch, so they are imported at their first use."""
    if name in ("grade", "Grader"):
        from kneegrade import grader

        return getattr(grader, name)
    raise AttributeError(f"module 'kneegrade' has no attribute {name!r}")

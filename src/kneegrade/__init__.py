"""kneegrade: Kellgren-Lawrence and OARSI grades of plain knee radiographs, with evidence and honest uncertainty.

>>> import kneegrade
>>> report = kneegrade.grade("film.dcm")  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from kneegrade.errors import KneeGradeError
from kneegrade.version import __version__

if TYPE_CHECKING:
    from kneegrade.grader import Grader, grade
    from kneegrade.results import GradedKnee, GradedRadiograph, GradeResult, Report

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

_LATER: Final = {  # imported at the first use: they import numpy, `grader` also torch
    "Grader": "kneegrade.grader",
    "grade": "kneegrade.grader",
    "GradeResult": "kneegrade.results",
    "GradedKnee": "kneegrade.results",
    "GradedRadiograph": "kneegrade.results",
    "Report": "kneegrade.results",
}


def __getattr__(name: str) -> Any:
    """The names of `_LATER`."""
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module 'kneegrade' has no attribute {name!r}")

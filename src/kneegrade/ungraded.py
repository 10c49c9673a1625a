"""Why a film has no results although nothing is wrong with it: the run was stopped, or kneegrade itself failed."""

from collections.abc import Iterable
from typing import Final

from kneegrade.imaging import Source
from kneegrade.results import Finding, GradedRadiograph, Report

INTERRUPTED: Final = Finding(
    "interrupted", "The run was stopped before this film was graded. Grade this film in another run."
)


class GradingInterrupted(KeyboardInterrupt):
    """A run was stopped before all films were graded.

    Attributes:
        report: on all films; a film that was not reached has the reason `interrupted`.
        left: number of these films.
    """

    def __init__(self, report: Report, left: int) -> None:
        super().__init__()
        self.report = report
        self.left = left


def interrupted_films(sources: Iterable[Source]) -> list[GradedRadiograph]:
    """The rows of the films that were not reached."""
    return [GradedRadiograph(source.name, reason=INTERRUPTED, failed=True) for source in sources]


def internal_error(error: Exception, consequence: str | None = None) -> Finding:
    """The reason of what an error in kneegrade itself prevented, without the error's text, which may name the patient.

    Args:
        error: that was raised.
        consequence: what is missing, as a sentence with a space behind it; default: the grading of a film.
    """
    what = "the grading of this film" if consequence is None else "it"
    message = f"{consequence or ''}An error in kneegrade ({type(error).__name__}) prevented {what}. Report it."
    return Finding("internal", message)

"""Exceptions of kneegrade, one class for each kind of remedy.

Every error that a user can cause is a `KneeGradeError`. Its `code` is stable and machine-readable (`report.json`
contains it). Its message says what was found, what was expected and what to do, and never contains patient data.
"""


class KneeGradeError(Exception):
    """Base class of all exceptions that kneegrade raises deliberately.

    Args:
        message: one sentence for the user.
        code: short stable identifier of the cause; the default is the class attribute `default_code`.
    """

    default_code = "error"

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code


class UnreadableFileError(KneeGradeError):
    """The file is damaged, or its content is not of the declared format. Remedy: use another copy."""

    default_code = "unreadable"


class UnsupportedFileError(KneeGradeError):
    """The file is valid, but its kind is not supported. Remedy: convert it, or install the package in the message."""

    default_code = "unsupported"


class LimitExceededError(KneeGradeError):
    """The file needs more memory, time or nesting than allowed. Remedy: raise the limit or reject the file."""

    default_code = "limit"


class WeightsError(KneeGradeError):
    """The weights are missing, damaged or incompatible. Remedy: install them again."""

    default_code = "weights"


class RecipeError(KneeGradeError):
    """A recipe or a manifest is invalid. Remedy: correct the field that the message names."""

    default_code = "recipe"


class CohortError(KneeGradeError):
    """Tables or folders of a cohort are invalid. Remedy: correct the file, row and column that the message names."""

    default_code = "cohort"


class UsageError(KneeGradeError):
    """The call or the command line is invalid. Remedy: correct the argument that the message names."""

    default_code = "usage"

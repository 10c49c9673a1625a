"""Errors named by what the user can do about them.

Every error that a user can cause is a `KneeGradeError`. `code` is stable and machine-readable (it is what
`report.json` shows); the message says what was met, what was expected and what to do, and never holds patient data.
"""


class KneeGradeError(Exception):
    """Base of all errors kneegrade raises on purpose.

    Args:
        message: one sentence for a person.
        code: short stable name of the case; defaults to the class's `default_code`.
    """

    default_code = "error"

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code


class UnreadableFileError(KneeGradeError):
    """The file is not what it claims or is damaged: give another copy."""

    default_code = "unreadable"


class UnsupportedFileError(KneeGradeError):
    """The file is sound but of a kind that is not read: convert it or install what the message names."""

    default_code = "unsupported"


class LimitExceededError(KneeGradeError):
    """The file asks for more memory, time or nesting than allowed: raise the limit or reject the file."""

    default_code = "limit"


class WeightsError(KneeGradeError):
    """Weights are missing, damaged or do not fit: install them again."""

    default_code = "weights"


class RecipeError(KneeGradeError):
    """A recipe or manifest is wrong: mend the named field."""

    default_code = "recipe"


class CohortError(KneeGradeError):
    """A cohort's tables or folders are not what they should be: mend the named file, row and column."""

    default_code = "cohort"


class UsageError(KneeGradeError):
    """The call itself is wrong: mend the argument the message names."""

    default_code = "usage"

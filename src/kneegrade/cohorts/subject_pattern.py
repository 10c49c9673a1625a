"""The person of a film from its name."""

import re

from kneegrade.errors import UsageError


def subject_pattern(expression: str) -> re.Pattern[str]:
    """The compiled regular expression, whose first group is the person.

    Raises:
        UsageError: it is no regular expression, or has no group.
    """
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise UsageError(f"{expression!r} is not a regular expression: {error}.") from error
    if not pattern.groups:
        raise UsageError(f"{expression!r} has no group: put the part that is the person in parentheses.")
    return pattern

"""UIDs of derived objects: functions of what goes into a result, never of results, of the clock or of chance.

A UID is a UUID of version 5 (RFC 9562) below the root 2.25 (PS3.5 B.2). So the same film, software, weights and options
give the same UIDs on every machine, and an object that is sent again replaces nothing and adds nothing.
"""

import json
import uuid
from typing import Final

from kneegrade.imaging.own_pictures import IMPLEMENTATION_UID as IMPLEMENTATION_UID

NAMESPACE: Final = uuid.UUID("6f1cf0b0-6a0d-5c7e-9d0e-1f9b6b5a7a10")  # never changes: every UID depends on it


def uid_of(kind: str, *parts: str) -> str:
    """The UID of an entity of a kind that is identified by `parts`.

    Example:
        >>> uid_of("example", "a", "b")
        '2.25.137243504093316319936141645511416956424'
    """
    return f"2.25.{uuid_of(kind, *parts).int}"


def uuid_of(kind: str, *parts: str) -> uuid.UUID:
    """The UUID behind `uid_of`, for the full URLs of a FHIR Bundle."""
    return uuid.uuid5(NAMESPACE, json.dumps([kind, *parts]))


SCHEME_UID: Final = uid_of("coding scheme", "99KNEEGRADE")


def tracking_uid(sop_instance_uid: str, side: str, number: int, part: str = "") -> str:
    """The UID of a knee of a film (or of a part of it), the same in all revisions.

    Args:
        sop_instance_uid: of the film.
        side: of the knee, "R", "L" or "unknown".
        number: index of the knee on the film.
        part: "" for the knee, else for example "femur".
    """
    return uid_of("tracking", sop_instance_uid, side, str(number), part)

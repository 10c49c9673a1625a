"""`FilmRows`: the rows of one film, as a worker sends them to the process that writes them."""

from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class FilmRows:
    """The rows of one film: one of `films`, those of `knees` and one of `log`."""

    film: Row
    knees: list[Row]
    log: Row

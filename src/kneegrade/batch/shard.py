"""`Shard`: a fixed part of all films, chosen by a hash of their names, for runs that share the work."""

import hashlib
import re
from dataclasses import dataclass

from kneegrade.errors import UsageError

POSITIONS = 2**32  # of names in [0, POSITIONS), by their hash


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count` parts: an interval of the positions of names.

    Two shards have films in common exactly if their intervals overlap, whatever their counts are.

    Raises:
        UsageError: not 1 ≤ number ≤ count.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UsageError(f"The shard {self.number}/{self.count} does not exist; the first one is 1/{self.count}.")

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard of a text such as "3/64".

        Raises:
            UsageError: the text has another form.
        """
        if not re.fullmatch(r"\d+/\d+", text):
            raise UsageError(f"{text!r} is not a shard; give I/N, for example 3/64 for the third of 64 shards.")
        number, count = map(int, text.split("/"))
        return cls(number, count)

    @property
    def interval(self) -> tuple[int, int]:
        """First position, and first position after the last."""
        return (self.number - 1) * POSITIONS // self.count, self.number * POSITIONS // self.count

    def __contains__(self, name: str) -> bool:
        start, end = self.interval
        return start <= position(name) < end

    def overlaps(self, other: "Shard") -> bool:
        """Whether the two shards can have films in common."""
        (start, end), (other_start, other_end) = self.interval, other.interval
        return start < other_end and other_start < end

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def position(name: str) -> int:
    """The position of a film's name, which depends on nothing else."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:4], "big")

"""`Limits`: the resources that one input may use before it is rejected. The DICOM libraries have no such limits."""

from dataclasses import asdict, dataclass, fields

from kneegrade.errors import UsageError

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """Limits for one input; each is a positive number.

    Attributes:
        file_bytes: size of a file, checked before the file is opened.
        pixels: rows times columns declared by the header.
        nesting: depth of nested DICOM sequences.
        child_memory_bytes: address space of the decoding process.
        child_seconds: time in which the decoding process may make no progress with one file, in seconds
            (`stuck_process`); it may take ten times as long in all. Its processor time is limited by `cpu_limit`.
        zip_members: number of members in one zip archive.
        zip_member_bytes: uncompressed size of one member, which the calling process holds.
        zip_ratio: uncompressed size over compressed size of one member; not checked for members below 1 MiB.

    Raises:
        UsageError: a limit is zero, negative or not a number.
    """

    file_bytes: int = 256 * MEBIBYTE
    pixels: int = 100_000_000
    nesting: int = 32
    child_memory_bytes: int = 4096 * MEBIBYTE
    child_seconds: float = 60.0
    zip_members: int = 10_000
    zip_member_bytes: int = 240 * MEBIBYTE
    zip_ratio: float = 200.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not value > 0:
                raise UsageError(f"The limit {item.name} is {value}; expected a positive number.", code="limits")

    def as_dict(self) -> dict[str, int | float]:
        """The limits by name, as sent to the decoding process."""
        return asdict(self)

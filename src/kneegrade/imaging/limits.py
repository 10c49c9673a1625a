"""`Limits`: how much a file may ask for before it is refused. The DICOM stack has no such limits of its own."""

from dataclasses import asdict, dataclass, fields

from kneegrade.errors import UsageError

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """Caps on one input; every one of them must be a positive number.

    Attributes:
        file_bytes: size of a file, before it is opened.
        pixels: rows times columns that a header may declare.
        nesting: depth of sequences within sequences.
        child_memory_bytes: address space of the decoding process.
        child_seconds: wall time the decoding process may spend on one file.
        zip_members: entries of one archive.
        zip_member_bytes: unpacked size of one entry.
        zip_ratio: unpacked size over packed size of one entry; entries under a mebibyte are not asked.

    Raises:
        UsageError: a cap is zero, negative or not a number.
    """

    file_bytes: int = 256 * MEBIBYTE
    pixels: int = 100_000_000
    nesting: int = 32
    child_memory_bytes: int = 4096 * MEBIBYTE
    child_seconds: float = 60.0
    zip_members: int = 10_000
    zip_member_bytes: int = 256 * MEBIBYTE
    zip_ratio: float = 200.0

    def __post_init__(self) -> None:
        for item in fields(self):
            if not getattr(self, item.name) > 0:
                raise UsageError(f"The limit {item.name} must be a positive number.", code="limits")

    def as_dict(self) -> dict[str, int | float]:
        """The caps by name, as they travel to the decoding process."""
        return asdict(self)

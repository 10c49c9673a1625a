"""The shipped weights, their checksums and their descriptions."""

from kneegrade.weights.weights_file import (
    Weights,
    identity_of,
    load_part,
    load_weights,
    packed,
    read_description,
    save_weights,
    shipped_path,
    unpacked,
)

__all__ = [
    "Weights",
    "identity_of",
    "load_part",
    "load_weights",
    "packed",
    "read_description",
    "save_weights",
    "shipped_path",
    "unpacked",
]

"""The shipped weights, their checksums and their descriptions."""

from kneegrade.weights.files import (
    Weights,
    identity_of,
    load_part,
    load_weights,
    read_description,
    save_weights,
    shipped_path,
)

__all__ = [
    "Weights",
    "identity_of",
    "load_part",
    "load_weights",
    "read_description",
    "save_weights",
    "shipped_path",
]

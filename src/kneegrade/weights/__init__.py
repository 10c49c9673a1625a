"""Files of network weights with checksums, the weights shipped with the package, and fusion for inference."""

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

"""Files of network weights with checksums, the weights shipped with the package, and fusion for inference."""

from kneegrade.weights.forked_process import check_process
from kneegrade.weights.weights_file import (
    SHIPPED,
    Weights,
    load_part,
    load_weights,
    packed,
    read_description,
    save_weights,
    shipped_path,
    unpacked,
    weights_reference,
)

__all__ = [
    "SHIPPED",
    "Weights",
    "check_process",
    "load_part",
    "load_weights",
    "packed",
    "read_description",
    "save_weights",
    "shipped_path",
    "unpacked",
    "weights_reference",
]

"""The shipped weights, their checksums and their descriptions."""

from kneegrade.weights.files import Weights, load_part, load_weights, read_description, save_weights, shipped_path

__all__ = ["Weights", "load_part", "load_weights", "read_description", "save_weights", "shipped_path"]

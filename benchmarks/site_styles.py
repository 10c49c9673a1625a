"""Images in the styles of a simulated unseen hospital."""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray

from kneegrade.imaging.styles import apply_styles, make_style_params


def styled(pixels: NDArray[np.float32], name: str, *, family: str, strength: float = 1.0) -> NDArray[np.float32]:
    """(S, S) image in one style, drawn by a hash of the name: the same image always gets the same style.

    Args:
        pixels: (S, S) float32 in [0, 1], bone bright, a single knee.
        name: of the image.
        family: of `kneegrade.imaging.styles.FAMILIES`.
        strength: see `make_style_params`.
    """
    seed = int.from_bytes(hashlib.sha256(f"{family}:{name}".encode()).digest()[:6])
    params = make_style_params(1, torch.Generator().manual_seed(seed), families=(family,), strength=strength)
    crop = torch.from_numpy(np.ascontiguousarray(pixels))[None, None]
    return np.asarray(apply_styles(crop, torch.ones_like(crop, dtype=torch.bool), params)[0][0, 0].numpy())

"""Networks prepared for inference: compute device, batch normalisations fused into convolutions."""

from copy import deepcopy
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kneegrade.errors import UsageError
from kneegrade.weights.forked_process import check_process

Network = TypeVar("Network", bound=nn.Module)


def choose_device(device: str) -> str:
    """The torch device, "cuda" or "cpu", for "auto", "cpu" or "cuda".

    Raises:
        UsageError: another word, or CUDA where it is not available; or a forked process, see `check_process`.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"Device {device!r} is unknown; use auto, cpu or cuda.")
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise UsageError("No CUDA device is available; use --device cpu.")
    chosen = "cuda" if available and device != "cpu" else "cpu"
    check_process(chosen)
    return chosen


def fuse_batchnorm(network: Network) -> Network:
    """A copy in evaluation mode, with every batch normalisation fused into the convolution before it.

    The copy gives the same output up to rounding and reads and writes memory fewer times. A batch normalisation that is
    registered directly after a convolution is assumed to follow it in the forward pass, as in all networks of this
    package.
    """
    fused = deepcopy(network).eval()
    for module in list(fused.modules()):
        for (conv_name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return fused

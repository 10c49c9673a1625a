"""Pooling of the feature map: at landmarks (paper, section 2.1), over the whole map, or over two patches.

B is the batch size, N the number of landmarks, C the number of channels, (h, w) the size of the feature map.
"""

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional


def pool_at_landmarks(features: Tensor, landmarks_px: Tensor, visible: Tensor, stride: int, offset: int = 0) -> Tensor:
    r"""Return f_a = [h(f, c_1) … h(f, c_N)] of the paper: the features at the landmarks, (B, N, C) float32.

    In a ResNet, cell j of a map with stride s is centred on pixel s·j (the centre of the first pixel is 0). A landmark
    at x is therefore read at x/s by bilinear interpolation, clamped to the first and last cell. In a network with
    TensorFlow's padding the first cell is centred on pixel s - 1, and the landmark is read at (x - (s - 1))/s.

    Args:
        features: f, (B, C, h, w).
        landmarks_px: c, (B, N, 2), (x, y) in pixels of the network's input.
        visible: (B, N) bool; the features of a landmark that is not visible are zero.
        stride: s, pixels of the input per cell of the map.
        offset: pixel of the input on which the first cell is centred.

    Example:
        In a map of its own column numbers, the value at a landmark is x/stride:

        >>> f = torch.arange(5.0).expand(1, 1, 4, 5)
        >>> at = torch.tensor([[[24.0, 16.0]]])
        >>> pool_at_landmarks(f, at, torch.ones(1, 1, dtype=torch.bool), 16).item()
        1.5
    """
    height, width = features.shape[-2:]
    last = torch.tensor([width - 1, height - 1], device=features.device, dtype=torch.float32)
    cells = torch.minimum(((landmarks_px.float() - offset) / stride).clamp(min=0), last)  # (B, N, 2)
    grid = rearrange(2 * cells / last.clamp(min=1) - 1, "b n xy -> b n 1 xy")  # in [-1, 1]
    read = functional.grid_sample(features.float(), grid, mode="bilinear", padding_mode="border", align_corners=True)
    return rearrange(read, "b c n 1 -> b n c") * rearrange(visible, "b n -> b n 1")  # (B, N, C)


def global_average(features: Tensor) -> Tensor:
    """Return the mean over the map: (B, C, h, w) → (B, 1, C) float32."""
    return rearrange(features.float().mean((2, 3)), "b c -> b 1 c")


def masked_average(features: Tensor, inside: Tensor | None) -> Tensor:
    """Return the mean over the cells on the film: (B, C, h, w) → (B, 1, C) float32.

    The weight of a cell is the share of its pixels that are on the film.

    Args:
        features: (B, C, h, w).
        inside: (B, 1, H, W) bool, pixels on the film; None: all. An image without any such pixel has mean 0.

    Example:
        >>> f, half = torch.tensor([[[[1.0, 5.0]]]]), torch.tensor([[[[True, False]]]])
        >>> masked_average(f, half).item(), masked_average(f, None).item()
        (1.0, 3.0)
    """
    if inside is None:
        return global_average(features)
    height, width = features.shape[-2:]
    weight = functional.adaptive_avg_pool2d(inside.float(), (height, width))  # (B, 1, h, w)
    mean = (features.float() * weight).sum((2, 3)) / weight.sum((2, 3)).clamp(min=1e-6)
    return rearrange(mean, "b c -> b 1 c")


def visible_mean(at_landmarks: Tensor, visible: Tensor) -> Tensor:
    """Return the mean over the visible landmarks: (B, N, R) → (B, R); zero if none is visible.

    Args:
        at_landmarks: (B, N, R) float, finite.
        visible: (B, N) bool.

    Example:
        >>> at = torch.tensor([[[1.0], [3.0], [99.0]]])
        >>> visible_mean(at, torch.tensor([[True, True, False]])).item()
        2.0
    """
    weight = rearrange(visible, "b n -> b n 1").to(at_landmarks.dtype)
    return (at_landmarks * weight).sum(1) / weight.sum(1).clamp(min=1)


def siamese_patches(roi: Tensor) -> Tensor:
    """Return the lateral patch and the mirrored medial patch of every crop, one after the other along the batch.

    Tiulpin et al. (2018) cut two squares of 128 of 300 pixels at the sides of the joint. Here a patch is the square of
    side S/2 in the middle of one half of the crop. It contains its side of the joint, which is in the middle of the
    crop.

    Args:
        roi: (B, 1, S, S), lateral on the left of the image.

    Returns:
        (2·B, 1, S/2, S/2): all lateral patches, then all medial ones, each with the middle of the joint on its right.
    """
    half = roi.shape[-1] // 2
    rows = roi[:, :, half // 2 : half // 2 + half]  # (B, 1, S/2, S)
    return torch.cat([rows[..., :half], rows[..., -half:].flip(-1)])

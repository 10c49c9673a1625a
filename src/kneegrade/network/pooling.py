"""Where a feature map is read: at landmarks (paper, section 2.1), everywhere, or as the mean of two patches."""

import torch
from torch import Tensor
from torch.nn import functional


def pool_at_landmarks(features: Tensor, landmarks_px: Tensor, visible: Tensor, stride: int) -> Tensor:
    r"""[h(f, c_1) … h(f, c_N)], the paper's f_a, as (B, N, C).

    In a ResNet the cell j of a map of stride s is centred on pixel s·j (the first pixel's centre is 0), so a landmark
    at x is read at x/s, clamped to the map's first and last cell.

    Args:
        features: (B, C, h, w) feature map.
        landmarks_px: (B, N, 2) (x, y) in pixels of the network's input.
        visible: (B, N) bool; a landmark that is not visible gives a zero vector.
        stride: pixels of the input per cell of the map.

    Example:
        A map that holds its own column number gives x/stride back:

        >>> f = torch.arange(5.0).expand(1, 1, 4, 5)
        >>> at = torch.tensor([[[24.0, 16.0]]])
        >>> pool_at_landmarks(f, at, torch.ones(1, 1, dtype=torch.bool), 16).item()
        1.5
    """
    height, width = features.shape[-2:]
    last = torch.tensor([width - 1, height - 1], device=features.device, dtype=torch.float32)
    cells = torch.minimum((landmarks_px.float() / stride).clamp(min=0), last)  # (B, N, 2)
    grid = (2 * cells / last.clamp(min=1) - 1).unsqueeze(2)  # (B, N, 1, 2)
    read = functional.grid_sample(features.float(), grid, mode="bilinear", padding_mode="border", align_corners=True)
    return read.squeeze(-1).transpose(1, 2) * visible.unsqueeze(-1)  # (B, N, C)


def global_average(features: Tensor) -> Tensor:
    """The mean over the map: (B, C, h, w) → (B, 1, C) float32."""
    return features.float().mean((2, 3)).unsqueeze(1)


def visible_mean(at_landmarks: Tensor, visible: Tensor) -> Tensor:
    """The mean over the visible landmarks: (B, N, R) → (B, R); zero where none is visible.

    Args:
        at_landmarks: (B, N, R) float, finite.
        visible: (B, N) bool.

    Example:
        >>> at = torch.tensor([[[1.0], [3.0], [99.0]]])
        >>> visible_mean(at, torch.tensor([[True, True, False]])).item()
        2.0
    """
    weight = visible.unsqueeze(-1).to(at_landmarks.dtype)
    return (at_landmarks * weight).sum(1) / weight.sum(1).clamp(min=1)


def siamese_patches(roi: Tensor) -> Tensor:
    """The lateral patch and the mirrored medial patch of every region, one above the other in the batch.

    Tiulpin et al. (2018) cut two squares of 128 of 300 pixels at the joint's sides. Ours are the two halves' middle
    squares of side S/2, which hold the joint, since it lies in the region's middle.

    Args:
        roi: (B, 1, S, S), lateral on the image's left.

    Returns:
        (2 B, 1, S/2, S/2): all lateral patches, then all medial ones, each with the joint's middle on its right.
    """
    half = roi.shape[-1] // 2
    rows = roi[:, :, half // 2 : half // 2 + half]
    return torch.cat([rows[..., :half], rows[..., -half:].flip(-1)])

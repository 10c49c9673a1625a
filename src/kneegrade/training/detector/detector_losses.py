"""Losses of the landmark detector's networks."""

import torch
from torch import Tensor
from torch.nn import functional

from kneegrade.anatomy.knee_localizer import CENTRE, DOWN_X, DOWN_Y, LOCALIZER_PX, LOCALIZER_STRIDE, LOG_WIDTH
from kneegrade.anatomy.landmark_networks import LANDMARK_STRIDE, soft_argmax
from kneegrade.training.detector.scenes import POSE_LENGTH

Output = tuple[Tensor, Tensor]


def localizer_loss(output: Output, poses: Tensor) -> Tensor:
    """Penalty-reduced focal loss on the centre map plus L1 on log width and direction; scalar.

    The focal loss is that of Law and Deng (CornerNet, ECCV 2018). L1 counts in the 3×3 cells about each centre.

    Args:
        output: maps (B, 4, h, w), and a second element that is not used.
        poses: (B, 2, 5) centre x, y, plateau width in pixels, downward direction x, y; NaN where there is no knee.
    """
    maps = output[0].float()
    poses = poses.reshape(len(poses), -1, POSE_LENGTH)
    size = maps.shape[-1]
    y, x = torch.meshgrid(*2 * [torch.arange(size, device=maps.device)], indexing="ij")
    cells = poses[..., :2] / LOCALIZER_STRIDE  # (B, 2, 2)
    distance = ((x - cells[..., 0, None, None]) ** 2 + (y - cells[..., 1, None, None]) ** 2).nan_to_num(1e6)  # squared
    heat = torch.exp(-distance / 2).amax(1)  # (B, h, w), one cell standard deviation
    peak = (distance.amin(1) <= 0.5) & (heat > 0)
    score = torch.sigmoid(maps[:, CENTRE]).clamp(1e-5, 1 - 1e-5)
    positive = -((1 - score) ** 2) * score.log() * peak
    negative = -((1 - heat) ** 4) * score**2 * (1 - score).log() * ~peak
    focal = (positive.sum() + negative.sum()) / peak.sum().clamp(min=1)
    nearest = distance.argmin(1)  # knee that each cell belongs to
    near = distance.amin(1) <= 2.3
    truth = torch.gather(poses.nan_to_num(1.0), 1, nearest.flatten(1).unsqueeze(-1).expand(-1, -1, POSE_LENGTH))
    truth = truth.reshape(-1, size, size, POSE_LENGTH)
    error = (maps[:, LOG_WIDTH] - (truth[..., 2] / LOCALIZER_PX).log()).abs()
    error = error + (maps[:, DOWN_X] - truth[..., 3]).abs() + (maps[:, DOWN_Y] - truth[..., 4]).abs()
    return focal + (error * near).sum() / near.sum().clamp(min=1)


def landmark_loss(output: Output, points_px: Tensor, weight: Tensor, correct: Tensor) -> Tensor:
    """Mean over landmarks of the maps' cross entropy and the expectation's L1, plus 0.3 times the score's loss; scalar.

    The target of a map is a Gaussian of one cell about its landmark, so that the spread of a predicted map beyond one
    cell expresses the network's uncertainty. L1 is in cells; the score has a binary cross entropy.

    Args:
        output: maps (B, 74, h, w), and the logit (B,) that the crop is as it should be.
        points_px: (B, 74, 2) landmarks in pixels of the crop.
        weight: (B, 74) weight of each landmark, 0 where it is not known.
        correct: (B,) 1 where the crop is neither mirrored nor misplaced, else 0.
    """
    maps, score = output
    cells = points_px / LANDMARK_STRIDE
    expectation, _ = soft_argmax(maps)
    height, width = maps.shape[-2:]
    # The Gaussian is separable. Where it extends over the border, the part inside is normalised to 1.
    x = functional.softmax(-((torch.arange(width, device=maps.device) - cells[..., :1]) ** 2) / 2, dim=-1)
    y = functional.softmax(-((torch.arange(height, device=maps.device) - cells[..., 1:]) ** 2) / 2, dim=-1)
    logits = maps.float()
    entropy = logits.flatten(2).logsumexp(-1) - torch.einsum("bnhw,bnh,bnw->bn", logits, y, x)
    offset = functional.smooth_l1_loss(expectation, cells, reduction="none", beta=0.1).sum(-1)
    orientation = functional.binary_cross_entropy_with_logits(score.float(), correct)
    return ((entropy + offset) * weight).sum() / weight.sum().clamp(min=1) + 0.3 * orientation

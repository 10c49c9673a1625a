import numpy as np
import torch
from torch import nn

from kneegrade.anatomy.joint_space import gap_at, joint_space_width
from kneegrade.anatomy.landmarks import FEMUR_ARTICULAR
from kneegrade.anatomy.locator import FINE, LOCATOR_STRIDE
from kneegrade.anatomy.roi import roi_frame
from kneegrade.learning.joint_lines import OFFSET, SCALE, redrawn_joint_lines
from kneegrade.learning.store import STORE_PX, load_stores


class Sees(nn.Module):
    """A locator that sees given landmarks (B, 74, 2) in pixels of its square."""

    def __init__(self, points_px):
        super().__init__()
        self.cells = torch.from_numpy(points_px).float() / LOCATOR_STRIDE

    def forward(self, squares):
        side = FINE.size_px // LOCATOR_STRIDE
        x, y = torch.arange(side), torch.arange(side)
        down = (y - self.cells[..., 1:]) ** 2
        maps = -2 * (down[..., :, None] + ((x - self.cells[..., :1]) ** 2)[..., None, :])
        return maps, torch.zeros(len(squares))


def test_the_joint_space_becomes_what_the_network_sees_on_the_tables_scale(phantom_store):
    store = load_stores((phantom_store,))
    pictures, points = store.images[:6], store.landmarks_px[:6]
    seen = points.astype(np.float64).copy()
    seen[:, list(FEMUR_ARTICULAR), 1] += 0.008 * STORE_PX / 1.5  # a joint narrower by 0.8 % of the width
    squares = [roi_frame(p.astype(np.float64), FINE.size_px, FINE.widths) for p in points]
    network = Sees(np.stack([frame.to_roi(p) for frame, p in zip(squares, seen, strict=True)]))
    redrawn = redrawn_joint_lines(network, pictures, points)
    width = STORE_PX / 1.5
    for new, old, there in zip(redrawn, points, seen, strict=True):
        wanted = np.maximum(SCALE * gap_at(there, np.array([0.825])) + OFFSET * width, 0)
        change = np.clip(wanted - gap_at(old, np.array([0.825])), -0.05 * width, 0.05 * width)
        got = joint_space_width(new.astype(np.float64)).lateral
        assert abs(got - (gap_at(old, np.array([0.825])) + change)[0]) < 0.004 * width
        np.testing.assert_array_equal(new[:, 0], old[:, 0])
        outside = [*range(12), *range(25, 47), *range(64, 74), 18, 55]
        np.testing.assert_array_equal(new[outside], old[outside])

import numpy as np

from kneegrade.phantom.implants import KINDS
from kneegrade.phantom.phantom_knee import sample_knee


def test_all_kinds_of_implants_occur_and_replaced_joints_cannot_be_graded():
    knees = [sample_knee(4, index, implants=1.0) for index in range(60)]
    assert {knee.implant.kind for knee in knees} == set(KINDS)
    for knee in knees:
        assert knee.gradable == (knee.implant.kind not in ("total_knee", "partial_knee"))
        assert knee.implant.bars
    assert not any(sample_knee(4, index).implant for index in range(20))
    has_implant = [sample_knee(4, index, implants=0.25).implant is not None for index in range(400)]
    assert 0.18 < np.mean(has_implant) < 0.32

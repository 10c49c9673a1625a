from dataclasses import replace

import numpy as np

from kneegrade.phantom.bones import bones_of
from kneegrade.phantom.phantom_knee import sample_knee

KNEES = [sample_knee(11, index, "paper") for index in range(60)]


def distance_to_polygon(points, point):
    """Distance from a point to a closed polygon."""
    edge = np.roll(points, -1, axis=0) - points
    share = ((point - points) * edge).sum(1) / np.maximum((edge**2).sum(1), 1e-12)
    return np.hypot(*(points + share.clip(0, 1)[:, None] * edge - point).T).min()


def test_bones_have_spurs_of_the_drawn_length_and_none_at_margins_of_grade_zero():
    seen = set()
    for knee in KNEES:
        for number, bone in enumerate(("femur", "tibia")):
            points = bones_of(knee)[number].points
            smooth = replace(knee.build, roughness_mm=0.0)
            plain = bones_of(replace(knee, spurs=(), build=smooth))[number].points
            near = points[np.abs(points[:, 1]) < 60]
            distance = np.array([distance_to_polygon(plain, point) for point in near])
            for side, own in (("lateral", near[:, 0] < -15), ("medial", near[:, 0] > 15)):
                spurs = [spur for spur in knee.spurs if spur.target == f"osteophyte_{bone}_{side}"]
                if spurs:
                    # the tip of a tilted spur is closer to the margin than its length
                    assert 0.5 * spurs[0].length_mm < distance[own].max() < spurs[0].length_mm + 0.6
                    seen.add(spurs[0].grade)
                else:
                    assert distance[own].max() < 0.6
    assert seen == {1, 2, 3}


def test_landmarks_lie_on_the_joint_surfaces():
    for knee in KNEES[:40]:
        femur, tibia, _ = bones_of(replace(knee, spurs=()))
        for numbers, bone in ((range(12, 25), femur), (range(47, 64), tibia)):
            for number in numbers:
                assert distance_to_polygon(bone.points, knee.outline_mm[number]) < 0.25

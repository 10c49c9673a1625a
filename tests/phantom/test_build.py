import numpy as np

from kneegrade.phantom.phantom_knee import sample_knee


def test_cysts_and_sclerosis_increase_with_narrowing():
    knees = [sample_knee(6, index, "uniform") for index in range(200)]
    narrowed = np.array([knee.grades["jsn_medial"] >= 2 for knee in knees])
    cysts = np.array([len(knee.build.cysts) for knee in knees])
    sclerosis = np.array([knee.build.sclerosis_medial for knee in knees])
    assert cysts[narrowed].mean() > 3 * cysts[~narrowed].mean()
    assert sclerosis[narrowed].mean() > sclerosis[~narrowed].mean() + 0.3

import pytest
import torch

from kneegrade.phantom.rois import Placement
from kneegrade.phantom.texture import blurred, normal_pair, trabeculae


def test_noise_is_normal_and_depends_only_on_key_and_stream():
    keys = torch.tensor([5, 6, 2**31 - 1])
    one, two = normal_pair(keys, 0, (300, 301))
    for field in (*one, *two):
        assert abs(float(field.mean())) < 0.02
        assert abs(float(field.std()) - 1) < 0.02
        assert abs(float((field**4).mean()) - 3) < 0.12
        lag_one = torch.corrcoef(torch.stack([field[:, :-1].flatten(), field[:, 1:].flatten()]))[0, 1]
        assert abs(float(lag_one)) < 0.02
    fields = [one[0], one[1], one[2], two[0], normal_pair(keys, 1, (300, 301))[0][0]]
    correlation = torch.corrcoef(torch.stack([field.flatten() for field in fields])) - torch.eye(5)
    assert float(correlation.abs().max()) < 0.02
    torch.testing.assert_close(normal_pair(keys[1:2], 0, (300, 301))[0][0], one[1], rtol=0, atol=0)


def test_each_image_is_blurred_by_a_gaussian_of_its_own_width():
    impulse = torch.zeros(2, 61, 61)
    impulse[:, 30, 30] = 1
    blurs = blurred(impulse, [2.0, 5.0])
    offset = torch.arange(61.0) - 30
    for image, sigma in zip(blurs, (2.0, 5.0), strict=True):
        assert float(image.sum()) == pytest.approx(1.0, abs=1e-4)
        assert float((image.sum(0) * offset**2).sum().sqrt()) == pytest.approx(sigma, rel=0.03)
    torch.testing.assert_close(blurred(impulse[:1], [2.0])[0], blurs[0])


def test_strands_run_along_the_leg():
    for angle, along_rows in ((0.0, True), (90.0, False)):
        to_mm = torch.from_numpy(Placement.of((0.0, 0.0), 3.0, angle, False).to_mm_matrix()).float().unsqueeze(0)
        field = trabeculae(torch.tensor([3]), (256, 256), to_mm)[0]
        assert float(field.std()) == pytest.approx(1.0, abs=0.25)
        down = float((field[3:] * field[:-3]).mean())
        across = float((field[:, 3:] * field[:, :-3]).mean())
        assert (down > across) == along_rows

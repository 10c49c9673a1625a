"""The look of one site on the crops of another."""

import numpy as np
import pytest
from PIL import Image


def picture(angle_deg=0.0, stretch=1.0, mirrored=False):
    """A noise image whose landmarks are the mean shape, rotated, then stretched horizontally."""
    from knee_logits import Picture
    from site_look import mean_shape

    angle = np.deg2rad(angle_deg)
    points = mean_shape() @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) * 2
    points = points * [-1 if mirrored else 1, 1] + 200
    grey = np.random.default_rng(0).integers(0, 255, (400, 400)).astype(np.float32)
    pixels = np.asarray(Image.fromarray(grey).resize((round(400 * stretch), 400)))
    return Picture(pixels, (points + 0.5) * [stretch, 1] - 0.5)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("angle_deg", [0, 12])
@pytest.mark.parametrize("stretch", [0.9, 1.0, 1.25])
def test_anisotropy_is_the_stretch_whatever_side_and_rotation(stretch, angle_deg, mirrored):
    from site_look import anisotropy

    own = picture(angle_deg, stretch, mirrored)
    assert anisotropy(own.landmarks_px, own.pixels.shape) == pytest.approx(stretch, rel=1e-6)


def test_a_stretched_picture_gets_equal_scales_and_a_natural_one_is_kept():
    from site_look import anisotropy, without_anisotropy

    own = picture(stretch=1.25)
    restored = without_anisotropy(own)
    assert restored.pixels.shape == (400, 400)
    assert anisotropy(restored.landmarks_px, restored.pixels.shape) == pytest.approx(1, rel=1e-6)
    natural = picture(stretch=1.05)
    assert without_anisotropy(natural) is natural


def test_the_look_has_the_templates_size_scale_and_grey_levels():
    from site_look import Template, anisotropy, in_look, levels
    from kneegrade.anatomy.geometry import pose_of

    template = Template.of(picture(stretch=1.2))
    plain = picture()
    look = in_look(plain, template)
    assert look.pixels.shape == template.picture.pixels.shape
    assert anisotropy(look.landmarks_px, look.pixels.shape) == pytest.approx(1.2, rel=0.01)
    assert pose_of(look.landmarks_px).width == pytest.approx(pose_of(template.picture.landmarks_px).width, rel=0.01)
    wanted = levels(template.picture.pixels, template.picture.landmarks_px)
    assert np.abs(levels(look.pixels, look.landmarks_px) - wanted).max() < 2


def test_landmarks_stay_on_the_tissue():
    from knee_logits import Picture
    from site_look import Template, in_look

    plain = picture()
    x, y = np.rint(plain.landmarks_px[50]).astype(int)
    pixels = np.zeros((400, 400), dtype=np.float32)
    pixels[y - 2 : y + 3, x - 2 : x + 3] = 200
    look = in_look(Picture(pixels, plain.landmarks_px), Template.of(picture(stretch=1.2)), ("crop", "anisotropy"))
    row, column = np.unravel_index(look.pixels.argmax(), look.pixels.shape)
    assert np.hypot(*(look.landmarks_px[50] - [column, row])) < 3.5

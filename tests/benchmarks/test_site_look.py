"""The look of one site on the crops of another."""

import numpy as np
import pytest
from PIL import Image


def picture(stretch=1.0):
    """A noise image whose landmarks are a natural outline, stretched horizontally."""
    from knee_logits import Picture

    from kneegrade.anatomy.shape_model import ShapeModel

    coefficients = ShapeModel.load().coefficients_mm
    points = (coefficients[0] + coefficients[1]) * 2 + 200
    grey = np.random.default_rng(0).integers(0, 255, (400, 400)).astype(np.float32)
    pixels = np.array(Image.fromarray(grey).resize((round(400 * stretch), 400)))
    return Picture(pixels, (points + 0.5) * [stretch, 1] - 0.5)


def test_a_picture_without_its_stretch_is_natural():
    from site_look import without_anisotropy

    from kneegrade.anatomy.pixel_aspect import scale_ratio

    restored = without_anisotropy(picture(stretch=1.25), 1.25)
    assert restored.pixels.shape == (400, 400)
    assert scale_ratio(restored.landmarks_px, restored.pixels.shape) == pytest.approx(1, rel=1e-6)


def test_the_look_has_the_templates_size_scale_and_grey_levels():
    from site_look import Template, in_look, levels

    from kneegrade.anatomy.geometry import pose_of
    from kneegrade.anatomy.pixel_aspect import scale_ratio

    template = Template(picture(stretch=1.2), 1.2)
    plain = picture()
    look = in_look(plain, template)
    assert look.pixels.shape == template.picture.pixels.shape
    assert scale_ratio(look.landmarks_px, look.pixels.shape) == pytest.approx(template.anisotropy, rel=0.01)
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
    look = in_look(Picture(pixels, plain.landmarks_px), Template(picture(stretch=1.2), 1.2), ("crop", "anisotropy"))
    row, column = np.unravel_index(look.pixels.argmax(), look.pixels.shape)
    assert np.hypot(*(look.landmarks_px[50] - [column, row])) < 3.5

"""Processing styles: the draw, and the application to batches of any size."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from kneegrade.imaging.style_filters import CROP_MM, blur_mm, local_equalisation, tone_curve
from kneegrade.imaging.styles import (
    FAMILIES,
    TRAINING_FAMILIES,
    UNSEEN_FAMILIES,
    apply_styles,
    make_style_params,
)
from kneegrade.phantom import render_rois, sample_knee


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def knees():
    """Four phantoms of 160 px; the last rows and columns of two of them are outside the film."""
    crops = render_rois([sample_knee(3, index) for index in range(4)], 160)[0].unsqueeze(1).clamp(0, 1)
    covered = torch.ones_like(crops, dtype=torch.bool)
    covered[1, :, 140:], covered[2, :, :, 150:] = False, False
    return crops * covered, covered


def drawn(batch=4, seed=0, **settings):
    return make_style_params(batch, generator(seed), **settings)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_gives_what_each_knee_gives_alone(family, knees):
    crops, covered = knees
    params = drawn(families=(family,))
    together, left = apply_styles(crops, covered, params)
    for index in range(len(crops)):
        alone, own = apply_styles(crops[[index]], covered[[index]], params.select(torch.tensor([index])))
        # Rounding to grey levels and JPEG coefficients may turn differences of 1e-7 into one step at a few pixels.
        assert ((alone[0] - together[index]).abs() > 1e-4).float().mean() < 1e-3
        assert torch.equal(own[0], left[index])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size_px", [101, 144])
def test_styled_pictures_are_grey_values_on_what_is_covered(family, size_px):
    crops = torch.rand(2, 1, size_px, size_px, generator=generator())
    covered = torch.ones_like(crops, dtype=torch.bool)
    covered[:, :, :9] = False
    styled, left = apply_styles(crops, covered, drawn(2, families=(family,)))
    assert styled.shape == crops.shape
    assert styled.dtype == torch.float32
    assert styled.min() >= 0
    assert styled.max() <= 1
    assert not styled[~left].any()
    assert not (left & ~covered).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_changes_the_picture(family, knees):
    crops, covered = knees
    styled, left = apply_styles(crops, covered, drawn(families=(family,), seed=1))
    assert not torch.equal(styled, crops) or not torch.equal(left, covered)


def test_strength_0_changes_only_rounding(knees):
    """At strength 0 all grey values stay, but for quantisation at 8 bits, JPEG at quality 100 and lower pixels."""
    crops, covered = knees
    params = drawn(families=tuple(FAMILIES), strength=0.0, family_probability=1.0)
    styled, left = apply_styles(crops, covered, params)
    assert torch.equal(left, covered)
    assert (styled - crops)[covered].abs().max() < 0.02


def test_knees_without_a_style_stay_as_they_are(knees):
    crops, covered = knees
    params = drawn(probability=0.5, seed=2)
    assert params.styled.tolist() == [False, True, False, True]
    styled, _ = apply_styles(crops, covered, params)
    assert torch.equal(styled[~params.styled], crops[~params.styled])


def test_undrawn_families_have_neutral_parameters():
    params = drawn(64, families=("unsharp", "tone_curve"), family_probability=0.3)
    for family, values in params.values.items():
        for key, value in values.items():
            assert (value[~params.drawn[family]] == FAMILIES[family].ranges[key].neutral).all()


def test_parameters_fill_their_ranges_and_scale_with_strength():
    full, half = (drawn(2000, families=("multiscale",), strength=s).values["multiscale"] for s in (1.0, 0.5))
    low, high = FAMILIES["multiscale"].ranges["exponent"].low, FAMILIES["multiscale"].ranges["exponent"].high
    assert full["exponent"].min() == pytest.approx(low, abs=0.01)
    assert full["exponent"].max() == pytest.approx(high, abs=0.01)
    torch.testing.assert_close(half["exponent"] - 1, (full["exponent"] - 1) / 2)


def test_training_never_draws_the_unseen_families():
    params = drawn(500)
    assert not any(params.drawn[name].any() for name in UNSEEN_FAMILIES)
    assert all(params.drawn[name].any() for name in TRAINING_FAMILIES)


def test_a_style_has_at_least_one_family():
    params = drawn(200, family_probability=0.0)
    assert (torch.stack(list(params.drawn.values())).sum(0) == 1).all()


def test_an_unknown_family_is_an_error():
    with pytest.raises(KeyError, match="solarisation"):
        drawn(families=("solarisation",))


def test_the_same_seed_draws_the_same_styles_and_pictures(knees):
    crops, covered = knees
    first, second = (apply_styles(crops, covered, drawn(families=tuple(FAMILIES), seed=5))[0] for _ in range(2))
    assert torch.equal(first, second)


def test_inputs_are_not_changed(knees):
    crops, covered = knees
    before, coverage = crops.clone(), covered.clone()
    apply_styles(crops, covered, drawn(families=tuple(FAMILIES), family_probability=1.0))
    assert torch.equal(crops, before)
    assert torch.equal(covered, coverage)


def test_collimation_leaves_the_joint():
    covered = torch.ones(200, 1, 100, 100, dtype=torch.bool)
    _, left = apply_styles(torch.rand(200, 1, 100, 100), covered, drawn(200, families=("collimation",)))
    assert left[:, :, 30:70, 7:93].all()
    assert 0.5 < left.float().mean() < 0.95


def test_markers_leave_the_joint():
    crops = torch.zeros(200, 1, 100, 100)
    styled, _ = apply_styles(crops, torch.ones_like(crops, dtype=torch.bool), drawn(200, families=("markers",)))
    assert not styled[:, :, 42:58].any()
    assert not styled[:, :, 12:88, 12:88].any()
    assert (styled.flatten(1).max(1).values > 0.3).float().mean() > 0.9


def test_quantum_noise_grows_with_attenuation():
    """The standard deviation at x = 1 is exp(μ/2) times that at x = 0."""
    crops = torch.full((1, 1, 200, 200), 0.3)
    crops[..., 100:] = 0.7
    params = drawn(1, families=("quantum_noise",))
    params.values["quantum_noise"].update(attenuation=torch.tensor([2.0]), correlation_mm=torch.tensor([0.0]))
    styled, _ = apply_styles(crops, torch.ones_like(crops, dtype=torch.bool), params)
    ratio = styled[..., 100:].std() / styled[..., :100].std()
    assert float(ratio) == pytest.approx(np.exp(2 * 0.4 / 2), rel=0.03)


def test_tone_curves_are_monotone():
    values = drawn(50, families=("tone_curve",)).values["tone_curve"]
    ramp = torch.linspace(0, 1, 101).expand(50, 1, 1, 101)
    mapped = tone_curve(ramp, values)
    assert (mapped.diff(dim=-1) >= 0).all()
    torch.testing.assert_close(mapped[..., [0, -1]], ramp[..., [0, -1]])


def test_jpeg_agrees_with_pillow(knees):
    """The picture is that of libjpeg at the same quality, but for the rounding of decoded pixels."""
    picture = (knees[0][0, 0] * 255).round()
    file = io.BytesIO()
    Image.fromarray(picture.byte().numpy()).save(file, "JPEG", quality=40)
    expected = torch.from_numpy(np.asarray(Image.open(file), dtype=np.float32))
    params = drawn(1, families=("jpeg",))
    params.values["jpeg"]["quality"] = torch.tensor([40.0])
    covered = torch.ones(1, 1, 160, 160, dtype=torch.bool)
    styled = apply_styles((picture / 255)[None, None], covered, params)[0][0, 0] * 255
    assert (styled - expected).abs().mean() < 0.5
    assert (styled - expected).abs().mean() < 0.2 * (picture - expected).abs().mean()


def test_blur_agrees_with_scipy(knees):
    from scipy.ndimage import gaussian_filter

    crop = knees[0][:1]
    expected = gaussian_filter(crop[0, 0].numpy(), 3.0, truncate=8)
    blurred = blur_mm(crop, torch.tensor([3.0 * CROP_MM / 160]))
    np.testing.assert_allclose(blurred[0, 0, 20:-20, 20:-20], expected[20:-20, 20:-20], atol=1e-4)


def test_local_equalisation_flattens_the_histogram():
    crops = torch.rand(1, 1, 180, 180, generator=generator()) ** 3
    values = {"clip": torch.tensor([64.0]), "share": torch.tensor([1.0])}
    equalised = local_equalisation(crops, values)
    counts = torch.histc(equalised, 10, 0, 1) / equalised.numel()
    assert counts.max() < 0.16
    assert torch.histc(crops, 10, 0, 1).max() / crops.numel() > 0.4

import matplotlib
import numpy as np
import pytest
import torch

from kneegrade.anatomy.marker_networks import (
    MIRRORED_CLASS,
    MarkerClassifier,
    MarkerLocator,
    Proposal,
    marker_crops,
    proposals_of,
    reduced_film,
)
from kneegrade.anatomy.marker_reader import MarkerReader, marker_of, save_marker_weights
from kneegrade.errors import UsageError
from kneegrade.training.markers import marker_text
from kneegrade.training.markers.marker_drawings import DrawnMarker, background_patch, draw_distractor, draw_marker
from kneegrade.training.markers.train_markers import fit_markers, locator_targets


def drawn(kind, seed=3, height=30.0, centre=(70.0, 60.0)):
    pixels = np.full((128, 140), 0.4, dtype=np.float32)
    draw_marker(pixels, np.random.default_rng(seed), height=height, centre=centre, kind=kind)
    return pixels


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
def test_a_marker_is_drawn_at_its_place(kind):
    """The mean place of what changed, over many drawings; initials and words pull it down and aside a little."""
    rows, columns = np.nonzero(np.mean([drawn(kind, seed) != np.float32(0.4) for seed in range(30)], axis=0) > 0.5)
    assert (np.mean(columns), np.mean(rows)) == pytest.approx((70, 60), abs=6)


def test_a_drawing_is_a_function_of_its_generator():
    assert np.array_equal(drawn(1, seed=5), drawn(1, seed=5))
    assert not np.array_equal(drawn(1, seed=5), drawn(1, seed=6))


def test_drawings_beyond_the_border_are_cut_off():
    pixels = np.full((40, 40), 0.4, dtype=np.float32)
    for seed in range(20):
        draw_marker(pixels, np.random.default_rng(seed), height=30, centre=(-3, 45), kind=1)
        draw_distractor(pixels, np.random.default_rng(seed), height=30, centre=(90, -60))
    assert pixels.shape == (40, 40)
    assert np.isfinite(pixels).all()


def test_a_missing_font_is_named(monkeypatch, tmp_path):
    marker_text.font_folder.cache_clear()
    monkeypatch.setattr(matplotlib, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(UsageError, match=r"has no font DejaVuSans\.ttf, which draws markers for training"):
        marker_text.font_folder()


def test_a_background_patch_is_part_of_a_background():
    picture = np.full((300, 200), 128, dtype=np.uint8)
    patches = [background_patch([picture], 64, np.random.default_rng(seed)) for seed in range(20)]
    assert {patch.shape for patch in patches} == {(64, 64)}
    assert sum(np.median(patch) == pytest.approx(128 / 255) for patch in patches) >= 14


def test_targets_of_a_marker_give_it_back_as_a_proposal():
    targets, weights = locator_targets([DrawnMarker(45.0, 22.0, 31.0, 2)], cells=12)
    output = targets.clone()
    output[0] = torch.where(targets[0] > 0, 4.0, -4.0)
    (proposal,) = proposals_of(output, 0.5, most=5, threshold=0.5)
    assert (proposal.x, proposal.y, proposal.height) == pytest.approx((90.5, 44.5, 62.0), abs=0.01)
    assert weights[0].sum() == 12 * 12 - 8  # neighbours of the cell are left out


def test_the_reduced_film_has_the_longest_side_that_the_locator_reads():
    film, scale = reduced_film(np.full((3000, 2000), 0.25, dtype=np.float32))
    assert film.shape == (1, 1, 1024, 688)
    assert scale == pytest.approx(1024 / 3000)
    assert film[0, 0, :, :682].numpy() == pytest.approx(0.25, abs=1e-6)


def test_a_crop_is_centred_on_its_proposal_and_zero_outside_the_film():
    pixels = np.zeros((100, 100), dtype=np.float32)
    pixels[20:40, 10:20] = 1
    crop = marker_crops(pixels, [Proposal(14.5, 29.5, 24.0, 1.0)])[0, 0].numpy()
    rows, columns = np.nonzero(crop > 0.5)
    assert (columns.mean(), rows.mean()) == pytest.approx((31.5, 31.5), abs=0.6)
    assert marker_crops(np.ones((9, 9), dtype=np.float32), [Proposal(200, 200, 24, 1)]).sum() == 0


@pytest.mark.parametrize(
    ("probability", "expected"),
    [
        ((0.02, 0.97, 0.0, 0.01, 0.0), ("R", False)),
        ((0.02, 0.01, 0.0, 0.97, 0.0), ("R", True)),
        ((0.02, 0.0, 0.5, 0.0, 0.48), ("L", None)),
    ],
)
def test_the_letter_and_its_direction_are_decided_one_after_the_other(probability, expected):
    marker = marker_of(Proposal(1, 2, 3, 0.5), probability)
    assert (marker.letter, marker.mirrored) == expected
    assert marker.probability == pytest.approx(1 - probability[0])


def test_mirroring_twice_gives_the_class_back():
    assert [MIRRORED_CLASS[other] for other in MIRRORED_CLASS] == list(range(5))


def test_training_depends_on_the_seed_alone_and_its_weights_can_be_read(tmp_path):
    def fitted(seed):
        return fit_markers([np.full((200, 200), 90, dtype=np.uint8)], locator_steps=1, classifier_steps=1, seed=seed)

    first, again, other = fitted(0), fitted(0), fitted(1)
    assert isinstance(first[0], MarkerLocator)
    assert isinstance(first[1], MarkerClassifier)
    for network, same, different in zip(first, again, other, strict=True):
        assert torch.equal(network.head.weight, same.head.weight)
        assert not torch.equal(network.head.weight, different.head.weight)
    save_marker_weights(tmp_path / "own.safetensors", *first, {"licence": "Apache-2.0"})
    assert MarkerReader(tmp_path / "own.safetensors").read(np.zeros((64, 64), dtype=np.float32)) == ()

"""Copies and the division of a labelled site."""

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter


@pytest.fixture
def site(tmp_path):
    """60 images of 3 grades; the first image of each grade has a mirrored copy and a copy of 16 bits."""
    rng = np.random.default_rng(0)
    for kl in range(3):
        folder = tmp_path / str(kl)
        folder.mkdir()
        for number in range(18):
            field = gaussian_filter(rng.normal(size=(162, 300)), 12)
            grey = np.rint(255 * (field - field.min()) / np.ptp(field)).astype(np.uint8)
            Image.fromarray(grey).save(folder / f"knee{number:02d}.png")
            if number == 0:
                Image.fromarray(np.ascontiguousarray(grey[:, ::-1])).save(folder / "mirrored.jpg", quality=80)
                Image.fromarray(grey.astype(np.uint16) * 100).save(folder / "sixteen.png")
    return tmp_path


def test_copies_also_mirrored_ones_are_one_group(site):
    from site_split import site_table

    table = site_table(site)
    sizes = table["group"].value_counts()
    assert sizes[sizes > 1].to_dict() == {f"{kl}/knee00.png": 3 for kl in range(3)}


def test_a_third_of_every_grade_is_looked_at_and_groups_stay_together(site):
    from site_split import site_table

    table = site_table(site)
    look = table["part"] == "look"
    assert (table.groupby("group")["part"].nunique() == 1).all()
    assert all(5 <= look[table["kl"] == kl].sum() <= 7 for kl in range(3))


def test_the_part_of_an_image_does_not_depend_on_where_the_site_is(site, tmp_path_factory):
    from site_split import site_table

    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy"
    site_table(site)
    elsewhere.symlink_to(site)
    assert site_table(elsewhere)["part"].tolist() == site_table(site)["part"].tolist()


def test_a_folder_without_images_is_named(tmp_path):
    from site_split import site_table

    with pytest.raises(SystemExit, match="no image in the folders 0 to 4"):
        site_table(tmp_path)

import shutil
from pathlib import Path

from kneegrade.training.metal.implant_sites import site_manifest


def test_the_knees_of_a_folder_have_the_name_of_the_folder_as_their_source(tmp_path):
    folder = tmp_path / "north"
    folder.mkdir()
    film = next(path for path in sorted(Path("examples").iterdir()) if path.suffix in {".dcm", ".png", ".jpg"})
    shutil.copy(film, folder)
    assert set(site_manifest(folder)["source"]) == {"north"}

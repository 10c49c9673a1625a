import numpy as np
import pytest

from kneegrade.anatomy import LandmarkDetector
from kneegrade.cohorts import check_manifest
from kneegrade.cohorts.own_tables import manifest_from_films
from kneegrade.errors import CohortError
from kneegrade.phantom import DicomOptions, FilmOptions, render_film, write_film


def test_every_knee_of_a_folder_is_found_and_the_rest_is_told(tmp_path):
    film = render_film(8, 0, FilmOptions("bilateral", pixel_spacing_mm=0.35))
    (tmp_path / "day").mkdir()
    write_film(tmp_path / "day" / "0.dcm", film, DicomOptions(modality="CR", compression="none"))
    nothing = render_film(8, 1, FilmOptions("none", pixel_spacing_mm=0.5))
    write_film(tmp_path / "1.dcm", nothing, DicomOptions(modality="CR", compression="none"))
    (tmp_path / "2.dcm").write_bytes(b"broken")
    table, bad = manifest_from_films(tmp_path, LandmarkDetector())
    check_manifest(table)
    assert sorted(table["side"]) == ["L", "R"]
    assert table["subject_id"].nunique() == 1
    assert table["knee_id"].is_unique
    for side, points in zip(table["side"], table["landmarks_px"], strict=True):
        true = next(shown.landmarks_px for shown in film.knees if shown.side == side)
        assert np.median(np.linalg.norm(np.reshape(points, (74, 2)) - true, axis=1)) < 10
    assert [line.split(":")[0] for line in bad] == ["1.dcm", "2.dcm"]
    table, _ = manifest_from_films(tmp_path, LandmarkDetector(), r"day/(\d)")
    assert set(table["subject_id"]) == {"0"}
    with pytest.raises(CohortError, match="not a regular expression"):
        manifest_from_films(tmp_path, LandmarkDetector(), "(")
    with pytest.raises(CohortError, match="no film with a knee"):
        manifest_from_films(tmp_path / "1.dcm", LandmarkDetector())

import numpy as np
import pandas as pd
import pytest

from kneegrade.anatomy import LandmarkDetector
from kneegrade.cohorts import Counts, check_manifest, csv_manifest
from kneegrade.cohorts.film_manifests import manifest_from_films
from kneegrade.errors import CohortError, UsageError
from kneegrade.phantom import DicomOptions, FilmOptions, render_film, write_film


def clinic(tmp_path, rows, header="film;patient;knee;KL;JSNm"):
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "clinic.csv").write_text("\n".join([header, *rows]), encoding="latin-1")
    (tmp_path / "map.yaml").write_text(
        "columns: {image_path: film, subject_id: patient, side: knee, kl: KL, jsn_medial: JSNm}\n"
        "sides: {R: rechts, L: links}\nmissing: [9]\nvisit: 3\n"
    )
    return tmp_path / "clinic.csv", tmp_path / "map.yaml"


def test_own_table_with_mapping(tmp_path):
    counts = Counts()
    paths = clinic(
        tmp_path, ["a.png;P1;Rechts;2;9", "a.png;P1;links;0;1", "b.png;P2;rechts;3;2", "no.png;P3;links;1;0"]
    )
    table = csv_manifest(*paths, counts=counts)
    assert table["side"].tolist() == ["R", "L", "R"]
    assert table["kl"].tolist() == [2, 0, 3]
    assert pd.isna(table["jsn_medial"][0])
    assert table["source"].unique().tolist() == ["clinic"]
    assert table["visit"].unique().tolist() == [3]
    assert counts.by_name["knees without a film, excluded"] == 1


def test_split_of_own_table_is_kept(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "t.csv").write_text("image_path,subject_id,side,kl,split\na.png,P1,R,2,test\na.png,P1,L,0,test\n")
    assert csv_manifest(tmp_path / "t.csv")["split"].tolist() == ["test", "test"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a.png;P1;oben;2;0"], "column KNEE: 'oben'; expected one of rechts, links"),
        (["a.png;;links;2;0"], "column PATIENT: ''; expected an identifier of the person"),
        (["a.png;P1;links;5;0"], "column KL: '5'"),
        (["a.png;P1;links;1;0", "a.png;P1;links;2;0"], "row 3, column kl: '2'; expected 1, as in row 2"),
        (["x.png;P1;links;1;0"], "None of the 1 films of clinic.csv is on disk. The first was looked for at .*x.png"),
    ],
)
def test_invalid_own_table_is_reported(tmp_path, rows, message):
    with pytest.raises(CohortError, match=message):
        csv_manifest(*clinic(tmp_path, rows))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("columns: {kl: KL}\nx: 1\n", "x: Extra"),
        ("columns: {grade: KL}\n", "unknown columns grade"),
        ("columns: {image_path: film, subject_id: patient, side: knee, kl: KLG}\n", "lacks the columns KLG"),
        ("columns: {kl: KL}\nsides: {rechts: R}\n", "sides.rechts"),
        ("columns: [", "cannot be read"),
    ],
)
def test_invalid_mapping_is_reported(tmp_path, text, message):
    table, mapping = clinic(tmp_path, ["a.png;P1;links;1;0"])
    mapping.write_text(text)
    with pytest.raises(CohortError, match=message):
        csv_manifest(table, mapping)


def test_knees_of_a_folder_are_found_and_excluded_films_reported(tmp_path):
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
    with pytest.raises(UsageError, match="not a regular expression"):
        manifest_from_films(tmp_path, LandmarkDetector(), "(")
    with pytest.raises(UsageError, match="has no group"):
        manifest_from_films(tmp_path, LandmarkDetector(), r"day")
    with pytest.raises(CohortError, match="no film with a knee"):
        manifest_from_films(tmp_path / "1.dcm", LandmarkDetector())


def own_films(tmp_path):
    (tmp_path / "Films" / "Day 1").mkdir(parents=True)
    for name in ("a.PNG", "b.png"):
        (tmp_path / "Films" / "Day 1" / name).write_bytes(b"x")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
def test_table_of_a_windows_spreadsheet_is_read(tmp_path, encoding):
    own_films(tmp_path)
    text = "sep=;\r\nimage_path;subject_id;side;kl;jsn_medial\r\n"
    text += "films\\DAY 1\\A.png;Jürgen;Right;2;NA\r\nFilms\\Day 1\\b.png;Zoé;1: Left;#N/A;-\r\n"
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    table = csv_manifest(tmp_path / "t.csv")
    assert table["image_path"].tolist() == [str(tmp_path / "Films" / "Day 1" / name) for name in ("a.PNG", "b.png")]
    assert table["subject_id"].tolist() == ["Jürgen", "Zoé"]
    assert table["side"].tolist() == ["R", "L"]
    assert table["kl"].fillna(-1).tolist() == [2, -1]
    assert table["jsn_medial"].isna().all()


def test_missing_film_is_named_and_row_without_side_counted(tmp_path):
    own_films(tmp_path)
    rows = ["Films/Day 1/b.png,P1,R,2", "Films/Day 2/b.png,P2,R,2", "Films/Day 1/a.PNG,P3,,1"]
    (tmp_path / "t.csv").write_text("\n".join(["image_path,subject_id,side,kl", *rows]))
    counts = Counts()
    assert csv_manifest(tmp_path / "t.csv", counts=counts)["subject_id"].tolist() == ["P1"]
    assert counts.by_name["rows whose film is not on disk (the first: Films/Day 2/b.png)"] == 1
    assert counts.by_name["rows without a side, excluded"] == 1

"""OAI downloads without contents.csv: packages of the NIMH Data Archive, made from a synthetic download."""

import shutil
import tarfile
from pathlib import Path

import pandas as pd
import pytest

from kneegrade.cohorts import Counts, FakeOptions, oai_manifest, write_fake_oai
from kneegrade.cohorts.oai_film_lists import PACKED_EXCLUDED
from kneegrade.errors import CohortError

COLUMNS = ("collection_id", "src_subject_id", "image_file", "image_description", "accession_number", "visit")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """A synthetic download with contents.csv, and its manifest."""
    root = tmp_path_factory.mktemp("oai")
    write_fake_oai(root, FakeOptions(subjects=4, seed=3, longest_px=200))
    return root, oai_manifest(root)


@pytest.fixture
def package(original: tuple[Path, pd.DataFrame], tmp_path: Path) -> Path:
    """The same films as a package: one image03.txt instead of the contents.csv files, films below `results`."""
    root = tmp_path / "download"
    shutil.copytree(original[0], root / "Package_1" / "results", copy_function=shutil.copy2)
    (root / "Package_1" / "results" / "X-Ray Image Assessments_ASCII").rename(root / "tables")
    lines = ["\t".join(f'"{name}"' for name in COLUMNS), "\t".join(f'"{name} description"' for name in COLUMNS)]
    for contents in sorted((root / "Package_1" / "results").glob("OAI_*m/contents.csv")):
        for row in pd.read_csv(contents, dtype=str).itertuples():
            file = f"{contents.parent.name}/{row.Folder}.tar.gz"
            cells = ("2343", row.ParticipantID, file, row.SeriesDescription, row.Barcode, "V00")
            lines.append("\t".join(f'"{cell}"' for cell in cells))
        contents.unlink()
    (root / "Package_1" / "image03.txt").write_text("\r\n".join(lines) + "\r\n")
    return root


def films(table: pd.DataFrame) -> set[tuple[str, str, str]]:
    """Subject, barcode and the folder and name of the film, which say which film a knee has."""
    paths = table["image_path"].map(lambda path: "/".join(Path(path).parts[-4:]))
    return set(zip(table["subject_id"], table["barcode"], paths, strict=True))


def test_a_package_gives_the_films_of_the_image_releases(original, package):
    counts = Counts()
    table = oai_manifest(package, counts=counts)
    assert films(table) == films(original[1])
    assert counts.by_name["series of other joints or sequences, excluded"] > 0


@pytest.mark.parametrize(
    "change",
    ["renamed list", "addresses of a bucket", "moved films", "capitals", "unpacked into a folder of its name"],
)
def test_a_package_that_was_changed_by_hand_gives_the_same_films(original, package, change):
    folder, manifest = package / "Package_1", package / "Package_1" / "image03.txt"
    if change == "renamed list":
        manifest.rename(package / "films of my package.TXT")
    elif change == "addresses of a bucket":
        manifest.write_text(manifest.read_text().replace('"OAI_', '"s3://NDAR_Central_1/submission_7/OAI_'))
    elif change == "moved films":
        (folder / "results").rename(package / "films")
    elif change == "capitals":
        manifest.write_bytes(manifest.read_text().upper().replace("\r\n", "\n").encode("utf-16"))
        for table in (package / "tables").rglob("*.txt"):
            table.rename(table.with_name(table.name.upper()))
    else:
        for film in list(folder.rglob("001")):
            (film.parent / film.parent.name).mkdir()
            (film.parent / ".DS_Store").write_bytes(b"-")
            film.rename(film.parent / film.parent.name / "001")
    found = {(subject, barcode) for subject, barcode, _ in films(oai_manifest(package))}
    assert found == {(subject, barcode) for subject, barcode, _ in films(original[1])}


def test_files_of_macos_are_not_taken_for_films_or_tables(original, package):
    for film in list(package.rglob("001")):
        film.with_name("._001").write_bytes(b"-")
        film.rename(film.with_name("film"))  # the only visible file of its folder
    for table in (package / "tables").rglob("*.txt"):
        shutil.copy(table, table.with_name(f"._{table.name}"))
    shutil.copytree(package / "tables", package / "__MACOSX" / "tables")
    assert len(oai_manifest(package)) == len(original[1])


def test_packed_films_of_a_package_are_counted_or_unpacked(original, package, tmp_path):
    for film in list(package.rglob("001")):
        with tarfile.open(film.parent.with_name(film.parent.name + ".tar.gz"), "w:gz") as archive:
            archive.add(original[0] / "planted.json", "._001")
            archive.add(film, "001")
        shutil.rmtree(film.parent)
    with pytest.raises(CohortError, match=r"are packed \(use --unpack-to\)"):
        oai_manifest(package)
    counts = Counts()
    table = oai_manifest(package, counts=counts, unpack_to=tmp_path / "unpacked")
    assert len(films(table)) == len(films(original[1]))
    assert counts.by_name[PACKED_EXCLUDED] == 0
    assert Path(table["image_path"].iloc[0]).read_bytes()[128:132] == b"DICM"


def test_the_message_that_no_film_matches_has_the_counts_of_each_step_and_a_path(package):
    shutil.rmtree(package / "Package_1" / "results")
    knees = len(pd.read_csv(package / "Package_1" / "image03.txt", sep="\t"))
    assert knees
    with pytest.raises(CohortError) as caught:
        oai_manifest(package, ["00"])
    lines = caught.value.message.splitlines()
    assert lines[0] == "No reading has a film on disk."
    assert lines[1] == "- 8 knees were read. Tables of readings: 3."
    assert "8 of them have a barcode, such as 016600000001." in lines[2]
    assert "in the lists of films (image03.txt)" in lines[3]
    assert lines[4].startswith("- 8 knees have a barcode that is in these lists, 8 of them for the same subject")
    assert lines[5] == "- 0 of the listed films are on disk."
    assert lines[6].startswith("- A path that was looked for: ")
    assert lines[6].endswith("/00000001/001.")


def test_a_download_without_any_list_names_both_kinds(package):
    (package / "Package_1" / "image03.txt").unlink()
    with pytest.raises(CohortError, match=r"no contents.csv, .* and no image03.txt"):
        oai_manifest(package)


def test_a_renamed_table_of_readings_is_found_by_its_columns(original, package):
    table = next((package / "tables").rglob("kXR_SQ_BU00.txt"))
    table.rename(table.with_name("baseline readings.txt"))
    assert films(oai_manifest(package)) == films(original[1])

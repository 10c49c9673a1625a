"""Synthetic OAI and MOST downloads: folders, tables and films as published, with phantoms in place of people.

They allow a rehearsal of the whole pipeline before access to the data is granted. Names, headers, separators,
encodings, codes and special cases are those of the studies; no data of a person is included. `planted.json` counts the
special cases that were written.
"""

import json
import tarfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np

from kneegrade.cohorts import most, oai
from kneegrade.cohorts.oai_film_lists import KNEE_SERIES
from kneegrade.files import make_directory, replacing, write_text
from kneegrade.phantom import DicomOptions, FilmOptions, PhantomFilm, compose_film, render_film, write_film
from kneegrade.phantom.film import FilmKnee
from kneegrade.phantom.film_dicom import film_dataset
from kneegrade.progress import Progress
from kneegrade.schema import TARGET_NAMES, TARGETS

TABLES = Path("X-Ray Image Assessments_ASCII", "Semi-Quant Scoring_ASCII")
WIDTH_TABLES = Path("X-Ray Image Assessments_ASCII", "Quantitative JSW_ASCII")
TABLE_NAMES = {"00": "kXR_SQ_BU00.txt", "01": "kxr_sq_bu01.txt", "08": "KXR_SQ_BU08.txt"}
RELEASES = {"00": "0.C.2", "01": "1.C.2", "08": "8.C.1"}
PARTICIPATION = {"00": 1.0, "01": 0.67, "08": 0.34}  # share of people with a film at the visit
MISSING = (".: Missing Form/Incomplete Workbook", ".A: Not Expected", ".T: Technical Problems")
FURTHER_COLUMNS = ("XRSCFM", "XRSCFL", "XRCYTM", "XRATTM", "XRCHM")  # present in the study's tables, never read
FIRST_ID = 9_000_001
MOST_TABLE_NAME = "MOSTV01235XRAY.txt"
MOST_VISITS = ("0", "2")


@dataclass(frozen=True)
class FakeOptions:
    """Size of a synthetic study.

    Attributes:
        subjects: number of people. In the OAI all have a film at baseline, about two thirds at 12 months and one third
            at 72 months.
        seed: seed of the phantoms and of the special cases.
        longest_px: longer side of the films in pixels; None for full resolution.
    """

    subjects: int = 60
    seed: int = 0
    longest_px: int | None = 900

    @property
    def film(self) -> FilmOptions:
        """Return the options of every film."""
        return FilmOptions("bilateral", "natural", longest_px=self.longest_px)


def write_fake_oai(root: Path, options: FakeOptions, progress: Progress | None = None) -> None:
    """Write a synthetic OAI download: tables, `contents.csv` files, films and `planted.json`.

    Special cases: half grades; missing codes with reasons; osteophytes read only in people with KL ≥ 2 in some knee;
    early films read again by project 37; project 42; duplicate rows; barcodes without leading zeros; header case and
    coding of SIDE that vary by table; series of other joints; films that are missing or packed; MONOCHROME1 films;
    DICOM files with an unknown character set; Latin-1 text.

    Args:
        root: folder to write, created if needed.
        options: size of the study.
        progress: called with (people done, all people).
    """
    make_directory(root)
    planted: Counter[str] = Counter()
    visits = {code: _people_at(code, options) for code in RELEASES}
    for person in range(options.subjects):
        film = render_film(options.seed, person, options.film)  # one image per person, stored differently per visit
        for code in (code for code, people in visits.items() if person in people):
            _write_oai_film(root, code, person, film, options.seed, planted)
        if progress:
            progress(person + 1, options.subjects)
    for code, people in visits.items():
        _write_oai_table(root / TABLES, code, people, options, planted)
        _write_oai_widths(root / WIDTH_TABLES, code, people, options, planted)
        _write_oai_contents(root / f"OAI_{oai.VISIT_MONTHS[code]:02d}m", code, people, planted)
    _write_planted(root, planted)


def _people_at(code: str, options: FakeOptions) -> list[int]:
    """Return the numbers of the people who have a film at a visit."""
    return [n for n in range(options.subjects) if _generator(options.seed, n, code, 0).random() < PARTICIPATION[code]]


def _generator(seed: int, person: int, code: str, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, person, int(code), stream])


def _write_planted(root: Path, planted: Counter[str]) -> None:
    write_text(root / "planted.json", json.dumps(dict(sorted(planted.items())), indent=1) + "\n")


def _film_folder(code: str, person: int) -> str:
    """Return the folder of a film as `contents.csv` lists it, relative to the folder of the visit."""
    return f"{RELEASES[code]}/{FIRST_ID + person}/{2004 + int(code)}0{1 + person % 9}15/{_barcode(code, person)[-8:]}"


def _barcode(code: str, person: int) -> str:
    return f"0166{int(code):02d}{person + 1:06d}"


def _write_oai_film(root: Path, code: str, person: int, film: PhantomFilm, seed: int, planted: Counter[str]) -> None:
    """Write the film of a person at a visit, or the archive that holds it."""
    if code == "01" and person % 20 == 7:
        planted["films not on disk"] += 1
        return
    rng = _generator(seed, person, code, 1)
    inverted = bool(rng.random() < 0.3)
    stored = DicomOptions(
        bits=12, photometric="MONOCHROME1" if inverted else "MONOCHROME2", compression="none", modality="CR",
        spacing="ImagerPixelSpacing" if rng.random() < 0.8 else "none", laterality=False,
    )  # fmt: skip
    dataset = film_dataset(film, stored)
    dataset.PatientID, dataset.PatientName = str(FIRST_ID + person), ""
    dataset.AccessionNumber = _barcode(code, person)
    dataset.SeriesDescription = KNEE_SERIES
    planted["MONOCHROME1 films"] += inverted
    path = root / f"OAI_{oai.VISIT_MONTHS[code]:02d}m" / _film_folder(code, person) / "001"
    make_directory(path.parent)
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    data = buffer.getvalue()
    if rng.random() < 0.1:
        data = data.replace(b"ISO_IR 192", b"ISO_IR 999", 1)  # pydicom refuses to write an unknown character set
        planted["DICOM files of an unknown character set"] += 1
    if code == "01" and person % 20 == 11:
        planted["films packed as .tar.gz"] += 1
        path.parent.rmdir()
        _pack(path.parent, data)
        return
    with replacing(path, "wb") as stream:
        stream.write(data)
    planted["films"] += 1


def _pack(folder: Path, film: bytes) -> None:
    """Write `<folder>.tar.gz`, which holds the film as `<folder>/001`."""
    draft = folder.with_name(f".{folder.name}.part")
    with tarfile.open(draft, "w:gz") as archive:
        member = tarfile.TarInfo(f"{folder.name}/001")
        member.size = len(film)
        archive.addfile(member, BytesIO(film))
    draft.replace(folder.with_name(folder.name + ".tar.gz"))


def _write_oai_table(folder: Path, code: str, people: list[int], options: FakeOptions, planted: Counter[str]) -> None:
    """Write the table of readings of one visit."""
    make_directory(folder)
    ends = ["BARCDBU", *(oai.GRADE_COLUMNS[name] for name in TARGET_NAMES), *FURTHER_COLUMNS]
    header = ["ID", "SIDE", "READPRJ", *(f"V{code}{end}" for end in ends), "COMMENT"]
    if code == "01":
        header = [name.lower() for name in header]
    rows = []
    for person in people:
        for side in (1, 2):
            rows += _oai_rows(code, person, side, options, planted)
    rng = np.random.default_rng([options.seed, int(code), 99])
    for chosen in sorted(rng.permutation(len(rows))[: max(1, len(rows) // 40)].tolist()):
        rows.append(rows[chosen])
        planted["rows that repeat another"] += 1
    text = "\r\n".join("|".join(row) for row in [header, *rows]) + "\r\n"
    planted["rows"] += len(rows)
    (folder / TABLE_NAMES[code]).write_bytes(text.encode("latin-1"))


@cache
def _knees(person: int, options: FakeOptions) -> tuple[FilmKnee, ...]:
    """Return the right and the left knee of a person, the same on every film."""
    return compose_film(options.seed, person, options.film).knees


def _oai_rows(code: str, person: int, side: int, options: FakeOptions, planted: Counter[str]) -> list[list[str]]:
    """Return the rows of one knee at one visit: one, or two if it was read again."""
    rng = _generator(options.seed, person, code, 10 + side)
    grades = _knees(person, options)[side - 1].knee.grades
    worst = max(film_knee.knee.grades["kl"] for film_knee in _knees(person, options))
    cells = _oai_cells(code, grades, worst, rng, planted)
    project = "15"
    if oai.VISIT_MONTHS[code] >= 72:
        project = "42" if rng.random() < 0.25 else "37"
        planted["READPRJ 42"] += project == "42"
    barcode = _barcode(code, person)
    if rng.random() < 0.2:
        barcode = barcode.lstrip("0")
        planted["barcodes without their zeros"] += 1
    name = {1: "1: Right", 2: "2: Left"}[side] if code == "01" else str(side)
    comment = "genou opéré" if rng.random() < 0.05 else ""
    row = [str(FIRST_ID + person), name, project, barcode, *cells, *["0"] * len(FURTHER_COLUMNS), comment]
    if oai.VISIT_MONTHS[code] < 72 and rng.random() < 0.15:
        planted["early films read again by project 37"] += 1
        again = [*row[:2], "37", row[3], str(min(4, grades["kl"] + 1)), *row[5:]]
        return [again, row]
    return [row]


def _write_oai_widths(folder: Path, code: str, people: list[int], options: FakeOptions, planted: Counter[str]) -> None:
    """Write `kxr_qjsw_duryea##`: Duryea's joint space widths of two thirds of the people."""
    make_directory(folder)
    lines = [f"ID|SIDE|READPRJ|V{code}MCMJSW|V{code}LJSW825"]
    for person in (person for person in people if person % 3):
        for side, film_knee in zip((1, 2), _knees(person, options), strict=True):
            space = film_knee.knee.joint_space_mm
            lines.append(f"{FIRST_ID + person}|{side}|15|{space.medial:.3f}|{space.lateral:.3f}")
            planted["knees with a measured joint space"] += 1
    (folder / f"kxr_qjsw_duryea{code}.txt").write_bytes(("\r\n".join(lines) + "\r\n").encode("latin-1"))


def _oai_cells(
    code: str, grades: Mapping[str, int], worst: int, rng: np.random.Generator, planted: Counter[str]
) -> list[str]:
    """Return the seven cells of a knee in an OAI table."""
    reason = MISSING[rng.integers(3)] if rng.random() < 0.02 else None
    planted["knees with no grade read"] += reason is not None
    cells = []
    for target in TARGETS:
        value = grades[target.name]
        if reason is not None:
            cells.append(reason)
        elif target.name.startswith("osteophyte") and worst < 2:
            cells.append(".A: Not Expected")
        elif value > 0 and target.name != "kl" and rng.random() < 0.03:
            cells.append(f"{value}.{rng.integers(1, 10)}")
            planted["half grades"] += 1
        else:
            cells.append(f"{value}: {value}" if code == "00" and target.name.startswith("jsn") else str(value))
    planted["knees without osteophyte grades"] += reason is None and worst < 2
    return cells


def _write_oai_contents(folder: Path, code: str, people: list[int], planted: Counter[str]) -> None:
    """Write `contents.csv`: the series of knees, and of hands for one person in three."""
    lines = ["Folder,ParticipantID,StudyDate,Barcode,StudyDescription,SeriesDescription"]
    for person in people:
        folder_name, barcode = _film_folder(code, person), _barcode(code, person)
        date = folder_name.split("/")[2]
        lines.append(f"{folder_name},{FIRST_ID + person},{date},{barcode},OAI^ENROLLMENT^KNEES,{KNEE_SERIES}")
        if person % 3 == 0:
            other = f"{folder_name[:-8]}99{barcode[-6:]}"
            lines.append(f"{other},{FIRST_ID + person},{date},0199{barcode[4:]},OAI^ENROLLMENT^HANDS,PA Right Hand")
            planted["series of other joints"] += 1
    make_directory(folder)  # of few people, none may have a film at this visit
    (folder / "contents.csv").write_bytes(("\r\n".join(lines) + "\r\n").encode("latin-1"))


def write_fake_most(root: Path, options: FakeOptions, progress: Progress | None = None) -> None:
    """Write a synthetic MOST download: table, films and `planted.json`; see `write_fake_oai` for the arguments.

    Special cases: half grades such as 1.9; the codes 8 and 9; letters; films of another view beside those of PA 10°.
    """
    make_directory(root)
    planted: Counter[str] = Counter()
    columns = [f"V{visit}X{side}{end}" for visit in MOST_VISITS for side in "RL" for end in most.GRADE_COLUMNS.values()]
    rows = []
    for person in range(options.subjects):
        subject = f"MB{person + 1:05d}"
        film = render_film(options.seed, person, options.film)
        cells = [subject]
        for visit in MOST_VISITS:
            rng = np.random.default_rng([options.seed, person, int(visit), 7])
            for film_knee in film.knees:
                cells += _most_cells(film_knee.knee.grades, rng, planted)
            for view in ("PA10", "PA05") if person % 4 == 0 else ("PA10",):
                folder = root / "images" / f"{subject}_X" / f"V{visit}" / view
                make_directory(folder)
                write_film(folder / "00001.dcm", film, DicomOptions(compression="none"))
                planted["films of PA 10°" if view == "PA10" else "films of another view"] += 1
        rows.append(cells)
        if progress:
            progress(person + 1, options.subjects)
    text = "\r\n".join("\t".join(row) for row in [["MOSTID", *columns], *rows]) + "\r\n"
    (root / MOST_TABLE_NAME).write_bytes(text.encode("latin-1"))
    _write_planted(root, planted)


def _most_cells(grades: Mapping[str, int], rng: np.random.Generator, planted: Counter[str]) -> list[str]:
    """Return the seven cells of a knee in the MOST table."""
    cells = []
    for target in TARGETS:
        value, draw = grades[target.name], rng.random()
        if draw < 0.03:
            cells.append(str(rng.choice([8, 9])))
            planted["codes 8 and 9"] += 1
        elif draw < 0.05:
            cells.append(str(rng.choice(most.MISSING_LETTERS)))
            planted["letters"] += 1
        elif draw < 0.09 and target.name != "kl":
            cells.append(f"{value}.9")
            planted["half grades"] += 1
        else:
            cells.append(str(value))
    return cells

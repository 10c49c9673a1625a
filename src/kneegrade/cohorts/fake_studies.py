"""A fake MOST: its one table and its folders of films, with phantoms in place of people; see `fake_oai`.

A fake OAI: folders, tables and films as the Osteoarthritis Initiative publishes them, phantoms in place of people.

Anyone can rehearse the whole path before access is granted. Names, headers, separators, encodings, codes and quirks are
those of the study; nothing in it is of a person. What was planted is counted in `planted.json`.
"""

import json
import tarfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np

from kneegrade.cohorts.most import COLUMNS as MOST_COLUMNS
from kneegrade.cohorts.most import LETTERS
from kneegrade.cohorts.oai import COLUMNS, MONTHS, SERIES
from kneegrade.phantom import DicomOptions, FilmOptions, PhantomFilm, compose_film, render_film, write_film
from kneegrade.phantom.film import FilmKnee
from kneegrade.phantom.film_dicom import film_dataset
from kneegrade.schema import TARGET_NAMES, TARGETS

TABLES = Path("X-Ray Image Assessments_ASCII", "Semi-Quant Scoring_ASCII")
WIDTH_TABLES = Path("X-Ray Image Assessments_ASCII", "Quantitative JSW_ASCII")
FIRST_ID = 9_000_001
RELEASES = {"00": "0.C.2", "01": "1.C.2", "08": "8.C.1"}
NAMES = {"00": "kXR_SQ_BU00.txt", "01": "kxr_sq_bu01.txt", "08": "KXR_SQ_BU08.txt"}
MISSING = (".: Missing Form/Incomplete Workbook", ".A: Not Expected", ".T: Technical Problems")
EXTRA = ("XRSCFM", "XRSCFL", "XRCYTM", "XRATTM", "XRCHM")  # columns that are there and not asked for


@dataclass(frozen=True)
class FakeOptions:
    """How large a fake study is.

    Attributes:
        subjects: people; all have a baseline film, about two thirds one at 12, a third one at 72 months.
        seed: of phantoms and quirks.
        longest_px: longer side of the films; None for their full resolution.
    """

    subjects: int = 60
    seed: int = 0
    longest_px: int | None = 900

    @property
    def film(self) -> FilmOptions:
        """What every film is drawn with."""
        return FilmOptions("bilateral", "natural", longest_px=self.longest_px)


def write_fake_oai(root: Path, options: FakeOptions, progress: Callable[[int, int], None] | None = None) -> None:
    """Write tables, `contents.csv` files, films and `planted.json` below `root`.

    Planted: half grades; missing codes with reasons; osteophytes read only in people with KL ≥ 2 in some knee; early
    films read again by project 37; project 42; rows that repeat; barcodes without their zeros; header case and spelling
    of SIDE that vary by table; series of other joints; films that are not on disk or still packed; MONOCHROME1 films;
    DICOM files that name an unknown character set; Latin-1 text.
    """
    root.mkdir(parents=True, exist_ok=True)
    planted: Counter[str] = Counter()
    visits = {code: _who(code, options) for code in RELEASES}
    for person in range(options.subjects):
        film = render_film(options.seed, person, options.film)  # the same at every visit, stored otherwise
        for code in (code for code, people in visits.items() if person in people):
            _write_film(root, code, person, film, options, planted)
        if progress:
            progress(person + 1, options.subjects)
    for code, people in visits.items():
        _write_table(root / TABLES, code, people, options, planted)
        _write_widths(root / WIDTH_TABLES, code, people, options, planted)
        _write_contents(root / f"OAI_{MONTHS[code]:02d}m", code, people, planted)
    (root / "planted.json").write_text(json.dumps(dict(sorted(planted.items())), indent=1) + "\n", encoding="utf-8")


def _who(code: str, options: FakeOptions) -> list[int]:
    share = {"00": 1.0, "01": 0.67, "08": 0.34}[code]
    return [person for person in range(options.subjects) if _rng(options.seed, person, code, 0).random() < share]


def _rng(seed: int, person: int, code: str, what: int) -> np.random.Generator:
    return np.random.default_rng([seed, person, int(code), what])


def _folder(code: str, person: int) -> str:
    """Folder of a film below its visit's, as `contents.csv` names it."""
    return f"{RELEASES[code]}/{FIRST_ID + person}/{2004 + int(code)}0{1 + person % 9}15/{_barcode(code, person)[-8:]}"


def _barcode(code: str, person: int) -> str:
    return f"0166{int(code):02d}{person + 1:06d}"


def _write_film(
    root: Path, code: str, person: int, film: PhantomFilm, options: FakeOptions, planted: Counter[str]
) -> None:
    if code == "01" and person % 20 == 7:
        planted["films not on disk"] += 1
        return
    rng = _rng(options.seed, person, code, 1)
    inverted = bool(rng.random() < 0.3)
    stored = DicomOptions(
        bits=12, photometric="MONOCHROME1" if inverted else "MONOCHROME2", compression="none", modality="CR",
        spacing="ImagerPixelSpacing" if rng.random() < 0.8 else "none", laterality=False,
    )  # fmt: skip
    dataset = film_dataset(film, stored)
    dataset.PatientID, dataset.PatientName = str(FIRST_ID + person), ""
    dataset.AccessionNumber = _barcode(code, person)
    dataset.SeriesDescription = SERIES
    planted["MONOCHROME1 films"] += inverted
    path = root / f"OAI_{MONTHS[code]:02d}m" / _folder(code, person) / "001"
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    data = buffer.getvalue()
    if rng.random() < 0.1:
        data = data.replace(b"ISO_IR 192", b"ISO_IR 999", 1)  # pydicom rightly refuses to write this
        planted["DICOM files of an unknown character set"] += 1
    if code == "01" and person % 20 == 11:
        planted["films packed as .tar.gz"] += 1
        path.parent.rmdir()
        _pack(path.parent, data)
        return
    draft = path.with_name(".001.part")
    draft.write_bytes(data)
    draft.replace(path)
    planted["films"] += 1


def _pack(folder: Path, film: bytes) -> None:
    """`<folder>.tar.gz` with the film as `<folder>/001` in it."""
    draft = folder.with_name(f".{folder.name}.part")
    with tarfile.open(draft, "w:gz") as archive:
        member = tarfile.TarInfo(f"{folder.name}/001")
        member.size = len(film)
        archive.addfile(member, BytesIO(film))
    draft.replace(folder.with_name(folder.name + ".tar.gz"))


def _write_table(folder: Path, code: str, people: list[int], options: FakeOptions, planted: Counter[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    grades = [f"V{code}{COLUMNS[name]}" for name in TARGET_NAMES]
    header = ["ID", "SIDE", "READPRJ", f"V{code}BARCDBU", *grades, *(f"V{code}{name}" for name in EXTRA), "COMMENT"]
    if code == "01":
        header = [name.lower() for name in header]
    rows = []
    for person in people:
        for side, shown in zip((1, 2), _knees(person, options), strict=True):
            rows += _rows(code, person, side, shown.knee.grades, options, planted)
    rng = np.random.default_rng([options.seed, int(code), 99])
    for chosen in sorted(rng.permutation(len(rows))[: max(1, len(rows) // 40)].tolist()):
        rows.append(rows[chosen])
        planted["rows that repeat another"] += 1
    text = "\r\n".join("|".join(row) for row in [header, *rows]) + "\r\n"
    planted["rows"] += len(rows)
    (folder / NAMES[code]).write_bytes(text.encode("latin-1"))


@cache
def _knees(person: int, options: FakeOptions) -> tuple[FilmKnee, ...]:
    """A person's right and left knee, as every film shows them."""
    return compose_film(options.seed, person, options.film).knees


def _rows(
    code: str, person: int, side: int, grades: Mapping[str, int], options: FakeOptions, planted: Counter[str]
) -> list[list[str]]:
    """The row or rows of one knee at one visit."""
    rng = _rng(options.seed, person, code, 10 + side)
    worst = max(shown.knee.grades["kl"] for shown in _knees(person, options))
    cells = _cells(code, grades, worst, rng, planted)
    project = "15"
    if MONTHS[code] >= 72:
        project = "42" if rng.random() < 0.25 else "37"
        planted["READPRJ 42"] += project == "42"
    barcode = _barcode(code, person)
    if rng.random() < 0.2:
        barcode = barcode.lstrip("0")
        planted["barcodes without their zeros"] += 1
    name = {1: "1: Right", 2: "2: Left"}[side] if code == "01" else str(side)
    comment = "genou opéré" if rng.random() < 0.05 else ""
    row = [str(FIRST_ID + person), name, project, barcode, *cells, *["0"] * len(EXTRA), comment]
    if MONTHS[code] < 72 and rng.random() < 0.15:
        planted["early films read again by project 37"] += 1
        again = [*row]
        again[2], again[4] = "37", str(min(4, grades["kl"] + 1))
        return [again, row]
    return [row]


def _write_widths(folder: Path, code: str, people: list[int], options: FakeOptions, planted: Counter[str]) -> None:
    """Duryea's joint space widths of two thirds of the people, as `kxr_qjsw_duryea##`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"ID|SIDE|READPRJ|V{code}MCMJSW|V{code}LJSW825"]
    for person in (person for person in people if person % 3):
        for side, shown in zip((1, 2), _knees(person, options), strict=True):
            space = shown.knee.joint_space_mm
            lines.append(f"{FIRST_ID + person}|{side}|15|{space.medial:.3f}|{space.lateral:.3f}")
            planted["knees with a measured joint space"] += 1
    (folder / f"kxr_qjsw_duryea{code}.txt").write_bytes(("\r\n".join(lines) + "\r\n").encode("latin-1"))


def _cells(
    code: str, grades: Mapping[str, int], worst: int, rng: np.random.Generator, planted: Counter[str]
) -> list[str]:
    """The seven grades of a knee as text."""
    unread = MISSING[rng.integers(3)] if rng.random() < 0.02 else None
    planted["knees with no grade read"] += unread is not None
    cells = []
    for target in TARGETS:
        value = grades[target.name]
        osteophyte = target.name.startswith("osteophyte")
        if unread is not None:
            cells.append(unread)
        elif osteophyte and worst < 2:
            cells.append(".A: Not Expected")
        elif value > 0 and target.name != "kl" and rng.random() < 0.03:
            cells.append(f"{value}.{rng.integers(1, 10)}")
            planted["half grades"] += 1
        else:
            cells.append(f"{value}: {value}" if code == "00" and target.name.startswith("jsn") else str(value))
    planted["knees without osteophyte grades"] += unread is None and worst < 2
    return cells


def _write_contents(folder: Path, code: str, people: list[int], planted: Counter[str]) -> None:
    """The release's list of series: knees, and hands beside them."""
    lines = ["Folder,ParticipantID,StudyDate,Barcode,StudyDescription,SeriesDescription"]
    for person in people:
        folder_name, barcode = _folder(code, person), _barcode(code, person)
        date = folder_name.split("/")[2]
        lines.append(f"{folder_name},{FIRST_ID + person},{date},{barcode},OAI^ENROLLMENT^KNEES,{SERIES}")
        if person % 3 == 0:
            other = f"{folder_name[:-8]}99{barcode[-6:]}"
            lines.append(f"{other},{FIRST_ID + person},{date},0199{barcode[4:]},OAI^ENROLLMENT^HANDS,PA Right Hand")
            planted["series of other joints"] += 1
    (folder / "contents.csv").write_bytes(("\r\n".join(lines) + "\r\n").encode("latin-1"))


NAME = "MOSTV01235XRAY.txt"
VISITS = ("0", "2")


def write_fake_most(root: Path, options: FakeOptions, progress: Callable[[int, int], None] | None = None) -> None:
    """Write the table, films of two visits and `planted.json` below `root`.

    Planted: half grades such as 1.9, the codes 8 and 9, letters, films of another view beside those of PA 10°.
    """
    root.mkdir(parents=True, exist_ok=True)
    planted: Counter[str] = Counter()
    header = [
        "MOSTID",
        *(f"V{visit}X{side}{end}" for visit in VISITS for side in "RL" for end in MOST_COLUMNS.values()),
    ]
    rows = []
    for person in range(options.subjects):
        subject = f"MB{person + 1:05d}"
        film = render_film(options.seed, person, options.film)
        cells = [subject]
        for visit in VISITS:
            rng = np.random.default_rng([options.seed, person, int(visit), 7])
            for shown in film.knees:
                cells += _most_cells(shown.knee.grades, rng, planted)
        rows.append(cells)
        for visit in VISITS:
            for view in ("PA10", "PA05") if person % 4 == 0 else ("PA10",):
                folder = root / "images" / f"{subject}_X" / f"V{visit}" / view
                folder.mkdir(parents=True, exist_ok=True)
                write_film(folder / "00001.dcm", film, DicomOptions(compression="none"))
                planted["films of PA 10°" if view == "PA10" else "films of another view"] += 1
        if progress:
            progress(person + 1, options.subjects)
    text = "\r\n".join("\t".join(row) for row in [header, *rows]) + "\r\n"
    (root / NAME).write_bytes(text.encode("latin-1"))
    (root / "planted.json").write_text(json.dumps(dict(sorted(planted.items())), indent=1) + "\n", encoding="utf-8")


def _most_cells(grades: Mapping[str, int], rng: np.random.Generator, planted: Counter[str]) -> list[str]:
    """The seven grades of a knee as text."""
    cells = []
    for target in TARGETS:
        value, draw = grades[target.name], rng.random()
        if draw < 0.03:
            cells.append(str(rng.choice([8, 9])))
            planted["codes 8 and 9"] += 1
        elif draw < 0.05:
            cells.append(str(rng.choice(LETTERS)))
            planted["letters"] += 1
        elif draw < 0.09 and target.name != "kl":
            cells.append(f"{value}.9")
            planted["half grades"] += 1
        else:
            cells.append(str(value))
    return cells

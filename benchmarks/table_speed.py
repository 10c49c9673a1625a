"""Seconds that a study's table of 10,000 rows takes to load, validate and become a manifest.

    python benchmarks/table_speed.py

The table is made here in OAI's layout (pipes, Latin-1, CRLF, half grades, codes for missing), its barcodes
listed in a `contents.csv`; the films are empty files, since no pixel is read.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from kneegrade.cohorts.oai import COLUMNS, SERIES, oai_readings
from kneegrade.cohorts.oai_files import oai_files
from kneegrade.cohorts.studies import oai_manifest
from kneegrade.schema import TARGETS


def write_download(root: Path, rows: int) -> None:
    """A download of rows / 2 people and their films."""
    generator = np.random.default_rng(0)
    header = ["ID", "SIDE", "READPRJ", "V00BARCDBU", *(f"V00{COLUMNS[t.name]}" for t in TARGETS)]
    lines, contents = ["|".join(header)], ["Folder,ParticipantID,StudyDate,Barcode,StudyDescription,SeriesDescription"]
    for person in range(rows // 2):
        barcode, folder = f"0166{person:08d}", f"0.C.2/{9_000_000 + person}/20040101/{person:08d}"
        (root / "OAI_00m" / folder).mkdir(parents=True)
        (root / "OAI_00m" / folder / "001").touch()
        contents.append(f"{folder},{9_000_000 + person},20040101,{barcode},OAI,{SERIES}")
        for side in ("1: Right", "2: Left"):
            cells = [_cell(generator, target.classes) for target in TARGETS]
            lines.append("|".join([str(9_000_000 + person), side, "15", barcode, *cells]))
    (root / "kXR_SQ_BU00.txt").write_bytes(("\r\n".join(lines) + "\r\n").encode("latin-1"))
    (root / "OAI_00m" / "contents.csv").write_text("\n".join(contents))


def _cell(generator: np.random.Generator, classes: int) -> str:
    kind, value = generator.random(), int(generator.integers(classes))
    if kind < 0.05:
        return ".A: Not Expected"
    if kind < 0.1 and value:
        return f"{value}.{generator.integers(1, 10)}"
    return f"{value}: {value}" if kind < 0.5 else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_download(root, arguments.rows)
        start = time.perf_counter()
        readings = oai_readings(oai_files(root))
        loaded = time.perf_counter()
        table = oai_manifest(root)
        whole = time.perf_counter()
    print(f"{len(readings):,} rows loaded and validated: {loaded - start:.2f} s")
    print(f"the whole manifest, films found, {len(table):,} knees: {whole - loaded:.2f} s")


if __name__ == "__main__":
    main()

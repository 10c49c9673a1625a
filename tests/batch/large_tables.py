"""The tables of a batch of many films that were never graded, to measure memory."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from kneegrade.anatomy.landmark_scheme import NUM_LANDMARKS
from kneegrade.batch.parquet import table_schema
from kneegrade.batch.result_parts import FILMS_PER_PART, ORDER, write_part
from kneegrade.schema import TARGETS

RUN = {
    "versions": {"kneegrade": "1"}, "runtime": "torch", "precision": "float32", "device": "cpu",
    "weights": {"grader": {"name": "w", "sha256": "00"}},
}  # fmt: skip


def write_large_tables(directory: Path, films: int) -> None:
    """Tables of films with two knees each: 60 % with moved grades, 10 % on which kneegrade abstains."""
    (directory / "run.json").write_text(json.dumps(RUN))
    tables = {name: pa.Table.from_pylist(rows, table_schema(name)) for name, rows in _rows().items()}
    for number in range(films // FILMS_PER_PART):
        for name in ORDER:
            (directory / name).mkdir(exist_ok=True)
            sources = [f"subject{number:06d}/visit{i // 2:03d}/film.dcm" for i in range(2 * FILMS_PER_PART)]
            sources = sources if name == "knees" else sources[::2]
            keys = [sources, [hashlib.sha256(source.encode()).hexdigest() for source in sources]]
            table = tables[name]
            for i, values in enumerate(keys):
                table = table.set_column(i, table.schema.field(i), pa.array(values))
            write_part(directory / name / f"1-of-1-00000000-{number:06d}.parquet", table)


def _rows() -> dict[str, list[dict[str, object]]]:
    rng = np.random.default_rng(0)
    found: dict[str, list[dict[str, object]]] = {"knees": [], "log": [], "films": []}
    for _ in range(FILMS_PER_PART):
        now = datetime.now(UTC)
        found["films"].append({"status": "graded", "warnings": [], "knees": 2, "knees_graded": 2})
        found["log"].append(
            {"seconds": 0.1, "cpu_seconds": 0.1, "attempts": 1, "host": "node0001", "finished": now,
             "version": "12345678:1700000000123456789"}
        )  # fmt: skip
        for knee in range(2):
            abstains = bool(rng.random() < 0.1)
            found["knees"].append(
                {"knee": knee, "side": "RL"[knee], "status": "graded", "abstain": abstains,
                 "quality_score": rng.random(), "quality_findings": ["open_grade"] if abstains else [],
                 "coherence_findings": ["grade_moved"] if rng.random() < 0.6 else [],
                 "landmarks_px": rng.random(2 * NUM_LANDMARKS), **{target.name: 1 for target in TARGETS}}
            )  # fmt: skip
    return found

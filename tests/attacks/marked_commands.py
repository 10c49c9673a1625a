"""Every command on films with marks, in an order in which each finds the files of the commands before it.

`prepare_marked` writes the films and what `QUICK_STEPS` read beside them, in CI; `prepare_more` also what `FULL_STEPS`
read, in `make attack`. Many of them must fail: unwritable output, full disk, missing columns, missing or damaged films.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
import pydicom
from every_command import GRADER, ROOT, TINY
from identity_marks import EXAMPLE, NAME_MARK, add_marks, picture_of, write_films

INPUTS: Final = ("films", "OAI", "MOST", "KneeKL299", "tables", "program")
SMALL: Final = 12_000  # bytes of a file, for a full disk
_TINY: Final = " ".join(f"--set {setting}" for setting in TINY)
_TRAIN: Final = f"train {ROOT}/recipes/paper/proposed.yaml"
_FILM: Final = f"films/{NAME_MARK}000sound.dcm"
_METAL: Final = f"--implants {GRADER}"
_ROWS: Final = 100  # of the manifests
KNEES: Final = 23  # phantom knees; every tenth film is sound, so most of its films show another knee


class Step(NamedTuple):
    """A command line, the exit codes that are right, and the largest file that can be written."""

    line: str
    codes: tuple[int, ...] = (0,)
    largest: int = -1


QUICK_STEPS: Final = (
    Step("info --json"),
    Step("grade films -o graded --format json,html,csv,sr,gsps,sc,fhir", (1,)),
    Step(f"grade {_FILM} -o tables/films.csv/below", (2,)),
    Step(f"grade films/{NAME_MARK}missing.dcm -o none", (2,)),
    Step(f"sr read graded/dicom/{NAME_MARK}000sound.sr.dcm"),
    Step(f"sr read {_FILM}", (2,)),
    Step("cohort csv tables/films.csv -o own.parquet"),
    Step("cohort csv tables/no-path.csv -o none.parquet", (2,)),
    Step("viewer graded --export"),
    Step("agreement tables/readings.csv -o agreement --replicates 20"),
    Step("spool ls --spool nowhere", (2,)),
)
FULL_STEPS: Final = (
    Step(f"grade {_FILM} -o full-grade --format json,html", (2,), SMALL),
    Step("audit tables/films.csv -o audit"),
    Step(f"sr read films/{NAME_MARK}001modality.dcm", (2,)),
    Step("batch films -o batch --workers 1 --format sr,sc", (1,)),
    Step("batch tables/films.csv -o batch-table --workers 1 --log-format json", (1,)),
    Step("batch tables/films.csv -o none --path-column nothing", (2,)),
    Step(f"batch {_FILM} -o full-batch --workers 1", (2,), 3_000),
    Step("landmarks films -o marked --format pts,csv,coco,png", (1,)),
    Step(f"landmarks {_FILM} -o full-landmarks", (2,), SMALL),
    Step("share films -o shared --secret secret", (1,)),
    Step(f"share {_FILM} -o shared-full --secret secret", (2,), SMALL),
    Step("viewer graded --films nowhere --export"),
    Step("viewer batch --export"),
    Step("agreement graded", (2,)),
    Step("serve token ward --file tokens"),
    Step("serve --config tables/readings.csv", (2,)),
    Step("spool show 00 --spool nowhere", (2,)),
    Step("spool retry --all --spool nowhere", (2,)),
    Step("spool purge --older-than 1 --spool nowhere", (2,)),
    Step("phantom -n 2 --longest-px 300 -o phantoms"),
    Step("cohort phantom --root phantoms -o phantoms.parquet"),
    Step("cohort oai --root OAI -o oai.parquet"),
    Step("cohort most --root MOST -o most.parquet"),
    Step("cohort chen2018 --root KneeKL299 -o chen.parquet"),
    Step("cohort pts films marked -o pts.parquet", (0, 2)),
    Step("dataset tables/knees.parquet -o dataset --workers 1"),
    Step("dataset tables/damaged.parquet -o dataset-damaged --workers 1", (1, 2)),
    Step(f"{_TRAIN} --set data.datasets=[dataset] -o runs/a {_TINY}"),
    Step(f"{_TRAIN} --set data.datasets=[dataset] -o runs/b {_TINY}"),
    Step(f"{_TRAIN} --set data.datasets=[films] -o runs/c {_TINY}", (2,)),
    Step(f"reproduce --scale tiny --recipe proposed --seeds 1 --dataset dataset -o grid {_TINY}"),
    Step("tables runs -o tables-of-runs"),
    Step("ensemble runs/a/weights.safetensors runs/b/weights.safetensors -o both"),
    Step(f"ensemble {_FILM} {_FILM} -o none", (2,)),
    Step("evaluate --manifest tables/knees.parquet --split test -o scores"),
    Step("evaluate --manifest tables/damaged.parquet --split test -o scores-damaged", (0, 1)),
    Step("compare runs/a runs/b"),
    Step(f"compare runs/a {_FILM}", (2,)),
    Step("audit tables/knees.parquet -o audit-knees --predictions scores --split test"),
    Step("audit tables/no-path.csv -o none", (2,)),
    Step("drift --images tables/knees.parquet --reference tables/knees.parquet -o drift"),
    Step("calibrate --manifest tables/knees.parquet --split test --site ward -o site"),
    Step("calibrate --manifest tables/damaged.parquet --split test --site ward -o none", (1, 2)),
    Step("phantom --rois -n 240 --implants 0.5 --prevalence paper -o metal"),
    Step(
        f"quality-control --manifest tables/normal.parquet --phantoms metal -o controlled --share 1 {_METAL}",
        (0, 2),
    ),
)
PROGRAM: Final = """
import json, logging, resource, shlex, sys
from kneegrade.commands import main

for line, largest in json.load(sys.stdin):
    sys.argv = ["kneegrade", *shlex.split(line)]
    print(json.dumps(["begin", line]), file=sys.__stderr__, flush=True)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, limit[1]))
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    print(json.dumps([line, code]), file=sys.__stderr__, flush=True)
"""
HOOK: Final = """
import logging, os, sys
logging.raiseExceptions = False
logging.basicConfig(level=logging.DEBUG, handlers=[
    logging.StreamHandler(),
    logging.FileHandler(os.path.join(os.environ["KNEEGRADE_LOGS"], f"{os.getpid()}.log"), delay=True),
])
"""


def phantom_knees(number: int) -> tuple[list[np.ndarray], pd.DataFrame]:
    """16-bit pictures of phantom knees with 192 × 192 px, and their landmarks and grades."""
    from kneegrade.phantom import render_rois, sample_knee

    knees = [sample_knee(77, index, "uniform") for index in range(number)]
    pixels, landmarks = render_rois(knees, 192, 1.3)
    truth = [{"landmarks_px": points.reshape(-1).tolist(), **knee.grades}
             for knee, points in zip(knees, landmarks, strict=True)]  # fmt: skip
    return [np.round(picture * 60_000).astype(np.uint16) for picture in pixels.numpy()], pd.DataFrame(truth)


def prepare_marked(folder: Path, number: int) -> None:
    """Write films of one knee, one of them sound, and their tables into `folder`, for `QUICK_STEPS`."""
    knee = pydicom.dcmread(EXAMPLE).pixel_array[::4, ::4]
    write_films(folder / "films", number, [np.ascontiguousarray(knee)], every=number)
    write_tables(folder)


def prepare_more(folder: Path, number: int) -> None:
    """Write films of phantom knees, their tables and manifests, and downloads of studies, for all steps."""
    pictures, truth = phantom_knees(KNEES)
    sound = write_films(folder / "films", number, pictures, every=10)
    write_tables(folder)
    films = sorted((folder / "films").iterdir())
    rows = [{"knee_id": str(i), "subject_id": f"p{i}", "side": "R", "split": ("train", "test", "val", "test")[i % 4],
             "source": "own", **truth.iloc[i % len(sound) * 10 % KNEES]} for i in range(_ROWS)]  # fmt: skip
    for name, paths in (("knees", sound), ("damaged", films)):
        images = [f"../films/{paths[i % len(paths)].name}" for i in range(_ROWS)]
        pd.DataFrame(rows).assign(image_path=images).to_parquet(folder / "tables" / f"{name}.parquet")
    write_normal_knees(folder, sound, rows)
    write_studies(folder)


def write_normal_knees(folder: Path, sound: list[Path], rows: list[dict[str, object]]) -> None:
    """Write a manifest that is long enough for quality control."""
    more = [rows[i % len(sound)] | {"knee_id": str(i), "subject_id": f"p{i}",
            "image_path": f"../films/{sound[i % len(sound)].name}", "split": ("train", "val")[i % 2]}
            for i in range(240)]  # fmt: skip
    pd.DataFrame(more).to_parquet(folder / "tables/normal.parquet")


def write_tables(folder: Path) -> None:
    """Write tables of the films in folder/films: one of labels, one without paths and labels, and one of readings."""
    names = sorted(path.name for path in (folder / "films").iterdir())[:_ROWS]
    paths, numbers = [f"../films/{name}" for name in names], range(len(names))
    columns = {"path": paths, "image_path": paths, "knee_id": numbers, "subject_id": numbers, "side": "R", "kl": 1}
    (folder / "tables").mkdir()
    pd.DataFrame(columns).to_csv(folder / "tables/films.csv", index=False)
    pd.DataFrame(columns)[["knee_id", "side"]].to_csv(folder / "tables/no-path.csv", index=False)
    readings = [(name, 0, i, reader, (i + (reader == "b")) % 3) for i, name in enumerate(names) for reader in "ab"]
    pd.DataFrame(readings, columns=["film", "knee", "subject_id", "reader", "kl"]).to_csv(
        folder / "tables/readings.csv", index=False
    )


def write_studies(folder: Path) -> None:
    """Write downloads of three studies whose films have marks."""
    from kneegrade.cohorts.fake_studies import FakeOptions, write_fake_most, write_fake_oai

    write_fake_oai(folder / "OAI", FakeOptions(subjects=2, longest_px=200))
    write_fake_most(folder / "MOST", FakeOptions(subjects=2, longest_px=200))
    for path in [*(folder / "OAI").rglob("*"), *(folder / "MOST").rglob("*.dcm")]:
        if path.is_file() and path.read_bytes()[128:132] == b"DICM":
            with pydicom.config.disable_value_validation():
                film = pydicom.dcmread(path, defer_size=None)
                add_marks(film, keep=("AccessionNumber",)).save_as(path)
    for grade in range(5):
        crop = folder / "KneeKL299" / "train" / str(grade) / f"900000{grade}R.png"
        crop.parent.mkdir(parents=True)
        crop.write_bytes(picture_of(np.full((224, 224), 9000 * grade, np.uint16), ".png"))


def marked_environment(folder: Path) -> dict[str, str]:
    """Variables with which this process and its children log at debug level, to standard error and to program/logs."""
    program = folder / "program"
    (program / "logs").mkdir(parents=True, exist_ok=True)
    (program / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    path = os.pathsep.join([str(program), str(ROOT / "src")])
    return {**os.environ, "PYTHONPATH": path, "KNEEGRADE_LOGS": str(program / "logs"), "COLUMNS": "400"}


def run_steps(steps: tuple[Step, ...], folder: Path) -> tuple[dict[str, int], str, str]:
    """Run the steps in one process that logs at debug level, as do its children.

    Returns:
        Exit code of each line; standard output, error and logs; what is wrong: exit codes and tracebacks.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps([(step.line, step.largest) for step in steps]), cwd=folder,
        env=marked_environment(folder), capture_output=True, text=True, timeout=3000, check=False,
    )  # fmt: skip
    answers = [json.loads(line) for line in done.stderr.splitlines() if line.startswith('["')]
    codes = dict(answer for answer in answers if answer[0] != "begin")
    problems = [f"{step.line}: {codes.get(step.line)}" for step in steps if codes.get(step.line) not in step.codes]
    if "Traceback" in done.stderr:
        problems.append(done.stderr[max(0, done.stderr.index("Traceback") - 300) :][:4000])
    said = done.stdout + done.stderr
    for log in sorted((folder / "program" / "logs").iterdir()):
        said += log.read_text(errors="replace")
    return codes, said, "\n".join(problems)

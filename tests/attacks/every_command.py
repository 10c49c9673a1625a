"""Every command of kneegrade as a user calls it, in an order in which each finds the files of the commands before it.

`QUICK` takes seconds, `LONG` trains and fits. No argument is a URL.
"""

import shutil
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from PIL import Image

from kneegrade.commands import COMMANDS, cohort_app, serve_app, spool_app, sr_app

ROOT: Final = Path(__file__).parents[2]
GRADER: Final = ROOT / "src/kneegrade/weights/kneegrade-lite0.safetensors"
SERVERS: Final = {"serve", "serve token", "spool ls", "spool show", "spool retry", "spool purge", "viewer", "agreement"}
TINY: Final = (
    "model.trunk=resnet18", "model.roi_px=64", "train.epochs=1", "train.batch_size=2", "train.unlabelled_batch_size=2",
    "train.steps_per_epoch=2", "loss.grades_from=packaged", "train.bf16=false",
)  # fmt: skip
_TINY = " ".join(f"--set {setting}" for setting in TINY)

QUICK: Final = (
    "info",
    "grade examples/single_right.dcm -o graded -q --format json,html,csv,sr,gsps,sc,fhir",
    "sr read graded/dicom/single_right.sr.dcm",
    "batch examples/single_right.dcm -o batch -q --workers 1",
    "landmarks examples/single_right.dcm -o marks -q --format pts,csv,coco,png",
    "share examples/single_right.dcm -o shared --secret secret",
    "phantom -o films -n 2 --longest-px 300 -q",
    "cohort phantom --root films -o phantoms.parquet",
    "audit phantoms.parquet -o audit -q",
)
LONG: Final = (
    "grade examples/single_right.dcm -o openvino -q --runtime openvino",
    "info --speed",
    "cohort fake-oai --subjects 24 --longest-px 500 -o OAI",
    "cohort oai --root OAI --protocol paper -o oai.parquet",
    "cohort fake-most --subjects 4 --longest-px 300 -o MOST -q",
    "cohort most --root MOST -o most.parquet",
    "cohort chen2018 --root KneeKL299 -o chen.parquet",
    "cohort csv films.csv -o own.parquet",
    "cohort pts examples marks -o pts.parquet -q",
    "dataset oai.parquet -o dataset -q --workers 2",
    f"train recipes/paper/proposed.yaml --set data.datasets=[dataset] -o runs/a {_TINY} -q",
    f"train recipes/paper/proposed.yaml --set data.datasets=[dataset] -o runs/b {_TINY} -q",
    f"reproduce --scale tiny --recipe proposed --dataset dataset -o grid {_TINY} -q",
    "tables runs -o tables -q",
    "ensemble runs/a/weights.safetensors runs/b/weights.safetensors -o both",
    "evaluate --manifest oai.parquet --split test -o scores -q",
    "compare runs/a runs/b",
    "drift --images dataset --reference dataset -o drift -q",
    "phantom --rois -n 240 --implants 0.5 --prevalence paper -o metal -q",
    f"quality-control --manifest rois.parquet --phantoms metal -o controlled --share 1 --implants {GRADER}",
    "calibrate --manifest rois.parquet -o calibrated --level 0.8 --share 0.9",
)


def prepare(folder: Path) -> None:
    """Put what `QUICK` and `LONG` read into `folder`, which becomes the working directory."""
    for name in ("examples", "recipes"):
        shutil.copytree(ROOT / name, folder / name)
    for split in ("train", "val", "test"):
        for grade in range(5):
            crop = folder / "KneeKL299" / split / str(grade) / f"9{len(split)}0000{grade}R.png"
            crop.parent.mkdir(parents=True)
            Image.fromarray(np.full((224, 224), 40 * grade, np.uint8)).save(crop)
    (folder / "films.csv").write_text(
        "image_path,knee_id,subject_id,side,kl\nexamples/single_right.dcm,k1,p1,R,2\n", encoding="utf-8"
    )


def write_knees(folder: Path, number: int = 240) -> None:
    """A manifest of phantom knees without metal, rois.parquet, for quality control and calibration."""
    from kneegrade.phantom import render_rois, sample_knee

    rows = []
    for first in range(0, number, 20):
        knees = [sample_knee(77, index, "uniform") for index in range(first, first + 20)]
        pixels, landmarks = render_rois(knees, 192, 1.3)
        for index, (knee, picture, points) in enumerate(zip(knees, pixels.numpy(), landmarks, strict=True), first):
            path = folder / "rois" / f"{index}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray((picture * 255).astype(np.uint8)).save(path)
            rows.append({"image_path": str(path), "knee_id": str(index), "subject_id": f"p{index}", "side": "R",
                         "split": "train" if index % 2 else "val", "source": "phantom",
                         "landmarks_px": points.reshape(-1).tolist(), **knee.grades})  # fmt: skip
    pd.DataFrame(rows).to_parquet(folder / "rois.parquet")


def verb(line: str) -> str:
    """The command of a line: `cohort oai`, `sr read`, `serve token`, `serve`, `grade`."""
    words = line.split()
    has_two = words[0] in ("cohort", "sr", "serve", "spool") and not words[1].startswith("-")
    return " ".join(words[:2] if has_two else words[:1])


def all_verbs() -> set[str]:
    """Every command of `kneegrade --help`, and the subcommands of each."""
    groups = {"cohort": cohort_app, "sr": sr_app, "spool": spool_app, "serve": serve_app}
    found = set()
    for name in (name for verbs in COMMANDS.values() for name in verbs):
        if name not in groups or name == "serve":
            found.add(name)
        for command in groups[name].registered_commands if name in groups else ():
            found.add(f"{name} {(command.name or command.callback.__name__).replace('_', '-')}")
    return found

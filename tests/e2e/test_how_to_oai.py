"""Every command of docs/how-to/oai-most.md, in its order, on a fake OAI; only sizes are cut down."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
SMALLER = {"--subjects 60": "--subjects 24 --longest-px 500", "--scale paper": "--scale tiny --recipe proposed"}
TINY = (
    "model.trunk=resnet18", "model.roi_px=64", "train.epochs=1", "train.batch_size=2", "train.unlabelled_batch_size=2",
    "train.steps_per_epoch=3", "loss.grades_from=packaged", "train.bf16=false",
)  # fmt: skip


def commands() -> list[str]:
    """The commands of the page's blocks, but those about other cohorts."""
    text = (ROOT / "docs" / "how-to" / "oai-most.md").read_text(encoding="utf-8").partition("## Other cohorts")[0]
    blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.strip().splitlines()]


def test_the_page_has_the_commands_of_its_title():
    verbs = [" ".join(line.split()[1:3]) for line in commands()]
    assert [verb.split()[0] for verb in verbs] == [
        "cohort", "cohort", "cohort", "audit", "dataset", "train", "train", "reproduce", "tables", "evaluate"
    ]  # fmt: skip


@pytest.mark.slow
def test_from_a_fake_download_to_tables(tmp_path):
    for line in commands():
        command = line
        for found, smaller in SMALLER.items():
            command = command.replace(found, smaller)
        words = shlex.split(command)
        assert words[0] == "kneegrade"
        words = [str(ROOT / word) if word.startswith("recipes/") else word for word in words[1:]]
        if words[0] in ("train", "reproduce"):
            words += [word for setting in TINY for word in ("--set", setting)]
        done = subprocess.run(
            [sys.executable, "-m", "kneegrade", *words], cwd=tmp_path, capture_output=True, text=True, timeout=900,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    table = pd.read_parquet(tmp_path / "oai.parquet")
    assert {"train", "val", "test"} <= set(table["split"])
    assert (tmp_path / "oai.md").is_file()
    assert (tmp_path / "audit" / "audit.html").is_file()
    assert "Proposed" in (tmp_path / "tables" / "table2.md").read_text(encoding="utf-8")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["landmarks_from"] == "detector"
    assert metrics["kl"]["n"] > 0

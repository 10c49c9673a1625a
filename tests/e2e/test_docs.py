"""The commands and the Python code of README and the introductory pages run as written; only sizes are reduced."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import kneegrade
from kneegrade.commands import app

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "docs/get-started/first-report.md",
    "docs/get-started/first-study.md",
    "docs/how-to/own-landmarks.md",
    "docs/how-to/dicom-results.md",
    "docs/how-to/hospital-results.md",
    "docs/how-to/share.md",
)
SMALLER = {"INPUT...": "examples/single_right.dcm", "DIR": "out", "--number 24": "--number 8", "900": "300"}
ELSEWHERE = (
    "cache/",
    "pip install",
    "make ",
    "python benchmarks",
    "python3 -m venv",
    ".venv/",
)  # tested by CI or need data


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language; "" for blocks that name none."""
    found: list[str] = []
    inside: str | None = None
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            inside = None if inside is not None else line[3:].strip()
            if inside == language:
                found.append("")
        elif inside == language:
            found[-1] += line + "\n"
    return found


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    commands = [line for block in blocks(page, "") for line in block.splitlines() if line.strip()]
    ran = 0
    for line in commands:
        text = line.split("  #")[0].strip()
        if any(part in text for part in ELSEWHERE):
            continue
        for written, used in SMALLER.items():
            text = text.replace(written, used)
        program, *arguments = shlex.split(text)
        assert program == "kneegrade", line
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"
        ran += 1
    assert ran


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_the_python_code_of_a_page_runs(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), {})


def test_the_json_excerpt_is_that_of_the_example():
    (excerpt,) = (json.loads(block) for block in blocks("README.md", "json"))
    knee = kneegrade.grade(ROOT / "examples/bilateral.dcm").radiographs[0].knees[0]
    assert excerpt["side"] == knee.side
    assert excerpt["abstain"] == knee.abstain
    kl = knee.grades["kl"]
    assert excerpt["grades"]["kl"]["grade"] == kl.grade
    assert excerpt["grades"]["kl"]["probabilities"] == pytest.approx(kl.probabilities, abs=0.02)
    assert tuple(excerpt["grades"]["kl"]["set"]) == kl.prediction_set

"""The page on inputs names every code that the source can emit."""

import importlib.util
import re
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="needs the packages of the documentation")
ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "kneegrade"


@pytest.fixture(scope="module")
def hook():
    spec = importlib.util.spec_from_file_location("inputs", ROOT / "docs_hooks" / "inputs.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs_hooks")  # as mkdocs does
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(hook):
    return hook.on_page_markdown((ROOT / "docs" / "reference" / "inputs.md").read_text(encoding="utf-8"))


def test_every_code_that_is_written_in_the_source_is_in_the_table(page):
    """Found by their form in the text, not by the syntax tree that the page is made from."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    written = set(re.findall(r'\bcode="([a-z0-9_]+)"', text)) | set(re.findall(r'Finding\(\s*"([a-z0-9_]+)"', text))
    written |= set(re.findall(r'"(spacing_[a-z]+)":', text)) - {"spacing_source", "spacing_tag"}
    assert len(written) > 70
    missing = {code for code in written if f"| `{code}` | " not in page}
    assert missing == set()


def test_no_part_of_the_page_is_left_out(page):
    assert "<!-- generated" not in page
    for row in (
        "| JPEG 2000 Image Compression | 1.2.840.10008.1.2.4.91 | `pylibjpeg-openjpeg` |",
        "| Deflated Explicit VR Little Endian | 1.2.840.10008.1.2.1.99 | inflated within the limits",
        "| `pixels` | 100,000,000 | rows times columns",
        "| `more_knees` | finding | ‹seen› knees were seen",
        "| `grade` | Exit code 0: every knee",
    ):
        assert row in page, row


def test_every_code_of_a_film_or_knee_is_explained_with_the_report(hook):
    explained = (ROOT / "docs" / "reference" / "report-json.md").read_text(encoding="utf-8")
    rooms = ("imaging", "anatomy", "grader", "uncertainty", "coherence")
    arguments = {"array", "laterality", "limits", "source", "spacing", "empty_path"}  # errors of a call, not of a film
    codes = {code.code for code in hook.all_codes() if code.module.partition(".")[0] in rooms} - arguments
    assert {code for code in codes if f"`{code}`" not in explained} == set()


def test_a_code_that_cannot_be_resolved_stops_the_build(hook):
    import ast

    call = ast.parse("Finding(unknown_name, 'text')", mode="eval").body
    with pytest.raises(ValueError, match="does not know the codes of 'unknown_name'"):
        list(hook._codes_of(call, {}, "imaging.dicom.dicom_file"))

"""Codes: those of standards are in pydicom's dictionaries of PS3.16, private ones are well-formed and unique."""

import ast
from pathlib import Path

import pytest
from pydicom.sr._concepts_dict import concepts
from pydicom.sr.coding import Code

import kneegrade
from kneegrade.clinical import codes as c
from kneegrade.clinical.codes import TABLE, TableRow
from kneegrade.results import MORE_KNEES, Finding

STANDARD = [row for row in TABLE if row.code.scheme_designator != c.SCHEME]
NOT_IN_PYDICOM = {  # named in a template or by LOINC, but not in pydicom's dictionaries with this meaning
    ("260753009", "SCT"), ("18748-4", "LN"), ("{pixels}", "UCUM"),
}  # fmt: skip
NOT_ABOUT_A_READABLE_FILM = {
    "interrupted",
    "worker_died",
    "worker_timeout",
    "confident_disagreement",
    "falls_over_visits",
    "narrowing_against_width",
    "own_picture",
}


@pytest.mark.parametrize("row", STANDARD, ids=lambda row: row.code.value)
def test_a_standard_code_is_in_the_dictionary_with_its_meaning(row: TableRow) -> None:
    key = (row.code.value, row.code.scheme_designator)
    entries = [entry[row.code.value] for entry in concepts.get(key[1], {}).values() if key[0] in entry]
    if key in NOT_IN_PYDICOM:
        assert row.code.meaning not in [meaning for meaning, _ in entries]  # else the exception can go
        return
    groups = [str(group) for meaning, contexts in entries if meaning == row.code.meaning for group in contexts]
    assert [meaning for meaning, _ in entries if meaning == row.code.meaning]
    if "CID" in row.source:
        assert row.source.split("CID ")[1].split(";")[0].split(",")[0] in groups


def test_codes_are_unique_and_short_enough() -> None:
    keys = [(row.code.value, row.code.scheme_designator) for row in TABLE]
    assert len(set(keys)) == len(keys)
    for row in TABLE:
        assert 0 < len(row.code.value) <= 16
        assert 0 < len(row.code.meaning) <= 64
        assert row.code.meaning.isascii()
        assert row.source


def test_every_finding_of_the_program_about_a_film_has_a_code() -> None:
    package = Path(kneegrade.__file__).parent
    found, constants = set(), {"MORE_KNEES": MORE_KNEES}
    for path in package.rglob("*.py"):
        if "clinical" in path.parts or "training" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding" and node.args:
                first = node.args[0]
                found.add(first.value if isinstance(first, ast.Constant) else constants.get(getattr(first, "id", "")))
    found.discard(None)  # a variable
    assert MORE_KNEES in found
    assert len(found) > 20
    assert found - NOT_ABOUT_A_READABLE_FILM <= c.FINDINGS.keys()


def test_every_rule_of_coherence_has_a_code() -> None:
    from kneegrade.coherence.rules import RULES

    assert {rule.code for rule in RULES} <= c.FINDINGS.keys()


@pytest.mark.parametrize("name", sorted(c.FINDINGS))
def test_a_finding_is_found_again_by_its_code(name: str) -> None:
    code = c.finding_code(Finding(name, ""))
    assert c.finding_name(code.value, code.scheme_designator) == name


def test_an_unknown_finding_has_the_general_code() -> None:
    assert c.finding_code(Finding("new", "")) == c.OTHER_FINDING
    assert c.finding_name(c.OTHER_FINDING.value, c.SCHEME) is None


def test_codes_never_change_their_meaning() -> None:
    """A change here is a change of the meaning of objects in archives: give the new meaning a new code instead."""
    assert c.GRADE_VALUES["kl"][2] == Code("KL2", "99KNEEGRADE", "KL 2 (minimal)")
    assert c.GRADE_VALUES["jsn_medial"][3] == Code("OARSI3", "99KNEEGRADE", "OARSI 3 (severe)")
    assert c.GRADES["osteophyte_tibia_lateral"].value == "OARSI-OST-TL"

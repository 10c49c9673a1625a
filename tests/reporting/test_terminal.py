from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from kneegrade.reporting import grades_table
from kneegrade.reporting.report_labels import LANDMARK_CONFIDENCE
from kneegrade.reporting.terminal import landmarks_table, ungraded_lines
from kneegrade.results import Finding, GradedRadiograph, SiteReader
from kneegrade.schema import TARGET_NAMES


def printed(report, width, **options):
    console = Console(file=StringIO(), width=width, **options)
    console.print(grades_table(report))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_grades_are_never_cut(report, width):
    text = printed(report, width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text
    (row,) = [line for line in lines if "pair.dcm" in line]
    grades = report.radiographs[0].knees[0].grades
    shown = row.split()
    assert shown[1:10] == ["R", *(str(grades[name].grade) for name in TARGET_NAMES), "5.9/3.3"]


def test_source_appears_once_per_film_and_reasons_are_shown(report):
    text = printed(report, 200)
    assert text.count("half.dcm") == 1
    assert "The knee contains a metal implant" in text
    assert "no spacing" in text
    assert "Research use, not a medical device" in text


def test_a_correction_of_prevalences_names_no_reader(report):
    read, corrected = (replace(report, site=SiteReader("North", 60, {"kl": family})) for family in ("identity", "bias"))
    assert "KL: as read at North." in printed(read, 160)
    assert "KL: corrected for the prevalences at North." in printed(corrected, 160)


def test_control_characters_in_names_do_not_reach_the_terminal(report):
    film = GradedRadiograph("[red]a\x1b]0;owned\x07\u202egpj.dcm", reason=Finding("a", "b\x1b[2J"), failed=True)
    text = printed(replace(report, radiographs=(film,)), 160)
    assert "[red]a�]0;owned��gpj.dcm" in text
    assert "\x1b" not in text


def test_one_line_per_kind_of_ungraded_item(report):
    assert ungraded_lines(report) == [
        "1 of 5 files could not be read: 1 unreadable.",
        "1 of 5 films has no gradable knee: 1 no knee.",
        "1 knee was not graded on a film whose other knee was graded: 1 implant.",
    ]
    pair, half, plain, hip, broken = report.radiographs
    more = replace(report, radiographs=(half, half, hip, broken, hip, broken, replace(hip, knees=half.knees[1:])))
    assert ungraded_lines(more) == [
        "2 of 7 files could not be read: 2 unreadable.",
        "3 of 7 films have no gradable knee: 3 no knee.",
        "2 knees were not graded on films whose other knee was graded: 2 implant.",
    ]
    graded = replace(report, radiographs=(pair, plain))
    assert graded.all_graded
    assert ungraded_lines(graded) == []
    crowded = replace(
        report, radiographs=(replace(pair, warnings=(Finding("more_knees", "8 knees were seen."),)), plain)
    )
    assert not crowded.all_graded
    assert ungraded_lines(crowded) == ["1 of 2 pictures shows more knees than were graded."]


def test_landmarks_table_explains_the_confidence(report):
    console = Console(file=StringIO(), width=80)
    console.print(landmarks_table([("pair.dcm", "R", 0.8123, report.radiographs[0].knees[0].joint_space)]))
    text = " ".join(console.file.getvalue().split())
    assert "0.81" in text
    assert f"Conf.: {LANDMARK_CONFIDENCE}" in text

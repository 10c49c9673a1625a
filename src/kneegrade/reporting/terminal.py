"""Tables for the terminal: the grades of a run, and landmarks with joint space."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from kneegrade.measurements import JointSpace
from kneegrade.reporting.report_labels import (
    LANDMARK_CONFIDENCE,
    RESEARCH_USE,
    SHORT_LABELS,
    format_width,
    knee_rows,
    printable,
    reason_of,
)
from kneegrade.results import GradedKnee, GradedRadiograph, Report, SiteReader
from kneegrade.schema import TARGET_NAMES
from kneegrade.terminal_text import fitting

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_HEADINGS: Final = ("KL", "JSN\nL", "\nM", "Ost\nFL", "\nFM", "\nTL", "\nTM")  # each group is named once
_CAPTION: Final = (
    "KL 0-4 · JSN joint space narrowing 0-3 · Ost osteophytes 0-3 · F femur · T tibia · L lateral · M medial · "
    f"mm joint space width lateral/medial · Note: codes of findings; the report explains them\n{RESEARCH_USE}"
)


def grades_table(report: Report) -> "Table":
    """A table with a row per knee, or per radiograph without knees: film, side, grades, joint space width, note.

    It fits into 80 columns; film and note share the remaining width. The note is the reason why a knee was not graded,
    otherwise the codes of warnings, doubts and coherence findings.
    """
    from rich import box
    from rich.table import Table

    caption = _CAPTION if report.site is None else f"{_site_line(report.site)}\n{_CAPTION}"
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption=fitting(caption), caption_justify="left"
    )
    table.add_column("Film", ratio=3, overflow="fold", min_width=8)
    table.add_column("Knee", no_wrap=True)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("mm\nL/M", justify="right", no_wrap=True)
    table.add_column("Note", ratio=4, overflow="fold", min_width=8)
    previous: GradedRadiograph | None = None
    for radiograph, knee in knee_rows(report):
        table.add_row(*_cells(radiograph, knee, repeats=radiograph is previous))
        previous = radiograph
    return table


def _site_line(site: SiteReader) -> str:
    """What scale the grades are on."""
    mapped = ", ".join(SHORT_LABELS[name] for name in TARGET_NAMES if name in site.maps)
    scale = "as read at" if site.labelled else "corrected for the prevalences at"
    return f"{mapped}: {scale} {printable(site.name)}. report.json and grades.csv also have the study's grades."


def ungraded_lines(report: Report) -> list[str]:
    """One sentence per kind of item that was not graded, with the counts of the reasons; empty if all were graded."""
    films = report.radiographs
    failed = [film for film in films if film.status == "failed"]
    without = [film for film in films if film.status == "not_gradable"]
    single = [knee for film in films if film.status == "graded" for knee in film.knees if knee.status != "graded"]
    lines = []
    if failed:
        lines.append(f"{len(failed)} of {len(films)} files could not be read{_reasons(failed)}.")
    if without:
        verb = "has" if len(without) == 1 else "have"
        lines.append(f"{len(without)} of {len(films)} films {verb} no gradable knee{_reasons(without)}.")
    if len(single) == 1:
        lines.append(f"1 knee was not graded on a film whose other knee was graded{_reasons(single)}.")
    elif single:
        lines.append(f"{len(single)} knees were not graded on films whose other knee was graded{_reasons(single)}.")
    if more := sum(film.has_more_knees for film in films):
        lines.append(f"{more} of {len(films)} pictures {'shows' if more == 1 else 'show'} more knees than were graded.")
    return lines


def _reasons(items: Sequence[GradedRadiograph | GradedKnee]) -> str:
    """The codes of the reasons with their counts, the most frequent first: ": 2 no knee, 1 blur"."""
    found = Counter(reason.code.replace("_", " ") for item in items if (reason := reason_of(item)) is not None)
    return ": " + ", ".join(f"{number} {printable(code)}" for code, number in found.most_common())


def _cells(radiograph: GradedRadiograph, knee: GradedKnee | None, *, repeats: bool) -> "list[Text]":
    from rich.text import Text

    source = Text("" if repeats else fitting(printable(radiograph.source)))
    side = Text(fitting("–") if knee is None else "?" if knee.side == "unknown" else knee.side)
    grades = [_grade(knee, name) for name in TARGET_NAMES]
    note = _note(radiograph, knee, repeats=repeats)
    return [source, side, *grades, Text(_joint_space(knee)), note]


def _grade(knee: GradedKnee | None, name: str) -> "Text":
    from rich.text import Text

    if knee is None or knee.grades is None:
        return Text(fitting("–"), style="dim")
    grade = knee.grades[name].grade
    return Text(str(grade), style="dim" if grade == 0 else "bold" if grade > 1 else "")


def _joint_space(knee: GradedKnee | None) -> str:
    width = None if knee is None else knee.joint_space_width_mm
    return fitting("–") if width is None else f"{width.lateral:.1f}/{width.medial:.1f}"


def _note(radiograph: GradedRadiograph, knee: GradedKnee | None, *, repeats: bool) -> "Text":
    from rich.text import Text

    reason = reason_of(radiograph if knee is None else knee)
    if reason is not None:
        return Text(fitting(printable(reason.message)), style="red" if radiograph.failed else "yellow")
    findings = [*(() if repeats else radiograph.warnings)]
    if knee is not None:
        findings += [*knee.doubts, *(knee.coherence.findings if knee.coherence else ())]
    return Text(printable(", ".join(finding.code.replace("_", " ") for finding in findings)))


def landmarks_table(knees: Iterable[tuple[str, str, float, JointSpace]]) -> "Table":
    """A table with a row per knee: film, side, landmark confidence, joint space widths, convergence angle, tibia.

    Widths are given with their standard errors, in mm if the spacing is trusted, otherwise in % of the tibial width.

    Args:
        knees: for each knee the film's name, the side, the landmark confidence and the joint space.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    caption = (
        f"Conf.: {LANDMARK_CONFIDENCE}\n"
        "Medial: minimum joint space width · Lateral: width at 0.825 of the tibial width from its medial edge · "
        "Angle: convergence of the joint lines, positive if wider laterally · Tibia: width of the plateau · "
        "± standard error"
    )
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption=fitting(caption), caption_justify="left"
    )
    table.add_column("Film", ratio=3, overflow="fold", min_width=8)
    table.add_column("Knee", no_wrap=True)
    for heading in ("Conf.", "Medial", "Lateral", "Angle", "Tibia"):
        table.add_column(heading, justify="right", no_wrap=True)
    for source, side, confidence, space in knees:
        medial, lateral = (format_width(space, width) for width in (space.medial, space.lateral))
        angle = f"{space.convergence_deg.value:.1f} ± {space.convergence_deg.error:.1f}°"
        tibia = space.tibial_width_px.value
        extent = f"{tibia:.0f} px" if space.mm_per_px is None else f"{tibia * space.mm_per_px:.0f} mm"
        cells = (printable(source), side, f"{confidence:.2f}", medial, lateral, angle, extent)
        table.add_row(*(Text(fitting(cell)) for cell in cells))
    return table

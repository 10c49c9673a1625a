"""Reports: `Report` → JSON, HTML, CSV and a terminal table, one module per format.

`write_report` writes the files of a run. Importing this package is fast: jinja2, pillow and rich are imported by the
functions that need them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from kneegrade.errors import UsageError
from kneegrade.files import make_directory
from kneegrade.reporting.audit_page import write_audit
from kneegrade.reporting.csv_report import write_csv, write_rows
from kneegrade.reporting.film_journal import JOURNAL, film_journal
from kneegrade.reporting.html_report import write_html
from kneegrade.reporting.input_paths import INPUTS_FILE, write_inputs
from kneegrade.reporting.json_report import SCHEMA_VERSION, json_schema, to_dict, write_json
from kneegrade.reporting.terminal import grades_table
from kneegrade.results import Report

__all__ = [
    "FORMATS",
    "INPUTS_FILE",
    "JOURNAL",
    "SCHEMA_VERSION",
    "film_journal",
    "grades_table",
    "json_schema",
    "report_files",
    "to_dict",
    "write_audit",
    "write_csv",
    "write_html",
    "write_inputs",
    "write_json",
    "write_report",
    "write_rows",
]

_WRITERS: Final[Mapping[str, tuple[str, Callable[[Report, Path], None]]]] = {
    "json": ("report.json", write_json),
    "html": ("report.html", write_html),
    "csv": ("grades.csv", write_csv),
}
FORMATS: Final[tuple[str, ...]] = tuple(_WRITERS)


def report_files(formats: Iterable[str]) -> list[str]:
    """Names of the files that `write_report` writes for `formats`, which must be of `FORMATS`."""
    return [_WRITERS[name][0] for name in formats]


def write_report(report: Report, directory: Path, formats: Iterable[str] = FORMATS) -> dict[str, Path]:
    """Paths of the written files, by format: `report.json`, `report.html`, `grades.csv`.

    Args:
        report: the results of a run.
        directory: folder for the files; created if it does not exist. Files with these names are replaced.
        formats: which of `FORMATS` to write.

    Raises:
        UsageError: a format is unknown (nothing is written then), or a file cannot be written. The other files are
            written nevertheless; the message names both.
    """
    wanted = list(dict.fromkeys(formats))
    unknown = [name for name in wanted if name not in _WRITERS]
    if unknown:
        raise UsageError(f"Report format {unknown[0]!r} is unknown; choose from {', '.join(FORMATS)}.")
    make_directory(directory)
    paths: dict[str, Path] = {}
    failures: list[UsageError] = []
    for name in wanted:
        filename, write = _WRITERS[name]
        try:
            write(report, directory / filename)
        except UsageError as error:
            failures.append(error)
        else:
            paths[name] = directory / filename
    if failures:
        raise UsageError(f"{failures[0].message} {_written(directory, wanted, paths)}", code=failures[0].code)
    return paths


def _written(directory: Path, wanted: Sequence[str], paths: Mapping[str, Path]) -> str:
    """Sentences on which files were written, are missing, or are those of an earlier run."""
    names = {name: _WRITERS[name][0] for name in wanted if name not in paths}
    old = [name for name in names.values() if (directory / name).exists()]
    groups = (
        ("Written", [path.name for path in paths.values()]),
        ("Missing", [name for name in names.values() if name not in old]),
        ("Still of an earlier run", old),
    )
    return " ".join(f"{title}: {', '.join(files)}." for title, files in groups if files)

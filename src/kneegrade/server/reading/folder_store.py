"""`FolderStore`: the films of a folder that `kneegrade grade` or `kneegrade batch` wrote."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kneegrade.batch.run_file import RUN_FILE
from kneegrade.cohorts import subject_pattern
from kneegrade.errors import UnreadableFileError, UsageError
from kneegrade.imaging import stem_of
from kneegrade.server.reading.blind_study import study_readers
from kneegrade.server.reading.film_search import FilmSearch
from kneegrade.server.reading.page_settings import PageSettings
from kneegrade.server.reading.reading_film import FilmContent, FilmResults, ListedFilm
from kneegrade.server.reading.report_results import ReportResults
from kneegrade.server.reading.review_log import LOG_FILE, ReviewLog
from kneegrade.server.reading.run_records import REPORT, run_inputs
from kneegrade.server.reading.table_results import TableResults


class FolderStore:
    """Films, results and readings of a folder; see `reading_desk.ReadingStore`.

    Args:
        directory: with report.json of `grade`, or run.json and the tables of `batch`.
        films: files or folders of the films; None: the inputs that the run recorded.
        subject: regular expression; its first group, searched in a film's name without ending, is the person. None: the
            one that `page_settings` remembers. "" or none: a column `subject_id` of the table of films that was graded,
            else every film is a person of its own.

    Attributes:
        directory: see above.
        log: of the readings.

    Raises:
        UsageError: the folder has no results.
    """

    def __init__(self, directory: Path, films: Sequence[Path] | None = None, subject: str | None = None) -> None:
        self.directory = directory
        expression = PageSettings.of(directory).subject if subject is None else subject
        self._subject = subject_pattern(expression) if expression else None
        self._results: ReportResults | TableResults
        if (directory / REPORT).is_file():
            self._results = ReportResults(directory)
        elif (directory / RUN_FILE).is_file():
            self._results = TableResults(directory)
        else:
            raise UsageError(
                f"{directory} has neither {REPORT} nor {RUN_FILE}; give the output folder of `kneegrade grade` or "
                "`kneegrade batch`."
            )
        self._listed = [self._with_person(film) for film in self._results.listed()]
        self._by_key = {film.key: film for film in self._listed}
        self._search = self._film_search(films)
        self.log = ReviewLog(directory / LOG_FILE)

    @property
    def title(self) -> str:
        """Name of the folder."""
        return self.directory.resolve().name

    def worklist(self) -> list[ListedFilm]:
        """All films in the order of the run."""
        return self._listed

    def listed(self, key: str) -> ListedFilm:
        """The entry of a film; raises KeyError if there is none."""
        return self._by_key[key]

    def film(self, key: str) -> FilmResults:
        """The results of a film; raises KeyError if there is none."""
        return self._results.film(self._by_key[key])

    def content(self, key: str) -> FilmContent:
        """The file of a film, also if it was renamed, by its SHA-256.

        Raises:
            UnreadableFileError: no file with its content is found.
        """
        listed = self._by_key[key]
        found = self._search.find(listed.name, self._results.sha256(listed))
        if found is None:
            raise UnreadableFileError(
                "The film is not where it was when it was graded, or it was changed: no file there has its content. "
                "Start the viewer with --films and its folder, or grade it again.",
                code="no_such_file",
            )
        return found

    def recorded_path(self, key: str) -> str:
        """The path of a film when it was graded, of a member the archive's path and its own; raises KeyError.

        Where the run recorded no inputs, it is the film's name.
        """
        name, inputs = self._by_key[key].name, [path.absolute() for path in run_inputs(self.directory) or ()]
        if not inputs or "://" in name or Path(name).is_absolute():
            return name
        if len(inputs) == 1:
            return str(inputs[0] if inputs[0].name == name else inputs[0] / name)
        try:
            return str(Path(os.path.commonpath([path.parent for path in inputs])) / name)
        except ValueError:  # the inputs are on several drives
            return name

    def study_readers(self, name: str) -> tuple[str, ...]:
        """The readers of a study, as far as they are recorded."""
        return study_readers(self.directory, name)

    def _film_search(self, films: Sequence[Path] | None) -> FilmSearch:
        """Looks in `films`, else in the inputs of the run, else in the folders in which films usually are."""
        given = run_inputs(self.directory) if films is None else films
        usual = [Path(), self.directory.parent, self.directory]
        names = {film.name for film in self._listed}
        return FilmSearch(usual if given is None else given, names, by_content=given is not None)

    def _with_person(self, film: ListedFilm) -> ListedFilm:
        found = None if self._subject is None else self._subject.search(stem_of(film.name))
        return film if found is None else replace(film, person=found[1] or "")

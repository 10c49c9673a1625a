"""The film in a folder of an OAI release, as it lies there or packed as `<folder>.tar.gz` beside it."""

import tarfile
import zlib
from pathlib import Path, PurePosixPath

from kneegrade.cohorts.readings import Counts
from kneegrade.errors import CohortError

FILM_NAMES = ("001", "001.dcm", "00001")
MOST_BYTES = 256 << 20  # of one film


def film_in(root: Path, folder: str, unpack_to: Path | None, counts: Counts) -> str | None:
    """Path of the film in `folder` below `root`: `001` or the only file; None where there is none.

    Args:
        root: folder of the `contents.csv`.
        folder: as the list names it.
        unpack_to: packed films are unpacked below it, once; None leaves them out.
        counts: packed films are added, and archives that hold no film.
    """
    inner = PurePosixPath(*(part for part in folder.replace("\\", "/").split("/") if part not in ("", ".", "..")))
    place = root / inner
    film = _film(place)
    archive = place.with_name(place.name + ".tar.gz")
    if film is not None or not archive.is_file():
        return film
    if unpack_to is None:
        counts.add("films still packed as .tar.gz: unpack them, or give --unpack-to")
        return None
    target = (unpack_to / root.name / inner).resolve()
    film = _film(target) or _unpacked(archive, target)
    counts.add("films unpacked from .tar.gz" if film else "archives without a film, or damaged")
    return film


def _film(place: Path) -> str | None:
    for name in FILM_NAMES:
        if (place / name).is_file():
            return str(place / name)
    files = [path for path in place.iterdir() if path.is_file()] if place.is_dir() else []
    return str(files[0]) if len(files) == 1 else None


def _unpacked(archive: Path, target: Path) -> str | None:
    """Write the film of an archive into the folder `target`; no name in the archive is used as a path.

    Raises:
        CohortError: the folder cannot be written.
    """
    try:
        with tarfile.open(archive, "r:gz") as packed:
            members = [m for m in packed.getmembers() if m.isfile() and m.size <= MOST_BYTES]
            named = [m for m in members if PurePosixPath(m.name).name in FILM_NAMES]
            chosen = named[0] if named else members[0] if len(members) == 1 else None
            stream = None if chosen is None else packed.extractfile(chosen)
            film = None if stream is None else stream.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error):
        return None
    if film is None:
        return None
    try:
        target.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(target.name + ".part")
        draft.write_bytes(film)
        return str(draft.replace(target / FILM_NAMES[0]))
    except OSError as error:
        raise CohortError(
            f"{target} cannot be written ({error.strerror}); --unpack-to needs room for the films."
        ) from error

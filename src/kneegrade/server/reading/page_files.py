"""The files of the reader's page: HTML, CSS and JavaScript modules, with their headers."""

from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kneegrade.errors import UsageError

if TYPE_CHECKING:
    from fastapi import APIRouter

PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS: Final = {
    "Content-Security-Policy": PAGE_POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}  # fmt: skip
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def require_fastapi() -> None:
    """Check that FastAPI and uvicorn are installed.

    Raises:
        UsageError: they are not; the message names the extra.
    """
    try:
        import fastapi
        import uvicorn  # noqa: F401
    except ImportError:
        raise UsageError(
            'The reader\'s page needs FastAPI and uvicorn; install them with: pip install "kneegrade[serve]".',
            code="missing_package",
        ) from None
    del fastapi


def add_page(router: "APIRouter") -> None:
    """Add the routes of the files of the page, which are read once."""
    from fastapi import HTTPException, Response
    from fastapi.responses import RedirectResponse

    with as_file(files("kneegrade.server").joinpath("viewer")) as folder:
        pages = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in _TYPES}

    @router.get("/viewer", include_in_schema=False)
    def redirect() -> Response:
        return RedirectResponse("/viewer/")

    @router.get("/viewer/{name:path}", include_in_schema=False)
    def page(name: str) -> Response:
        wanted = name or "index.html"
        if wanted not in pages:
            raise HTTPException(404, "There is no such page.")
        return Response(pages[wanted], media_type=_TYPES[Path(wanted).suffix], headers=PAGE_HEADERS)

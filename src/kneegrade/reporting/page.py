"""What every page shares: templates, style and script from the package, and the content security policy."""

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from kneegrade.reporting.wording import printable

if TYPE_CHECKING:
    from jinja2 import Environment


def policy(style: str, script: str) -> str:
    """Content security policy that allows this style, this script and embedded pictures, and nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_sha256(style)}'; script-src '{_sha256(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _sha256(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def resource(name: str) -> str:
    """The text of a file in `templates/`, stripped."""
    return files("kneegrade.reporting").joinpath("templates", name).read_text(encoding="utf-8").strip()


@cache
def environment() -> "Environment":
    """Jinja2 with this package's templates: escapes everything, refuses unknown names."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("kneegrade.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["printable"] = printable
    return environment

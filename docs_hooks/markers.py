"""Generated parts of pages; the hooks of mkdocs import it from their folder."""

from collections.abc import Callable, Mapping


def filled(markdown: str, parts: Mapping[str, Callable[[], str]], prefix: str = "") -> str:
    """The page with its generated parts in place of the markers `<!-- generated: NAME -->`.

    Args:
        markdown: the page.
        parts: name → function that returns the part.
        prefix: of the names in the markers.
    """
    for name, make in parts.items():
        marker = f"<!-- generated: {prefix}{name} -->"
        if marker in markdown:
            markdown = markdown.replace(marker, make())
    return markdown

"""Contact sheets of labelled images for visual inspection, shared by the benchmarks."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont


def write_sheets(directory: Path, name: str, tiles: Sequence[tuple[str, Image.Image]], columns: int = 6) -> None:
    """Writes `name-0.png`, `name-1.png`, … into `directory`, each with at most four rows of titled tiles.

    Args:
        directory: created if missing.
        name: stem of the files.
        tiles: title and image of each tile.
        columns: tiles per row.
    """
    directory.mkdir(parents=True, exist_ok=True)
    side, font = max(max(tile.size) for _, tile in tiles), ImageFont.load_default(13)
    page = 4 * columns
    for first in range(0, len(tiles), page):
        part = tiles[first : first + page]
        sheet = Image.new("RGB", (columns * side, -(-len(part) // columns) * side))
        for position, (title, tile) in enumerate(part):
            corner = (position % columns * side, position // columns * side)
            sheet.paste(tile, corner)
            ImageDraw.Draw(sheet).text(
                (corner[0] + 3, corner[1] + 2), title, (0, 255, 255), font, stroke_width=2, stroke_fill=(0, 0, 0)
            )
        sheet.save(directory / f"{name}-{first // page}.png", optimize=True)

"""Speed of the reader's page in Chromium: a worklist of 10,000 films, films of ten megapixels, dragged landmarks.

    python benchmarks/viewer_speed.py [--films 10000] [--keep DIR] [--webgl]

Writes a folder of results as `kneegrade batch` does, in which the first films are DICOM files of ten megapixels, starts
`kneegrade viewer` on it, and drives the page. Prints one JSON object: milliseconds from the request to the first rows
of the worklist, from a click on a film to its pixels on the screen (`click_to_film_ms`, and `next_film_ms` for the next
film, which the page fetched before), frames per second while a landmark is dragged, time of the script in it, and from
a move to the new widths. Without a graphics card, Chromium has no WebGL2 and the page draws on a 2D canvas; `--webgl`
emulates it in software, where each frame costs more than on a card.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from playwright.sync_api import Page, sync_playwright
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from kneegrade.anatomy import Landmarks, measure
from kneegrade.anatomy.shape_model import ShapeModel
from kneegrade.batch.parquet import film_row, knee_rows, table_schema
from kneegrade.results import GradedKnee, GradedRadiograph, GradeResult, Quality
from kneegrade.schema import TARGETS

ROWS, COLUMNS, SPACING_MM = 2900, 3500, 0.12  # 10.2 megapixels
REAL_FILMS = 12
OPENED = 5  # films that are opened one after the other
DRAG_STEPS = 120
EMULATED = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def write_dicom(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(-1, 1, COLUMNS), np.linspace(-1, 1, ROWS))
    smooth = 2000 + 1500 * np.exp(-(((np.abs(x) - 0.5) / 0.2) ** 2)) - 600 * np.exp(-((y / 0.03) ** 2))
    pixels = (smooth + rng.normal(scale=40, size=smooth.shape)).clip(0, 4095).astype("<u2")
    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.file_meta.MediaStorageSOPClassUID = film.SOPClassUID = DigitalXRayImageStorageForPresentation
    film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID = generate_uid()
    film.Modality, film.PhotometricInterpretation = "DX", "MONOCHROME2"
    film.Rows, film.Columns, film.SamplesPerPixel = ROWS, COLUMNS, 1
    film.BitsAllocated, film.BitsStored, film.HighBit, film.PixelRepresentation = 16, 12, 11, 0
    film.ImagerPixelSpacing = [SPACING_MM, SPACING_MM]
    film.PixelData = pixels.tobytes()
    film.save_as(path, enforce_file_format=True)


def graded_film(name: str, sha256: str, rng: np.random.Generator) -> GradedRadiograph:
    knees = []
    for side, x in (("R", 0.25), ("L", 0.75)):
        points = ShapeModel.load().mean() / SPACING_MM * [1.0 if side == "R" else -1.0, 1.0]
        points = points + np.array([x * COLUMNS, ROWS / 2]) + rng.normal(scale=0.5, size=(74, 2))
        grades = {}
        for target in TARGETS:
            shares = rng.dirichlet(np.full(target.classes, 0.4))
            grades[target.name] = GradeResult(int(shares.argmax()), tuple(shares), (int(shares.argmax()),))
        space = measure(Landmarks(points, np.tile(np.eye(2), (74, 1, 1)), np.ones(74, bool)), SPACING_MM)
        knees.append(
            GradedKnee(
                "R" if side == "R" else "L",
                grades=grades,
                joint_space=space,
                landmarks_px=points,
                landmark_confidence=0.9,
                quality=Quality(0.5),
            )
        )
    return GradedRadiograph(name, tuple(knees), sha256=sha256)


def write_folder(folder: Path, films: int) -> Path:
    """The output folder of a batch of `films` films, of which the first `REAL_FILMS` exist."""
    rng, out = np.random.default_rng(0), folder / "out"
    (folder / "films").mkdir(parents=True)
    rows: dict[str, list[dict[str, Any]]] = {"films": [], "knees": [], "log": []}
    template = graded_film("film", "", rng)
    for i in range(films):
        name = f"film-{i:05d}.dcm"
        sha256 = f"{i:064x}"
        if i < REAL_FILMS:
            write_dicom(folder / "films" / name, i)
            sha256 = hashlib.sha256((folder / "films" / name).read_bytes()).hexdigest()
        film = graded_film(name, sha256, rng) if i < 200 else template
        rows["films"].append(film_row(film) | {"source": name, "sha256": sha256})
        rows["knees"] += [row | {"source": name, "sha256": sha256} for row in knee_rows(film)]
        rows["log"].append({"source": name, "sha256": sha256})
    for table, content in rows.items():
        (out / table).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(content, table_schema(table)), out / table / "0-of-1-a-0.parquet")
    run = {"inputs": [str(folder / "films")], "weights": {"grader": {"sha256": "0" * 64}}}
    (out / "run.json").write_text(json.dumps(run))
    return out


def open_film(page: Page, number: int) -> float:
    """Milliseconds from a click on a film to its pixels on the screen."""
    page.fill("#search", f"film-{number:05d}")
    page.locator(".row").first.click()
    page.wait_for_function(f"() => kneegrade.film?.name === 'film-{number:05d}.dcm' && !kneegrade.views[0].waiting")
    page.wait_for_timeout(100)
    return float(page.evaluate("kneegrade.page.openedMs"))


def drag(page: Page) -> dict[str, float]:
    page.evaluate("() => { kneegrade.views[0].view.k *= 3; kneegrade.views[0].fitted = false; }")
    page.keyboard.press("f")
    page.wait_for_timeout(200)
    box = page.locator(".hit[data-knee='0'][data-i='55']").first.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.evaluate(
        """() => {
          const t = (window.timing = { frames: 0, moves: 0, measured: 0, lastMove: 0, waits: [] });
          kneegrade.film.addEventListener("moving", () => { t.moves++; t.lastMove = performance.now(); });
          kneegrade.film.addEventListener("measured", () => { t.waits.push(performance.now() - t.lastMove); });
          const move = kneegrade.film.move.bind(kneegrade.film);
          kneegrade.film.move = (...a) => {
            const s = performance.now();
            move(...a);
            t.script += performance.now() - s;
          };
          const frame = () => { t.frames++; if (!t.end) requestAnimationFrame(frame); };
          requestAnimationFrame(frame);
        }"""
    )
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 1, y + 1)
    page.wait_for_timeout(300)
    page.evaluate("() => { timing.frames = timing.moves = timing.script = 0; timing.begin = performance.now(); }")
    for step in range(DRAG_STEPS):
        page.mouse.move(x + (step % 20) / 4, y + step / 10)
    seconds = page.evaluate("() => (performance.now() - timing.begin) / 1000")
    frames, moves = page.evaluate("() => [timing.frames, timing.moves]")
    page.evaluate("() => { timing.waits = []; }")
    waits = []
    for step in range(10):
        page.evaluate("() => { timing.waits = []; }")
        page.mouse.move(x + 5, y + 15 + step)
        page.wait_for_function("() => timing.waits.length > 0")
        waits.append(page.evaluate("() => timing.waits.at(-1)"))
    script = page.evaluate("() => timing.script / timing.moves")
    page.mouse.up()
    page.evaluate("() => { timing.end = true; }")
    return {
        "frames_per_second": frames / seconds,
        "script_ms_per_move": script,
        "moves_per_second": moves / seconds,
        "widths_ms": median(waits),
    }


def measure_page(link: str, *, webgl: bool) -> dict[str, Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", *(EMULATED if webgl else [])]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(link)  # the browser starts its processes
        page.wait_for_selector(".row")
        page.wait_for_timeout(3000)  # and the server loads the network in the background
        start = time.perf_counter()
        page.reload()
        page.wait_for_selector(".row")
        rows = time.perf_counter() - start
        page.select_option("#sort", "order")
        cold = [open_film(page, number) for number in range(1, 1 + 2 * OPENED, 2)]
        page.fill("#search", "")
        page.select_option("#sort", "name")
        page.locator(".row").first.click()
        page.wait_for_timeout(3000)
        warm = []
        for _ in range(OPENED):
            page.keyboard.press("n")
            page.wait_for_timeout(2500)
            warm.append(float(page.evaluate("kneegrade.page.openedMs")))
        result = {
            "worklist_ms": 1000 * rows, "click_to_film_ms": median(cold),
            "next_film_ms": median(warm), **drag(page),
        }  # fmt: skip
        browser.close()
    return {name: round(value, 1) for name, value in result.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=10_000)
    parser.add_argument("--keep", type=Path, help="folder that is used again")
    parser.add_argument("--webgl", action="store_true", help="WebGL2 emulated in software instead of the 2D canvas")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        out = folder / "out" if (folder / "out").exists() else write_folder(folder, arguments.films)
        command = [sys.executable, "-u", "-m", "kneegrade", "viewer", str(out), "--reader", "anna"]
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                link = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
                ready = time.perf_counter() - start
                print(
                    json.dumps(
                        {
                            "films": arguments.films,
                            "start_s": round(ready, 1),
                            **measure_page(link, webgl=arguments.webgl),
                        },
                        indent=1,
                    )
                )
            finally:
                server.terminate()


if __name__ == "__main__":
    main()

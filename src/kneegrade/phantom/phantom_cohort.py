"""`write_cohort`: many synthetic knees on disk with their manifest, resumable and the same for the same seed."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kneegrade.errors import UsageError
from kneegrade.phantom.film import FilmKnee, FilmOptions, FilmScene, Layout, compose_film, develop_film
from kneegrade.phantom.film_dicom import DicomOptions, write_film
from kneegrade.phantom.phantom_knee import PhantomKnee, check_identity, sample_knee
from kneegrade.phantom.prevalence import Prevalence, second_reading, tuple_probabilities
from kneegrade.phantom.rois import FOV_MM, render_roi, roi_exposure, roi_placement, roi_rotation_deg
from kneegrade.schema import TARGET_NAMES

Progress = Callable[[int, int], None]  # (done, all)
Kind = Literal["films", "rois"]

ROI_SIZE_PX = 320
ROI_FILE, TABLE_FILE = "rois.npy", "truth.parquet"
CHUNK = 64
RENDERER = 2  # another number whenever the same seed gives other pictures, so that old and new ones do not mix


@dataclass(frozen=True)
class Cohort:
    """What a cohort consists of; two that are equal have the same bytes.

    Attributes:
        number: films, or single knees.
        prevalence: population of the grades.
        seed: of the population.
        kind: "films" (DICOM) or "rois" (an array of single knees).
        implants: share of knees with metal; the grades of replaced joints are missing in the manifest.
        distractors: share of films without a knee, listed in `no_knee.csv`; no single knee is one.
        readers: whether the manifest holds a second reader's labels, `<grade>_reader2`.
    """

    number: int
    prevalence: Prevalence = "natural"
    seed: int = 0
    kind: Kind = "films"
    implants: float = 0.0
    distractors: float = 0.0
    readers: bool = False

    def __post_init__(self) -> None:
        shares = (self.implants, self.distractors)
        if self.number < 1 or self.kind not in get_args(Kind) or min(shares) < 0 or max(shares) > 1:
            raise UsageError(
                f"A cohort of {self.number} {self.kind!r} with shares {shares} of implants and distractors was asked "
                "for; at least 1 of films or rois and shares between 0 and 1 are expected."
            )
        check_identity(self.seed, 0)
        tuple_probabilities(self.prevalence)  # refuses an unknown name before anything is written

    def knee(self, index: int) -> PhantomKnee:
        """Knee `index` of the population."""
        return sample_knee(self.seed, index, self.prevalence, implants=self.implants)


def write_cohort(directory: Path, cohort: Cohort, progress: Progress | None = None) -> Path:
    """Write a cohort and return the path of its manifest, `truth.parquet`.

    "films" writes `number` DICOM films (about half with two knees); "rois" writes `number` single knees into
    `rois.npy`, (number, 320, 320) uint8, which can be memory-mapped. A second call goes on where the first stopped, and
    a larger number of films continues a smaller one.

    The manifest has a row per knee: identity, grades (of a second reader too if asked for), landmarks in pixels,
    outline and joint space in mm, view and exposure, and as JSON in `nuisance` the build, spurs, implant and, on films,
    markers and borders. Every knee is of split "train": a synthetic one measures nothing that a real one should.

    Raises:
        UsageError: the folder holds another cohort's pictures.
    """
    directory.mkdir(parents=True, exist_ok=True)
    whole = cohort.number if cohort.kind == "rois" else ""
    shares = f"{cohort.implants} {cohort.distractors}"
    identity = f"renderer {RENDERER} {cohort.kind} {cohort.prevalence} {cohort.seed} {shares} {whole}".strip()
    _check_marker(directory, identity)
    rows = (_film_rows if cohort.kind == "films" else _roi_rows)(directory, cohort, progress or (lambda done, of: None))
    return _write_table(directory / TABLE_FILE, rows)


def _check_marker(directory: Path, identity: str) -> None:
    """Note what this folder holds, and refuse to mix two cohorts."""
    marker = directory / "cohort.txt"
    if not marker.exists():
        _write_text(marker, identity + "\n")
    elif marker.read_text(encoding="utf-8").strip() != identity:
        raise UsageError(f"{directory} holds another cohort; give an empty folder or the same settings.")


def _write_text(path: Path, text: str) -> None:
    """A small file that appears whole or not at all."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _write_table(path: Path, rows: Iterator[dict[str, Any]]) -> Path:
    """Parquet of all rows, written in groups so that memory does not grow with their number."""
    draft = path.with_name(path.name + ".part")
    writer: pq.ParquetWriter | None = None
    while group := list(islice(rows, CHUNK)):
        frame = pd.DataFrame(group)
        kinds = {name: "Int64" for name in frame.columns if name.removesuffix("_reader2") in TARGET_NAMES}
        frame = frame.astype(kinds | {"implant": "string"})
        table = pa.Table.from_pandas(frame, schema=writer.schema if writer else None, preserve_index=False)
        writer = writer or pq.ParquetWriter(draft, table.schema)
        writer.write_table(table)
    if writer is None:
        raise UsageError("No film of this cohort shows a knee; ask for more films or fewer distractors.")
    writer.close()
    return draft.replace(path)


def _film_rows(directory: Path, cohort: Cohort, report: Progress) -> Iterator[dict[str, Any]]:
    """Write the films that are not there yet; the rows of all, and a list of those without a knee."""
    (directory / "films").mkdir(exist_ok=True)
    empty = []
    for index in range(cohort.number):
        name = f"films/{index:06d}.dcm"
        stored = dicom_options(cohort.seed, index)
        options = FilmOptions(_layout(cohort, index), cohort.prevalence, cohort.implants)
        scene = compose_film(cohort.seed, index, options)
        if not (directory / name).exists():
            write_film(directory / name, develop_film(scene), stored)
        for shown in scene.knees:
            yield _film_row(cohort, scene, shown, stored)
        empty += [] if scene.knees else [name]
        report(index + 1, cohort.number)
    if cohort.distractors:
        _write_text(directory / "no_knee.csv", "\n".join(["image_path", *empty]) + "\n")


def _film_row(cohort: Cohort, scene: FilmScene, shown: FilmKnee, stored: DicomOptions) -> dict[str, Any]:
    """Row of one knee of a film."""
    rotation = next(turn for side, _, _, turn in scene.plan.places if side == shown.side)
    name = f"films/{scene.index:06d}.dcm"
    return knee_row(cohort, shown.knee, shown.landmarks_px, name, {"overlay": asdict(scene.overlay)}) | {
        "view": scene.plan.view,
        "pixel_spacing_mm": scene.pixel_spacing_mm,
        "magnification": scene.plan.magnification,
        "rotation_deg": rotation,
        "layout": scene.plan.layout,
        "modality": stored.modality,
        "bits": stored.bits,
        "photometric": stored.photometric,
        "compression": stored.compression,
        "spacing_tag": stored.spacing,
        **asdict(scene.exposure),
    }


def _layout(cohort: Cohort, index: int) -> Layout:
    """The layout of a cohort's film: half bilateral, a quarter each single, but for the share without a knee."""
    rng = np.random.default_rng(np.random.SeedSequence([cohort.seed, index, 5]))
    layouts: tuple[Layout, ...] = ("bilateral", "bilateral", "single_right", "single_left")
    layout = layouts[rng.integers(4)]
    return "none" if rng.random() < cohort.distractors else layout


def dicom_options(seed: int, index: int) -> DicomOptions:
    """How a cohort's film is stored: all the usual kinds, drawn from (seed, index)."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, index, 6]))
    bits = int(rng.integers(10, 17))
    inverted, is_dx = rng.random() < 0.4, rng.random() < 0.5
    spacings: tuple[Literal["ImagerPixelSpacing", "PixelSpacing", "none"], ...]
    spacings = ("ImagerPixelSpacing", "ImagerPixelSpacing", "PixelSpacing", "none")
    compressions: tuple[Literal["none", "jpeg2000", "rle"], ...] = ("none", "jpeg2000", "jpeg2000", "rle")
    return DicomOptions(
        bits=bits,
        photometric="MONOCHROME1" if inverted else "MONOCHROME2",
        spacing="ImagerPixelSpacing" if is_dx else spacings[rng.integers(4)],  # a DX must state the detector's
        compression=compressions[rng.integers(4)],
        modality="DX" if is_dx else "CR",
    )


def _roi_rows(directory: Path, cohort: Cohort, report: Progress) -> Iterator[dict[str, Any]]:
    """Draw the single knees not drawn yet into the array; the rows of all. `done.txt` counts finished pictures."""
    number = cohort.number
    final, draft, counter = (directory / name for name in (ROI_FILE, ROI_FILE + ".part", "done.txt"))
    done = int(counter.read_text()) if counter.exists() and draft.exists() else 0
    done = number if final.exists() else done
    array = None
    if done < number:
        shape = (number, ROI_SIZE_PX, ROI_SIZE_PX)
        array = np.lib.format.open_memmap(draft, mode="r+" if done else "w+", dtype=np.uint8, shape=shape)
    for index in range(number):
        knee = cohort.knee(index)
        if array is not None and index >= done:
            array[index] = np.rint(render_roi(knee, ROI_SIZE_PX)[0] * 255)
            if (index + 1) % CHUNK == 0:
                array.flush()
                _write_text(counter, str(index + 1))
            report(index + 1, number)
        yield _roi_row(cohort, knee)
    if array is not None:
        array.flush()
        del array
        draft.replace(final)
        counter.unlink(missing_ok=True)


def _roi_row(cohort: Cohort, knee: PhantomKnee) -> dict[str, Any]:
    """Row of one region; its picture is number `roi_index` of the array."""
    landmarks = roi_placement(knee, ROI_SIZE_PX).to_px(knee.outline_mm)
    return knee_row(cohort, knee, landmarks, ROI_FILE, {}) | {
        "view": "AP",
        "pixel_spacing_mm": FOV_MM / ROI_SIZE_PX,
        "rotation_deg": roi_rotation_deg(knee),
        "roi_index": knee.index,
        **asdict(roi_exposure(knee)),
    }


def knee_row(
    cohort: Cohort, knee: PhantomKnee, landmarks_px: NDArray[np.float64], path: str, drawn: Mapping[str, Any]
) -> dict[str, Any]:
    """What the manifest says of any synthetic knee; grades are None where a joint is replaced.

    Args:
        cohort: it is of.
        knee: itself.
        landmarks_px: (74, 2) in pixels of the stored picture.
        path: of the picture, from the manifest's folder.
        drawn: what else was drawn, for the column `nuisance`.
    """
    grades = dict(knee.grades) if knee.gradable else dict.fromkeys(TARGET_NAMES)
    second: dict[str, int | None] = {}
    if cohort.readers:
        read = second_reading(knee.grades, knee.seed, knee.index)
        second = {f"{name}_reader2": value if knee.gradable else None for name, value in read.items()}
    nuisance = {
        "build": asdict(knee.build),
        "spurs": [asdict(spur) for spur in knee.spurs],
        "attrition_mm": dict(knee.attrition_mm),
        "implant": asdict(knee.implant) if knee.implant else None,
        "drawn_joint_space_mm": asdict(knee.drawn_joint_space_mm),
        **drawn,
    }
    return {
        "image_path": path,
        "knee_id": f"P{knee.seed}-{knee.index // 2:06d}-{knee.side}",
        "subject_id": f"P{knee.seed}-{knee.index // 2:06d}",
        "side": knee.side,
        "visit": 0,
        **grades,
        **second,
        "landmarks_px": landmarks_px.reshape(-1).tolist(),
        "split": "train",
        "source": "phantom",
        "outline_mm": knee.outline_mm.reshape(-1).tolist(),
        "joint_space_medial_mm": knee.joint_space_mm.medial,
        "joint_space_lateral_mm": knee.joint_space_mm.lateral,
        "implant": knee.implant.kind if knee.implant else None,
        "nuisance": json.dumps(nuisance),
    }

"""`write_cohort`: a directory of synthetic knees with their manifest; resumable, and reproducible from its seed."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kneegrade.errors import UsageError
from kneegrade.files import make_directory, new_array, replacing, write_text
from kneegrade.phantom.film import FilmKnee, FilmOptions, FilmScene, Layout, compose_film, render_scene
from kneegrade.phantom.film_dicom import DicomOptions, write_film
from kneegrade.phantom.phantom_knee import PhantomKnee, check_identity, sample_knee
from kneegrade.phantom.prevalence import Prevalence, second_reading, tuple_probabilities
from kneegrade.phantom.rois import FOV_MM, render_roi, roi_exposure, roi_placement, roi_rotation_deg
from kneegrade.progress import Progress
from kneegrade.schema import TARGET_NAMES

Kind = Literal["films", "rois"]

ROI_SIZE_PX = 320
ROI_FILE, TABLE_FILE, MARKER_FILE = "rois.npy", "truth.parquet", "cohort.txt"
CHUNK = 64  # rows per group of the manifest, and images between two checkpoints
RENDERER = 2  # increased when the same seed gives different images, so that old and new images are not mixed


@dataclass(frozen=True)
class Cohort:
    """Specification of a cohort; equal specifications give the same bytes.

    Attributes:
        number: number of films, or of single knees.
        prevalence: population of the grades.
        seed: seed of the population.
        kind: "films" (DICOM) or "rois" (an array of single knees).
        implants: share of knees with metal; the grades of replaced joints are missing in the manifest.
        distractors: share of films without a knee, which are listed in `no_knee.csv`; ignored for "rois".
        readers: whether the manifest has the labels of a second reader, `<grade>_reader2`.
        longest_px: longer side of the films in pixels; None for their full resolution; ignored for "rois".

    Raises:
        UsageError: an attribute is out of range.
    """

    number: int
    prevalence: Prevalence = "natural"
    seed: int = 0
    kind: Kind = "films"
    implants: float = 0.0
    distractors: float = 0.0
    readers: bool = False
    longest_px: int | None = None

    def __post_init__(self) -> None:
        shares = (self.implants, self.distractors)
        if self.number < 1 or self.kind not in get_args(Kind) or min(shares) < 0 or max(shares) > 1:
            raise UsageError(
                f"Invalid cohort: {self.number} {self.kind!r}, shares of implants and distractors {shares}. "
                "Expected at least 1 of films or rois, and shares between 0 and 1."
            )
        check_identity(self.seed, 0)
        tuple_probabilities(self.prevalence)  # raises for an unknown name before any file is written

    def knee(self, index: int) -> PhantomKnee:
        """Knee `index` of the population."""
        return sample_knee(self.seed, index, self.prevalence, implants=self.implants)


def write_cohort(directory: Path, cohort: Cohort, progress: Progress | None = None) -> Path:
    """Write a cohort and return the path of its manifest, `truth.parquet`.

    "films" writes `number` DICOM films (about half with two knees); "rois" writes `number` single knees into
    `rois.npy`, (number, 320, 320) uint8, which can be memory-mapped. A second call resumes an interrupted one, and a
    larger number of films extends an existing cohort.

    The manifest has one row per knee: identity, grades (optionally of a second reader), landmarks in pixels, outline
    and joint space in mm, view and exposure. Its column `nuisance` is JSON with the build, spurs, implant and, for
    films, markers and borders. Every knee has split "train": synthetic knees must not replace real ones in evaluation.

    Args:
        directory: output folder, created if missing.
        cohort: specification of the cohort.
        progress: called with (done, total) after each film or knee.

    Raises:
        UsageError: the folder contains another cohort, or no film of the cohort shows a knee.
    """
    make_directory(directory)
    whole = cohort.number if cohort.kind == "rois" else ""
    shares = f"{cohort.implants} {cohort.distractors}"
    identity = f"renderer {RENDERER} {cohort.kind} {cohort.prevalence} {cohort.seed} {shares} {whole}".strip()
    if cohort.longest_px is not None:
        identity += f" {cohort.longest_px} px"
    _check_marker(directory, identity)
    rows = (_film_rows if cohort.kind == "films" else _roi_rows)(
        directory, cohort, progress or (lambda done, total, loss=None: None)
    )
    try:
        return _write_table(directory / TABLE_FILE, rows)
    except UsageError:
        if os.listdir(directory) == [MARKER_FILE]:  # nothing was written; another cohort may have the folder
            (directory / MARKER_FILE).unlink()
        raise


def _check_marker(directory: Path, identity: str) -> None:
    """Record the cohort's identity in the folder; raise a UsageError if the folder contains another cohort."""
    marker = directory / MARKER_FILE
    if not marker.exists():
        write_text(marker, identity + "\n")
    elif marker.read_text(encoding="utf-8").strip() != identity:
        raise UsageError(f"{directory} contains another cohort; choose an empty folder or repeat the same settings.")


def _write_table(path: Path, rows: Iterator[dict[str, Any]]) -> Path:
    """Write all rows as Parquet, in groups, so that memory use does not grow with the number of rows."""
    tables = _tables(rows)
    first = next(tables, None)
    if first is None:
        raise UsageError(
            "No film of this cohort shows a knee; increase the number of films or reduce the share of distractors."
        )
    with replacing(path, "wb") as stream, pq.ParquetWriter(stream, first.schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table)
    return path


def _tables(rows: Iterator[dict[str, Any]]) -> Iterator[pa.Table]:
    """Groups of `CHUNK` rows as tables with the schema of the first group."""
    schema: pa.Schema | None = None
    while group := list(islice(rows, CHUNK)):
        frame = pd.DataFrame(group)
        dtypes = {name: "Int64" for name in frame.columns if name.removesuffix("_reader2") in TARGET_NAMES}
        frame = frame.astype(dtypes | {"implant": "string"})
        table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
        schema = schema or table.schema
        yield table


def _film_rows(directory: Path, cohort: Cohort, report: Progress) -> Iterator[dict[str, Any]]:
    """Write the films that do not exist yet and the list of films without a knee; yield the rows of all films."""
    (directory / "films").mkdir(exist_ok=True)
    without_knee = []
    for index in range(cohort.number):
        name = f"films/{index:06d}.dcm"
        encoding = dicom_options(cohort.seed, index)
        options = FilmOptions(_layout(cohort, index), cohort.prevalence, cohort.implants, longest_px=cohort.longest_px)
        scene = compose_film(cohort.seed, index, options)
        if not (directory / name).exists():
            write_film(directory / name, render_scene(scene), encoding)
        for shown in scene.knees:
            yield _film_row(cohort, scene, shown, encoding)
        without_knee += [] if scene.knees else [name]
        report(index + 1, cohort.number)
    if cohort.distractors:
        write_text(directory / "no_knee.csv", "\n".join(["image_path", *without_knee]) + "\n")


def _film_row(cohort: Cohort, scene: FilmScene, shown: FilmKnee, encoding: DicomOptions) -> dict[str, Any]:
    """Manifest row of one knee of a film."""
    rotation = next(pose.rotation_deg for pose in scene.plan.poses if pose.side == shown.side)
    name = f"films/{scene.index:06d}.dcm"
    return knee_row(cohort, shown.knee, shown.landmarks_px, name, {"overlay": asdict(scene.overlay)}) | {
        "view": scene.plan.view,
        "pixel_spacing_mm": scene.pixel_spacing_mm,
        "magnification": scene.plan.magnification,
        "rotation_deg": rotation,
        "layout": scene.plan.layout,
        "modality": encoding.modality,
        "bits": encoding.bits,
        "photometric": encoding.photometric,
        "compression": encoding.compression,
        "spacing_tag": encoding.spacing,
        **asdict(scene.exposure),
    }


def _layout(cohort: Cohort, index: int) -> Layout:
    """Layout of a film: "none" for the share of distractors, else half bilateral and a quarter for each side."""
    rng = np.random.default_rng(np.random.SeedSequence([cohort.seed, index, 5]))
    layouts: tuple[Layout, ...] = ("bilateral", "bilateral", "single_right", "single_left")
    layout = layouts[rng.integers(4)]
    return "none" if rng.random() < cohort.distractors else layout


def dicom_options(seed: int, index: int) -> DicomOptions:
    """DICOM encoding of a cohort's film, drawn from (seed, index) among the common encodings."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, index, 6]))
    bits = int(rng.integers(10, 17))
    inverted, is_dx = rng.random() < 0.4, rng.random() < 0.5
    spacings: tuple[Literal["ImagerPixelSpacing", "PixelSpacing", "none"], ...]
    spacings = ("ImagerPixelSpacing", "ImagerPixelSpacing", "PixelSpacing", "none")
    compressions: tuple[Literal["none", "jpeg2000", "rle"], ...] = ("none", "jpeg2000", "jpeg2000", "rle")
    return DicomOptions(
        bits=bits,
        photometric="MONOCHROME1" if inverted else "MONOCHROME2",
        spacing="ImagerPixelSpacing" if is_dx else spacings[rng.integers(4)],  # required in DX
        compression=compressions[rng.integers(4)],
        modality="DX" if is_dx else "CR",
    )


def _roi_rows(directory: Path, cohort: Cohort, report: Progress) -> Iterator[dict[str, Any]]:
    """Render the single knees that do not exist yet into `rois.npy`; yield the rows of all knees.

    Until the array is complete it has the suffix ".part", and `done.txt` has the number of images that are safely
    written to it.
    """
    number = cohort.number
    final, draft, counter = (directory / name for name in (ROI_FILE, ROI_FILE + ".part", "done.txt"))
    done = int(counter.read_text()) if counter.exists() and draft.exists() else 0
    done = number if final.exists() else done
    array = None
    if done < number:
        shape = (number, ROI_SIZE_PX, ROI_SIZE_PX)
        array = np.lib.format.open_memmap(draft, mode="r+") if done else new_array(draft, np.uint8, shape)
    for index in range(number):
        knee = cohort.knee(index)
        if array is not None and index >= done:
            array[index] = np.rint(render_roi(knee, ROI_SIZE_PX)[0] * 255)
            if (index + 1) % CHUNK == 0:
                array.flush()
                write_text(counter, str(index + 1))
            report(index + 1, number)
        yield _roi_row(cohort, knee)
    if array is not None:
        array.flush()
        del array
        draft.replace(final)
        counter.unlink(missing_ok=True)


def _roi_row(cohort: Cohort, knee: PhantomKnee) -> dict[str, Any]:
    """Manifest row of one single knee; its image has the index `roi_index` in the array."""
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
    """Manifest columns that films and single knees share; grades are None if the joint is replaced.

    Args:
        cohort: the cohort of the knee.
        knee: the knee.
        landmarks_px: (74, 2) in pixels of the stored image.
        path: path of the image relative to the manifest's folder.
        drawn: further random choices for the column `nuisance`.
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

"""`write_cohort`: many synthetic knees on disk with their manifest, resumable and the same for the same seed."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kneegrade.errors import UsageError
from kneegrade.phantom.dicom import DicomOptions, write_film
from kneegrade.phantom.film import FilmKnee, FilmScene, compose_film, develop_film
from kneegrade.phantom.grades import Prevalence, tuple_probabilities
from kneegrade.phantom.knee import PhantomKnee, sample_knee
from kneegrade.phantom.roi import render_roi, roi_landmarks
from kneegrade.schema import TARGET_NAMES

Progress = Callable[[int, int], None]  # (done, all)

ROI_SIZE_PX = 320
ROI_FOV_MM = 130.0
ROI_FILE, TABLE_FILE = "rois.npy", "truth.parquet"
CHUNK = 64


def write_cohort(
    directory: Path,
    number: int,
    prevalence: str = "natural",
    seed: int = 0,
    *,
    kind: Literal["films", "rois"] = "films",
    progress: Progress | None = None,
) -> Path:
    """Write a cohort and return the path of its manifest, `truth.parquet`.

    "films" writes `number` DICOM films (about half with two knees); "rois" writes `number` single knees into
    `rois.npy`, (number, 320, 320) uint8, which can be memory-mapped. A second call goes on where the first stopped.

    Every knee is of split "train": a synthetic one measures nothing that a real one should.

    Raises:
        UsageError: number, kind or prevalence is wrong, or the folder holds another cohort's pictures.
    """
    if number < 1 or kind not in ("films", "rois"):
        raise UsageError(f"A cohort of {number} {kind!r} was asked for; at least 1 of films or rois is expected.")
    population = cast(Prevalence, prevalence)
    tuple_probabilities(population)  # refuses an unknown name before anything is written
    directory.mkdir(parents=True, exist_ok=True)
    _check_marker(directory, f"{kind} {prevalence} {seed} {number if kind == 'rois' else ''}".strip())
    report = progress or (lambda done, whole: None)
    write = _write_films if kind == "films" else _write_rois
    rows = write(directory, number, population, seed, report)
    draft = directory / (TABLE_FILE + ".part")
    pd.DataFrame(rows).astype(dict.fromkeys(TARGET_NAMES, "Int64")).to_parquet(draft, index=False)
    return draft.replace(directory / TABLE_FILE)


def _check_marker(directory: Path, identity: str) -> None:
    """Note what this folder holds, and refuse to mix two cohorts."""
    marker = directory / "cohort.txt"
    if marker.exists() and marker.read_text(encoding="utf-8").strip() != identity:
        raise UsageError(f"{directory} holds another cohort; give an empty folder or the same settings.")
    marker.write_text(identity + "\n", encoding="utf-8")


def _write_films(
    directory: Path, number: int, prevalence: Prevalence, seed: int, report: Progress
) -> list[dict[str, Any]]:
    """Films that are not there yet, and the rows of all."""
    rows: list[dict[str, Any]] = []
    (directory / "films").mkdir(exist_ok=True)
    for index in range(number):
        path = directory / "films" / f"{index:06d}.dcm"
        options = film_options(seed, index)
        scene = compose_film(seed, index, _layout(seed, index), prevalence=prevalence)
        if not path.exists():
            write_film(path, develop_film(scene), options)
        rows += [_film_row(scene, shown, options) for shown in scene.knees]
        report(index + 1, number)
    return rows


def _film_row(scene: FilmScene, shown: FilmKnee, options: DicomOptions) -> dict[str, Any]:
    """Row of one knee of a film."""
    return knee_row(shown.knee, shown.landmarks_px, f"films/{scene.index:06d}.dcm") | {
        "subject_id": f"P{scene.seed}-{scene.index:06d}",
        "pixel_spacing_mm": scene.pixel_spacing_mm,
        "magnification": scene.plan.magnification,
        "layout": scene.plan.layout,
        "rotation_deg": next(turn for side, _, _, turn in scene.plan.places if side == shown.side),
        "modality": options.modality,
        "bits": options.bits,
        "photometric": options.photometric,
        "compression": options.compression,
        "spacing_tag": options.spacing,
        **asdict(scene.exposure),
    }


def _layout(seed: int, index: int) -> Literal["bilateral", "single_right", "single_left"]:
    """The layout of a cohort's film: half bilateral, a quarter each single."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, index, 5]))
    layouts: tuple[Literal["bilateral", "single_right", "single_left"], ...]
    layouts = ("bilateral", "bilateral", "single_right", "single_left")
    return layouts[rng.integers(4)]


def film_options(seed: int, index: int) -> DicomOptions:
    """How a cohort's film is stored: all the usual kinds, drawn from (seed, index)."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, index, 6]))
    bits = int(rng.integers(10, 17))
    inverted, modality = rng.random() < 0.4, rng.random() < 0.5
    spacings: tuple[Literal["ImagerPixelSpacing", "PixelSpacing", "none"], ...]
    spacings = ("ImagerPixelSpacing", "ImagerPixelSpacing", "PixelSpacing", "none")
    compressions: tuple[Literal["none", "jpeg2000", "rle"], ...] = ("none", "jpeg2000", "jpeg2000", "rle")
    return DicomOptions(
        bits=bits,
        photometric="MONOCHROME1" if inverted else "MONOCHROME2",
        spacing=spacings[rng.integers(4)],
        compression=compressions[rng.integers(4)],
        modality="DX" if modality else "CR",
    )


def _write_rois(
    directory: Path, number: int, prevalence: Prevalence, seed: int, report: Progress
) -> list[dict[str, Any]]:
    """Single knees not drawn yet into the array, and the rows of all; `done.txt` counts finished pictures."""
    final, draft, counter = (directory / name for name in (ROI_FILE, ROI_FILE + ".part", "done.txt"))
    done = number if final.exists() else (int(counter.read_text()) if counter.exists() and draft.exists() else 0)
    if done < number:
        shape = (number, ROI_SIZE_PX, ROI_SIZE_PX)
        mode: Literal["r+", "w+"] = "r+" if done else "w+"
        array = np.lib.format.open_memmap(draft, mode=mode, dtype=np.uint8, shape=shape)
        for index in range(done, number):
            pixels, _ = render_roi(sample_knee(seed, index, prevalence), ROI_SIZE_PX, ROI_FOV_MM)
            array[index] = np.rint(pixels * 255)
            if (index + 1) % CHUNK == 0:
                array.flush()
                counter.write_text(str(index + 1))
            report(index + 1, number)
        array.flush()
        del array
        draft.replace(final)
        counter.unlink(missing_ok=True)
    return [_roi_row(sample_knee(seed, index, prevalence)) for index in range(number)]


def _roi_row(knee: PhantomKnee) -> dict[str, Any]:
    """Row of one region; its picture is number `roi_index` of the array."""
    return knee_row(knee, roi_landmarks(knee, ROI_SIZE_PX, ROI_FOV_MM), ROI_FILE) | {
        "subject_id": f"P{knee.seed}-{knee.index:06d}",
        "pixel_spacing_mm": ROI_FOV_MM / ROI_SIZE_PX,
        "roi_index": knee.index,
    }


def knee_row(knee: PhantomKnee, landmarks_px: NDArray[np.float64], path: str) -> dict[str, Any]:
    """What the manifest says of any synthetic knee."""
    build = knee.build
    return {
        "image_path": path,
        "knee_id": f"P{knee.seed}-{knee.index:06d}-{knee.side}",
        "side": knee.side,
        "visit": 0,
        "view": "AP",
        **knee.grades,
        "landmarks_px": landmarks_px.reshape(-1).tolist(),
        "split": "train",
        "source": "phantom",
        "joint_space_medial_mm": knee.joint_space_mm.medial,
        "joint_space_lateral_mm": knee.joint_space_mm.lateral,
        "leg_half_width_mm": build.leg_half_width,
        "fat_mm": build.fat,
        "bone_volume_fraction": build.bone_volume_fraction,
    }

"""`write_example_study`: the two synthetic films and their truth that README, demo and tests use."""

import json
from pathlib import Path
from typing import Any

from kneegrade.phantom.dicom import DicomOptions, write_film
from kneegrade.phantom.film import FilmOptions, PhantomFilm, render_film

EXAMPLE_SEED = 2021
BILATERAL_INDEX, SINGLE_INDEX = 1127, 121  # KL 0 beside KL 3; KL 2


def write_example_study(directory: Path) -> None:
    """Write `bilateral.dcm`, `single_right.dcm` and `truth.json` into a folder, made if need be.

    The bilateral film is 12-bit MONOCHROME1, JPEG 2000 lossless, with its detector's spacing; the single one is 16-bit
    MONOCHROME2 without any spacing.
    """
    directory.mkdir(parents=True, exist_ok=True)
    bilateral = render_film(EXAMPLE_SEED, BILATERAL_INDEX, FilmOptions("bilateral", "uniform", longest_px=1700))
    single = render_film(EXAMPLE_SEED, SINGLE_INDEX, FilmOptions("single_right", "uniform", longest_px=1200))
    write_film(
        directory / "bilateral.dcm", bilateral, DicomOptions(12, "MONOCHROME1", "ImagerPixelSpacing", "jpeg2000")
    )
    write_film(directory / "single_right.dcm", single, DicomOptions(16, "MONOCHROME2", "none", "none", "CR"))
    truth = {
        "note": "Synthetic radiographs with known truth; they show no person.",
        "bilateral.dcm": film_truth(bilateral),
        "single_right.dcm": film_truth(single),
    }
    (directory / "truth.json").write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")


def film_truth(film: PhantomFilm) -> dict[str, Any]:
    """What is known of a film, ready for JSON; joint space in mm of the knee, not of its magnified shadow."""
    return {
        "seed": film.seed,
        "index": film.index,
        "pixel_spacing_mm": round(film.pixel_spacing_mm, 6),
        "magnification": round(film.plan.magnification, 4),
        "knees": [
            {
                "side": shown.side,
                "grades": dict(shown.knee.grades),
                "joint_space_width_mm": {
                    "medial": round(shown.knee.joint_space_mm.medial, 3),
                    "lateral": round(shown.knee.joint_space_mm.lateral, 3),
                },
                "landmarks_px": [[round(float(x), 2), round(float(y), 2)] for x, y in shown.landmarks_px],
            }
            for shown in film.knees
        ],
    }

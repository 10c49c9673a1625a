"""Chen 2018: single-knee crops of OAI baseline films with published KL grades (CC BY 4.0).

Mendeley Data, doi 10.17632/56rmx5bjcr.1. Files are `{train,val,test}/{0..4}/<ID><L|R>.(png|jpg)`, published below
`kneeKL224` and `kneeKL299` (the size in pixels). The images are not mirrored and L/R is the anatomical side. The people
are those of the OAI and have the same `subject_id`. No part of the data set is included in this package.

Labels may be softened, to allow for reader error: two readers of a film agree on KL in about seven knees of ten, and KL
is nearly a function of the six OARSI grades. Another network's predictions of those six, made from the image without
the published KL, are therefore an independent estimate of KL, and part of each label is moved to it.
"""

import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kneegrade.anatomy.landmark_files import read_pts
from kneegrade.coherence import raked_table, smoothed_table
from kneegrade.cohorts.manifest import check_manifest
from kneegrade.errors import RecipeError
from kneegrade.files import make_directory
from kneegrade.schema import OARSI_NAMES, TARGETS, grade_tuple_counts
from kneegrade.uncertainty import CoherentDecoder

SPLITS = ("train", "val", "test")
CROP = re.compile(r"(?:.*/)?((?:train|val|test)/[0-4]/\d+[LR]\.(?:png|jpe?g))", re.IGNORECASE)
LARGE_CROPS = "kneeKL299/"  # preferred to the crops of 224 px, which the archive holds too
MAX_CROP_BYTES = 4 << 20
EXPONENT = 0.7  # of prior and joint table; the lowest −log likelihood of 5,778 readings among 0.5, 0.7 and 1


def chen2018_manifest(
    root: Path, soft_labels: Path | None = None, *, given_kl: bool = True, landmarks: Path | None = None,
    known_landmarks: bool = True, soften_kl: float = 0.0,
) -> pd.DataFrame:  # fmt: skip
    """Return the manifest of an unpacked copy; image paths are absolute.

    Args:
        root: folder that holds `train`, `val` or `test`, at most three levels below.
        soft_labels: Parquet table of another network's predictions for these crops: `path`, `landmarks_px`,
            `landmark_confidence` and, per OARSI grade, `<grade>_image` and `<grade>_given_kl`.
        given_kl: use the soft labels conditioned on the published KL (Bayes); False uses those of the image alone.
        landmarks: folder of `.pts` files, `<split>/<KL>/<name>.pts`. Their landmarks replace those of `soft_labels`;
            crops without a file are excluded.
        known_landmarks: use the landmarks of `soft_labels`; False omits them, and the landmark detector is run where
            the manifest is used.
        soften_kl: share of the KL label of each training crop that is moved to the KL implied by the soft OARSI labels
            of the image alone (`kl_from_oarsi`). Other splits keep the published KL.

    Raises:
        RecipeError: no crop was found, a crop is not in the table of soft labels, or `soften_kl` is used without it.
    """
    rows = []
    for path in _crops(root):
        subject, side = path.stem[:-1], path.stem[-1]
        split, kl = path.parts[-3], int(path.parts[-2])
        rows.append(
            {"image_path": str(path.resolve()), "knee_id": f"chen2018-{path.stem}", "subject_id": f"oai-{subject}",
             "side": side, "split": split, "source": "chen2018", "kl": kl, "path": f"{split}/{kl}/{path.stem}"}
        )  # fmt: skip
    if not rows:
        raise RecipeError(
            f"{root} contains no crops. Expected files <split>/<KL>/<ID><L|R>.png or .jpg"
            + ("; unpack the archive first." if root.is_file() else ".")
        )
    table = pd.DataFrame(rows)
    if soft_labels is not None:
        table = _with_soft_labels(table, soft_labels, "given_kl" if given_kl else "image", soften_kl)
        if not known_landmarks:
            table = table.drop(columns=["landmarks_px", "landmark_confidence"])
    elif soften_kl:
        raise RecipeError("Softening KL labels needs soft OARSI labels. Give their table with --soft-labels.")
    if landmarks is not None:
        table = _with_landmarks(table, landmarks)
    table = table.drop(columns="path")
    check_manifest(table)
    return table


@contextmanager
def chen2018_folder(root: Path) -> Iterator[Path]:
    """Yield a folder with the crops: `root` itself, or a temporary folder with the crops of a zip archive.

    Args:
        root: folder or zip archive.

    Raises:
        RecipeError: the file is not a zip archive, or the archive holds the crops twice or a crop that is too large.
    """
    if root.is_dir():
        yield root
        return
    if not zipfile.is_zipfile(root):
        raise RecipeError(f"{root} is neither a folder nor a zip archive.")
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(root) as archive:
            _unpack(archive, Path(folder))
        yield Path(folder)


def _unpack(archive: zipfile.ZipFile, folder: Path) -> None:
    """Write the crops of an archive below `folder`; only the part of a name that matches `CROP` is used as a path."""
    crops = [(info, match[1]) for info in archive.infolist() if (match := CROP.fullmatch(info.filename))]
    large = [(info, name) for info, name in crops if LARGE_CROPS in info.filename]
    crops = large or crops
    if len({name for _, name in crops}) < len(crops):
        raise RecipeError("The archive contains the crops more than once. Unpack one of its folders.")
    for info, name in crops:
        if info.file_size > MAX_CROP_BYTES:
            raise RecipeError(
                f"{name} in the archive has {info.file_size:,} bytes; at most {MAX_CROP_BYTES:,} are expected."
            )
        path = folder / name
        make_directory(path.parent)
        path.write_bytes(archive.read(info))


def _crops(root: Path) -> list[Path]:
    """Return the crops of `root` or of the one folder, at most three levels below, that has some; 299 px is preferred.

    Raises:
        RecipeError: several folders have crops.
    """
    folders = [root, *(folder for depth in ("*/", "*/*/", "*/*/*/") for folder in sorted(root.glob(depth)))]
    found = {
        folder: crops
        for folder in folders
        if (crops := [p for s in SPLITS for p in (folder / s).glob("[0-4]/*") if CROP.fullmatch(_crop_name(p))])
    }
    large = {folder: crops for folder, crops in found.items() if folder.name == LARGE_CROPS.rstrip("/")}
    found = large or found
    if len(found) > 1:
        raise RecipeError(f"{root} contains the crops in several folders. Choose one of them.")
    return sorted(*found.values()) if found else []


def _crop_name(path: Path) -> str:
    """Return `<split>/<KL>/<file>`."""
    return "/".join(path.parts[-3:])


def _with_soft_labels(table: pd.DataFrame, soft_labels: Path, kind: str, soften_kl: float) -> pd.DataFrame:
    """Return the table with landmarks and soft OARSI labels of `kind` ("image" or "given_kl"), and soft KL labels."""
    predictions = pd.read_parquet(soft_labels)
    predictions["path"] = predictions["path"].str.rsplit(".", n=1).str[0]
    merged = table.merge(predictions, on="path", how="left", validate="one_to_one")
    if merged["landmarks_px"].isna().any():
        raise RecipeError(f"{int(merged['landmarks_px'].isna().sum())} crops have no row in {soft_labels.name}.")
    labels = {f"{name}_probabilities": merged[f"{name}_{kind}"] for name in OARSI_NAMES}
    if soften_kl:
        labels = {"kl_probabilities": _soft_kl(merged, soften_kl), **labels}
    return table.assign(
        landmarks_px=merged["landmarks_px"], landmark_confidence=merged["landmark_confidence"], **labels
    )


def _soft_kl(merged: pd.DataFrame, share: float) -> pd.Series:
    """Return a KL distribution per training crop, None for the other splits."""
    training = merged[merged["split"] == "train"]
    kl = training["kl"].to_numpy()
    prior = (np.bincount(kl, minlength=TARGETS[0].classes) + 0.5) / (len(kl) + 0.5 * TARGETS[0].classes)
    implied = kl_from_oarsi({name: np.stack(training[f"{name}_image"].to_list()) for name in OARSI_NAMES}, prior)
    soft = pd.Series([None] * len(merged), index=merged.index, dtype=object)
    soft[training.index] = pd.Series(softened_labels(kl, implied, share).tolist(), index=training.index)
    return soft


def kl_from_oarsi(oarsi: Mapping[str, NDArray[np.floating]], prior: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the (N, 5) distributions of KL implied by distributions of the six OARSI grades.

    Coherent decoding (`kneegrade.uncertainty.joint_decoding`) with the packaged joint table and without evidence on KL
    itself. The table is raked to `prior` and to the means of the six distributions.

    Args:
        oarsi: OARSI grade name → (N, 4) distributions.
        prior: (5,) distribution of KL among these knees.
    """
    means = {1 + axis: oarsi[name].mean(0, dtype=np.float64) for axis, name in enumerate(OARSI_NAMES)}
    table = raked_table(smoothed_table(grade_tuple_counts()), {0: np.asarray(prior, dtype=np.float64), **means})
    # prior**EXPONENT cancels the prior in the decoder, which leaves no evidence on KL
    neutral = np.broadcast_to(prior**EXPONENT, (len(oarsi[OARSI_NAMES[0]]), len(prior)))
    evidence = np.concatenate([neutral, *(oarsi[name] for name in OARSI_NAMES)], axis=1)
    return CoherentDecoder(table, EXPONENT, EXPONENT).marginals(evidence)[:, TARGETS[0].one_hot]


def softened_labels(kl: NDArray[np.integer], implied: NDArray[np.floating], share: float) -> NDArray[np.float64]:
    """Return (N, 5) distributions: (1 − `share`) · one-hot of the grade read + `share` · `implied`.

    With a share below 0.5 the grade read stays the most probable.

    Args:
        kl: (N,) grades read.
        implied: (N, 5) distributions of `kl_from_oarsi`.
        share: weight of `implied`, 0 to 1.
    """
    return np.asarray((1 - share) * np.eye(implied.shape[1])[kl] + share * implied)


def _with_landmarks(table: pd.DataFrame, landmarks: Path) -> pd.DataFrame:
    """Return the rows that have a `.pts` file, with its landmarks."""
    files = [landmarks / f"{path}.pts" for path in table["path"]]
    present = [file.is_file() for file in files]
    if not any(present):
        raise RecipeError(
            f"{landmarks} contains no landmarks; expected files such as {files[0].relative_to(landmarks)}."
        )
    points = [read_pts(file)[0].reshape(-1).tolist() for file in files if file.is_file()]
    return table[present].reset_index(drop=True).assign(landmarks_px=points)

"""Chen 2018: single-knee crops of OAI baseline films with published KL grades (CC BY 4.0).

Mendeley Data, doi 10.17632/56rmx5bjcr.1; folders `{train,val,test}/{0..4}/<ID><L|R>.(png|jpg)`, as published below
`kneeKL224` and `kneeKL299`. The pictures are not mirrored and L/R is the true side; the people are the OAI's, and are
named as there. Nothing of it enters this package.

Kellgren-Lawrence labels that allow for the reader's error: a part of each goes where the knee's OARSI grades point.

Two readers of a film agree on KL in about seven knees of ten, and KL is nearly a function of the six OARSI grades. What
another network says of those six, without having seen the reading, is a second opinion on it.
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
from kneegrade.schema import OARSI_NAMES, TARGETS, grade_tuple_counts
from kneegrade.uncertainty import CoherentDecoder

EXPONENT = 0.7  # of prior and joint table: least −log likelihood of 5,778 readings among 0.5, 0.7 and 1


def kl_from_oarsi(oarsi: Mapping[str, NDArray[np.floating]], prior: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N, 5) distribution of KL that six distributions of OARSI grades imply under the packaged joint table.

    Coherent decoding (`kneegrade.uncertainty.joint_decoding`) with no evidence on KL itself; the table is raked to
    `prior` and to the means of the six.

    Args:
        oarsi: OARSI grade name → (N, 4).
        prior: (5,) distribution of KL among these knees.
    """
    means = {1 + axis: oarsi[name].mean(0, dtype=np.float64) for axis, name in enumerate(OARSI_NAMES)}
    table = raked_table(smoothed_table(grade_tuple_counts()), {0: np.asarray(prior, dtype=np.float64), **means})
    silent = np.broadcast_to(prior**EXPONENT, (len(oarsi[OARSI_NAMES[0]]), len(prior)))  # cancels the prior's exponent
    evidence = np.concatenate([silent, *(oarsi[name] for name in OARSI_NAMES)], axis=1)
    return CoherentDecoder(table, EXPONENT, EXPONENT).marginals(evidence)[:, TARGETS[0].one_hot]


def softened(kl: NDArray[np.integer], opinion: NDArray[np.floating], share: float) -> NDArray[np.float64]:
    """(N, 5) distributions: 1 − `share` at the grade read, `share` as the second opinion (N, 5) says.

    Below a share of 0.5 the grade read stays the likeliest.
    """
    return np.asarray((1 - share) * np.eye(opinion.shape[1])[kl] + share * opinion)


SPLITS = ("train", "val", "test")
MEMBER = re.compile(r"(?:.*/)?((?:train|val|test)/[0-4]/\d+[LR]\.(?:png|jpe?g))", re.IGNORECASE)
FINER = "kneeKL299/"  # the archive has the crops at 224 px too
MOST_BYTES = 4 << 20  # of one crop


def chen2018_manifest(
    root: Path, soft_labels: Path | None = None, *, given_kl: bool = True, landmarks: Path | None = None,
    known_landmarks: bool = True, soften_kl: float = 0.0,
) -> pd.DataFrame:  # fmt: skip
    """The manifest of an unpacked copy, image paths absolute.

    Args:
        root: folder that holds `train`, `val` or `test`, or the one folder that does.
        soft_labels: Parquet table with `path`, `landmarks_px` and `<grade>_image` / `<grade>_given_kl` columns:
            another network's predictions for these crops.
        landmarks: folder of `.pts` files, `<split>/<KL>/<name>.pts`, whose points take the place of the table's; crops
            without one are left out.
        given_kl: take the soft labels after Bayes with the published KL, else those of the image alone.
        known_landmarks: take landmarks from the table of soft labels; else knees come without, and the detector looks
            for them where the manifest is used.
        soften_kl: share of each training crop's KL label that goes where its soft OARSI labels, of the image alone,
            point (`cohorts.soft_kl`); other splits keep the reading.

    Raises:
        RecipeError: no crop found, or a crop that the table of soft labels lacks.
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
            f"{root} holds no crops named <split>/<KL>/<ID><L|R>.png or .jpg"
            + ("; unpack the archive first." if root.is_file() else ".")
        )
    table = pd.DataFrame(rows)
    if soft_labels is not None:
        table = _with_soft_labels(table, soft_labels, "given_kl" if given_kl else "image", soften_kl)
        if not known_landmarks:
            table = table.drop(columns=["landmarks_px", "landmark_confidence"])
    elif soften_kl:
        raise RecipeError("KL labels can be softened by soft OARSI labels only; name their table.")
    if landmarks is not None:
        table = _with_landmarks(table, landmarks)
    table = table.drop(columns="path")
    check_manifest(table)
    return table


@contextmanager
def chen2018_folder(root: Path) -> Iterator[Path]:
    """The folder itself, or a temporary one with the crops of a zip archive, gone when the block ends.

    Raises:
        RecipeError: a file that is no zip, or a zip with the crops twice, or with one that is too large.
    """
    if root.is_dir():
        yield root
        return
    if not zipfile.is_zipfile(root):
        raise RecipeError(f"{root} is neither a folder nor a zip archive.")
    with tempfile.TemporaryDirectory() as place:
        with zipfile.ZipFile(root) as archive:
            _unpack(archive, Path(place))
        yield Path(place)


def _unpack(archive: zipfile.ZipFile, place: Path) -> None:
    """Write the crops of an archive below `place`, under the names that this module reads and no others."""
    crops = [(info, match[1]) for info in archive.infolist() if (match := MEMBER.fullmatch(info.filename))]
    finer = [(info, name) for info, name in crops if FINER in info.filename]
    crops = finer or crops
    if len({name for _, name in crops}) < len(crops):
        raise RecipeError("This archive holds the crops more than once; unpack one of the folders.")
    for info, name in crops:
        if info.file_size > MOST_BYTES:
            raise RecipeError(f"{name} in this archive is larger than any crop ({info.file_size:,} bytes).")
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(archive.read(info))


def _crops(root: Path) -> list[Path]:
    """The crops below `root`, or below the folder down to three levels deeper that has some, best those of 299 px.

    Raises:
        RecipeError: several folders have some.
    """
    folders = [root, *(folder for depth in ("*/", "*/*/", "*/*/*/") for folder in sorted(root.glob(depth)))]
    found = {
        folder: crops
        for folder in folders
        if (crops := [p for split in SPLITS for p in (folder / split).glob("[0-4]/*") if MEMBER.fullmatch(_name(p))])
    }
    finer = {folder: crops for folder, crops in found.items() if folder.name == FINER.rstrip("/")}
    found = finer or found
    if len(found) > 1:
        raise RecipeError(f"{root} holds the crops in several folders; name one of them.")
    return sorted(*found.values()) if found else []


def _name(path: Path) -> str:
    return "/".join(path.parts[-3:])


def _with_soft_labels(table: pd.DataFrame, soft_labels: Path, kind: str, soften_kl: float) -> pd.DataFrame:
    predictions = pd.read_parquet(soft_labels)
    predictions["path"] = predictions["path"].str.rsplit(".", n=1).str[0]
    merged = table.merge(predictions, on="path", how="left", validate="one_to_one")
    if merged["landmarks_px"].isna().any():
        raise RecipeError(f"{int(merged['landmarks_px'].isna().sum())} crops have no row in {soft_labels.name}.")
    labels = {f"{name}_probabilities": merged[f"{name}_{kind}"] for name in OARSI_NAMES}
    if soften_kl:
        labels = {"kl_probabilities": _softened_kl(merged, soften_kl), **labels}
    return table.assign(
        landmarks_px=merged["landmarks_px"], landmark_confidence=merged["landmark_confidence"], **labels
    )


def _softened_kl(merged: pd.DataFrame, share: float) -> pd.Series:
    """Per training crop a distribution of KL, None elsewhere."""
    training = merged[merged["split"] == "train"]
    kl = training["kl"].to_numpy()
    prior = (np.bincount(kl, minlength=TARGETS[0].classes) + 0.5) / (len(kl) + 0.5 * TARGETS[0].classes)
    opinion = kl_from_oarsi({name: np.stack(training[f"{name}_image"].to_list()) for name in OARSI_NAMES}, prior)
    soft = pd.Series([None] * len(merged), index=merged.index, dtype=object)
    soft[training.index] = pd.Series(softened(kl, opinion, share).tolist(), index=training.index)
    return soft


def _with_landmarks(table: pd.DataFrame, landmarks: Path) -> pd.DataFrame:
    files = [landmarks / f"{path}.pts" for path in table["path"]]
    there = [file.is_file() for file in files]
    if not any(there):
        raise RecipeError(f"{landmarks} holds no file named like {files[0].relative_to(landmarks)}.")
    points = [read_pts(file)[0].reshape(-1).tolist() for file in files if file.is_file()]
    return table[there].reset_index(drop=True).assign(landmarks_px=points)

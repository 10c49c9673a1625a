"""Human labels → the knees to read again: what `kneegrade audit` lists. It warns and never corrects."""

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kneegrade.anatomy.geometry import ROI_PLATEAU_WIDTHS
from kneegrade.coherence import RULES, audit_grades, confident_disagreement, smoothed_table
from kneegrade.errors import CohortError
from kneegrade.evaluation import Predictions
from kneegrade.results import AuditedKnee, Finding
from kneegrade.schema import TARGET_NAMES, TARGETS, grade_tuple_counts
from kneegrade.training.build_dataset import crop_film, film_tasks

ODD_WIDTH_SD = 2.5  # standard deviations from the mean width of its grade from which a measured width is odd
NARROWING_WIDTHS = {
    "jsn_medial": ("joint_space_medial_mm", "medial minimum JSW mm | JSN medial"),
    "jsn_lateral": ("joint_space_lateral_mm", "lateral JSW at x=0.825 mm | JSN lateral"),
}
MESSAGES = {rule.code: rule.message for rule in RULES}


def audit_labels(labels: pd.DataFrame, predictions: Predictions | None = None) -> pd.DataFrame:
    """Every knee with what is odd about its labels, the oddest first.

    Columns beside those of `labels`: `score` (the larger of the next two); `coherence_score`, `suspect`, `expected`
    (`kneegrade.coherence.label_audit`), `log_probability`, `rank`; with predictions `disagreement_score`,
    `disagreement_grade`, `predicted`; `hard_rules` (number broken); `codes` and `findings` (joined by ";"). The joint
    table is the packaged one of 5,507 OAI knees at baseline: labels of these very knees vouch for themselves there.

    Args:
        labels: of `kneegrade.cohorts.load_labels`.
        predictions: of networks that did not learn from these labels; `knee` says which row each is about.

    Raises:
        CohortError: predictions that are not about these knees.
    """
    labels = labels.reset_index(drop=True)
    grades = labels[list(TARGET_NAMES)].astype("Int64").fillna(-1).to_numpy(dtype=np.int64)
    audit = audit_grades(grades, smoothed_table(grade_tuple_counts()))
    found = [[Finding(code, MESSAGES[code]) for code in codes] for codes in audit.rules]
    for row, finding in [*falls(labels), *odd_widths(labels)]:
        found[row].append(finding)
    result = labels.assign(
        score=audit.score, coherence_score=audit.score,
        suspect=_names(np.where(audit.score > 0, audit.suspect, -1)),
        expected=pd.Series(audit.expected, dtype="Int64").mask(audit.score == 0),
        log_probability=audit.log_probability, rank=audit.rank,
    )  # fmt: skip
    if predictions is not None:
        result = _with_disagreement(result, grades, predictions, found)
    hard = {rule.code for rule in RULES if rule.hard}
    result["hard_rules"] = [sum(finding.code in hard for finding in own) for own in found]
    result["codes"] = [";".join(finding.code for finding in own) for own in found]
    result["findings"] = [";".join(finding.message.replace(";", ",") for finding in own) for own in found]
    order = pd.DataFrame({"score": result["score"], "number": [len(own) for own in found]})
    oddest = order.sort_values(["score", "number"], ascending=False, kind="stable").index
    return result.loc[oddest].reset_index(drop=True)


def of_whole_file(predictions: Predictions, labels: pd.DataFrame, split: str) -> Predictions:
    """Predictions for one split of a file, `knee` counted in the whole file.

    Raises:
        CohortError: the labels know no such split, or it has fewer knees than were predicted.
    """
    rows = np.flatnonzero(labels["split"] == split) if "split" in labels.columns else np.empty(0, dtype=np.int64)
    if len(predictions) and int(predictions.knee.max()) >= len(rows):
        raise CohortError(f"The labels have {len(rows)} knees of split {split!r}; the predictions are about more.")
    return replace(predictions, knee=rows[predictions.knee])


def _names(indices: NDArray[np.int64]) -> "pd.Series[Any]":
    """Grade names of indices, None below zero."""
    return pd.Series([None if index < 0 else TARGET_NAMES[index] for index in indices], dtype=object)


def _with_disagreement(
    result: pd.DataFrame, grades: NDArray[np.int64], predictions: Predictions, found: list[list[Finding]]
) -> pd.DataFrame:
    _check_same_knees(result, grades, predictions)
    shares = np.full((len(result), predictions.probabilities.shape[1]), np.nan)
    shares[predictions.knee] = predictions.probabilities
    odd = confident_disagreement(grades, [shares[:, target.one_hot] for target in TARGETS])
    for row in np.flatnonzero(odd.score > 0):
        name = TARGET_NAMES[odd.grade[row]]
        text = f"{name} read as {grades[row, odd.grade[row]]}, predicted with confidence as {odd.predicted[row]}"
        found[row].append(Finding("confident_disagreement", text))
    return result.assign(
        score=np.maximum(result["score"], odd.score), disagreement_score=odd.score,
        disagreement_grade=_names(odd.grade),
        predicted=pd.Series(odd.predicted, dtype="Int64").mask(odd.predicted < 0),
    )  # fmt: skip


def _check_same_knees(labels: pd.DataFrame, grades: NDArray[np.int64], predictions: Predictions) -> None:
    rows, truth = predictions.knee, predictions.truth()
    within = len(rows) == 0 or int(rows.max()) < len(labels)
    people = within and (
        "subject_id" not in labels.columns or (labels["subject_id"].iloc[rows].astype(str) == predictions.subject).all()
    )
    if not people or ((truth != grades[rows]) & (truth >= 0) & (grades[rows] >= 0)).any():
        raise CohortError(
            "The predictions are about other knees than these labels; predictions of `kneegrade evaluate` on the same "
            "file are expected, and --split if that was one split of it."
        )


def falls(labels: pd.DataFrame) -> list[tuple[int, Finding]]:
    """(row, finding) for every grade that is lower than at the visit before; osteoarthritis does not go back."""
    if not {"subject_id", "side", "visit"} <= set(labels.columns):
        return []
    found = []
    ordered = labels.reset_index(drop=True).sort_values("visit", kind="stable")
    for name in TARGET_NAMES:
        read = ordered[ordered[name].notna() & ordered["visit"].notna()]
        before = read.groupby(["subject_id", "side"])[[name, "visit"]].shift()
        fell = ((read[name] < before[name]) & (read["visit"] > before["visit"])).fillna(False).to_numpy(dtype=bool)
        values = (read.index, before[name], before["visit"], read[name], read["visit"])
        for row, old, since, new, visit in zip(*(column[fell].tolist() for column in values), strict=True):
            text = f"{name} falls from {old} at {since:g} to {new} at {visit:g} months"
            found.append((row, Finding("falls_over_visits", text)))
    return found


def odd_widths(labels: pd.DataFrame) -> list[tuple[int, Finding]]:
    """(row, finding) where a measured joint space is far from what knees of its narrowing grade have.

    Widths are on Duryea's scale, as `kneegrade landmarks` measures them and OAI publishes them; means and standard
    deviations by grade are the packaged ones (`data/joint_space_by_grade.json`). A wide space is not odd at grade 0,
    nor a narrow one at grade 3.
    """
    table: dict[str, Any] = json.loads(
        files("kneegrade").joinpath("data/joint_space_by_grade.json").read_text(encoding="utf-8")
    )
    found = []
    for name, (column, key) in NARROWING_WIDTHS.items():
        if column not in labels.columns:
            continue
        for row in np.flatnonzero(labels[name].notna() & labels[column].notna()).tolist():
            grade, width = int(labels[name].iloc[row]), float(labels[column].iloc[row])
            _, mean, sd, *_ = table[f"{key} {grade}"]
            off = (width - mean) / sd
            if (off < -ODD_WIDTH_SD and grade < 3) or (off > ODD_WIDTH_SD and grade > 0):
                text = f"{name} {grade} with {width:.1f} mm, such knees have {mean:.1f} ± {sd:.1f} mm"
                found.append((row, Finding("narrowing_against_width", text)))
    return found


def audited_knees(table: pd.DataFrame, most: int) -> list[AuditedKnee]:
    """The first `most` knees of an audit that are odd at all, for a page; with pictures where films can be read.

    Args:
        table: of `audit_labels`; knees without landmarks are looked for on their films.
        most: how many.
    """
    knees, odd = [], table[(table["score"] > 0) | (table["codes"] != "")].head(most)
    for number, (_, row) in enumerate(odd.iterrows()):
        codes, texts = (str(row[name]).split(";") if row[name] else [] for name in ("codes", "findings"))
        by_prediction = row.get("disagreement_score", 0) > row["coherence_score"]
        suspect = row["disagreement_grade"] if by_prediction else row["suspect"]
        expected = row["predicted"] if by_prediction else row["expected"]
        knees.append(
            AuditedKnee(
                name=str(row["knee_id"]) if "knee_id" in odd.columns else f"row {row.get('line', number)}",
                labels={name: int(row[name]) for name in TARGET_NAMES if not pd.isna(row[name])},
                score=float(row["score"]),
                suspect=None if pd.isna(suspect) else str(suspect),
                expected=None if pd.isna(expected) else int(expected),
                findings=tuple(Finding(code, text) for code, text in zip(codes, texts, strict=True)),
                region=_region(odd.iloc[[number]]),
            )
        )
    return knees


def _region(row: pd.DataFrame) -> NDArray[np.uint8] | None:
    """The knee's picture, or None where film or side are not known, or the film shows no such knee."""
    if not {"image_path", "side"} <= set(row.columns) or not Path(str(row["image_path"].iloc[0])).is_file():
        return None
    knee = crop_film(film_tasks(row, ROI_PLATEAU_WIDTHS)[0])[0]
    return None if isinstance(knee, str) else knee[0]

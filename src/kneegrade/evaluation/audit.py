"""Audit of human labels: which knees should be read again, for `kneegrade audit`. Labels are never changed.

Four kinds of evidence count: grades that do not fit together (`kneegrade.coherence.label_audit`), grades that fall
from visit to visit, a measured joint space that does not fit the narrowing grade, and confident predictions of a
network that differ from the label.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kneegrade.coherence import RULES, audit_grades, confident_disagreement, smoothed_table
from kneegrade.errors import CohortError
from kneegrade.evaluation.predictions import Predictions
from kneegrade.results import AuditedKnee, Finding
from kneegrade.schema import TARGET_NAMES, TARGETS, grade_tuple_counts

MAX_WIDTH_DEVIATION_SD = 2.5  # of a measured joint space from the mean of its narrowing grade, in standard deviations
NARROWING_WIDTHS = {  # grade → column of the measured width, key of `data/joint_space_by_grade.json`
    "jsn_medial": ("joint_space_medial_mm", "medial minimum JSW mm | JSN medial"),
    "jsn_lateral": ("joint_space_lateral_mm", "lateral JSW at x=0.825 mm | JSN lateral"),
}
RULE_MESSAGES = {rule.code: rule.message for rule in RULES}

PictureOf = Callable[[pd.DataFrame], NDArray[np.uint8] | None]


def audit_labels(labels: pd.DataFrame, predictions: Predictions | None = None) -> pd.DataFrame:
    """Every knee with the findings about its labels, the most suspect knees first.

    Columns in addition to those of `labels`: `score` (the larger of `coherence_score` and `disagreement_score`);
    `coherence_score`, `suspect`, `expected`, `log_probability` and `rank` (see `kneegrade.coherence.label_audit`); with
    predictions `disagreement_score`, `disagreement_grade` and `predicted`; `hard_rules` (number of hard rules broken);
    `codes` and `findings` (joined by ";").

    The joint distribution of the grades is the packaged one of 5,507 OAI knees at baseline. If `labels` contains these
    knees, their labels have contributed to the distribution that they are compared with.

    Args:
        labels: from `kneegrade.cohorts.load_labels`.
        predictions: of networks that were not trained on these labels; `knee` is a row of `labels`.

    Raises:
        CohortError: the predictions are about other knees.
    """
    labels = labels.reset_index(drop=True)
    grades = labels[list(TARGET_NAMES)].astype("Int64").fillna(-1).to_numpy(dtype=np.int64)
    audit = audit_grades(grades, smoothed_table(grade_tuple_counts()))
    findings = [[Finding(code, RULE_MESSAGES[code]) for code in codes] for codes in audit.rules]
    for row, finding in [*falling_grades(labels), *implausible_joint_spaces(labels)]:
        findings[row].append(finding)
    result = labels.assign(
        score=audit.score, coherence_score=audit.score,
        suspect=_names(np.where(audit.score > 0, audit.suspect, -1)),
        expected=pd.Series(audit.expected, dtype="Int64").mask(audit.score == 0),
        log_probability=audit.log_probability, rank=audit.rank,
    )  # fmt: skip
    if predictions is not None:
        result = _with_disagreement(result, grades, predictions, findings)
    hard = {rule.code for rule in RULES if rule.hard}
    result["hard_rules"] = [sum(finding.code in hard for finding in own) for own in findings]
    result["codes"] = [";".join(finding.code for finding in own) for own in findings]
    result["findings"] = [";".join(finding.message.replace(";", ",") for finding in own) for own in findings]
    order = pd.DataFrame({"score": result["score"], "number": [len(own) for own in findings]})
    most_suspect = order.sort_values(["score", "number"], ascending=False, kind="stable").index
    return result.loc[most_suspect].reset_index(drop=True)


def _names(indices: NDArray[np.int64]) -> "pd.Series[Any]":
    """Grade names of indices; None for negative ones."""
    return pd.Series([None if index < 0 else TARGET_NAMES[index] for index in indices], dtype=object)


def _with_disagreement(
    result: pd.DataFrame, grades: NDArray[np.int64], predictions: Predictions, findings: list[list[Finding]]
) -> pd.DataFrame:
    """`result` with the columns about predictions; adds to `findings`."""
    _check_same_knees(result, grades, predictions)
    probabilities = np.full((len(result), predictions.probabilities.shape[1]), np.nan)
    probabilities[predictions.knee] = predictions.probabilities
    disagreement = confident_disagreement(grades, [probabilities[:, target.one_hot] for target in TARGETS])
    for row in np.flatnonzero(disagreement.score > 0):
        grade = disagreement.grade[row]
        text = (
            f"The label of {TARGETS[grade].label} is {grades[row, grade]}, but the network predicts "
            f"{disagreement.predicted[row]} with high confidence."
        )
        findings[row].append(Finding("confident_disagreement", text))
    return result.assign(
        score=np.maximum(result["score"], disagreement.score), disagreement_score=disagreement.score,
        disagreement_grade=_names(disagreement.grade),
        predicted=pd.Series(disagreement.predicted, dtype="Int64").mask(disagreement.predicted < 0),
    )  # fmt: skip


def _check_same_knees(labels: pd.DataFrame, grades: NDArray[np.int64], predictions: Predictions) -> None:
    rows, truth = predictions.knee, predictions.truth()
    in_range = len(rows) == 0 or int(rows.max()) < len(labels)
    same_people = in_range and (
        "subject_id" not in labels.columns or (labels["subject_id"].iloc[rows].astype(str) == predictions.subject).all()
    )
    if not same_people or ((truth != grades[rows]) & (truth >= 0) & (grades[rows] >= 0)).any():
        raise CohortError(
            "The predictions are of other knees than these labels. Give predictions of `kneegrade evaluate` for the "
            "same file, and --split if only one split of it was evaluated."
        )


def with_rows_of_whole_file(predictions: Predictions, labels: pd.DataFrame, split: str) -> Predictions:
    """Predictions for one split of a file, with `knee` as the row in the whole file.

    Raises:
        CohortError: the labels have no such split, or fewer knees in it than were predicted.
    """
    rows = np.flatnonzero(labels["split"] == split) if "split" in labels.columns else np.empty(0, dtype=np.int64)
    if len(predictions) and int(predictions.knee.max()) >= len(rows):
        raise CohortError(
            f"The labels have {len(rows)} knees in split {split!r}, but there are predictions of more knees. Give the "
            "split that was evaluated."
        )
    return replace(predictions, knee=rows[predictions.knee])


def falling_grades(labels: pd.DataFrame) -> list[tuple[int, Finding]]:
    """(row, finding) for every grade that is lower than at the visit before; osteoarthritis does not regress."""
    if not {"subject_id", "side", "visit"} <= set(labels.columns):
        return []
    findings = []
    ordered = labels.reset_index(drop=True).sort_values("visit", kind="stable")
    for target in TARGETS:
        name = target.name
        read = ordered[ordered[name].notna() & ordered["visit"].notna()]
        before = read.groupby(["subject_id", "side"])[[name, "visit"]].shift()
        fell = ((read[name] < before[name]) & (read["visit"] > before["visit"])).fillna(False).to_numpy(dtype=bool)
        values = (read.index, before[name], before["visit"], read[name], read["visit"])
        for row, old, since, new, visit in zip(*(column[fell].tolist() for column in values), strict=True):
            text = f"{target.label} decreases from {old} at {since:g} months to {new} at {visit:g} months."
            findings.append((row, Finding("falls_over_visits", text)))
    return findings


def implausible_joint_spaces(labels: pd.DataFrame) -> list[tuple[int, Finding]]:
    """(row, finding) where a measured joint space is more than 2.5 SD from the mean of its narrowing grade.

    Widths are on Duryea's scale, as `kneegrade landmarks` measures them and OAI publishes them. Means and standard
    deviations by grade are the packaged ones (`data/joint_space_by_grade.json`). A wide space is plausible at grade 0,
    a narrow one at grade 3.
    """
    table: dict[str, Any] = json.loads(
        files("kneegrade").joinpath("data/joint_space_by_grade.json").read_text(encoding="utf-8")
    )
    findings = []
    labels_by_name = {target.name: target.label for target in TARGETS}
    for name, (column, key) in NARROWING_WIDTHS.items():
        if column not in labels.columns:
            continue
        for row in np.flatnonzero(labels[name].notna() & labels[column].notna()).tolist():
            grade, width = int(labels[name].iloc[row]), float(labels[column].iloc[row])
            _, mean, sd, *_ = table[f"{key} {grade}"]
            deviation = (width - mean) / sd
            too_narrow, too_wide = deviation < -MAX_WIDTH_DEVIATION_SD, deviation > MAX_WIDTH_DEVIATION_SD
            if (too_narrow and grade < 3) or (too_wide and grade > 0):
                text = (
                    f"{labels_by_name[name]} {grade} with a joint space width of {width:.1f} mm; knees with this grade "
                    f"have {mean:.1f} ± {sd:.1f} mm."
                )
                findings.append((row, Finding("narrowing_against_width", text)))
    return findings


def audited_knees(table: pd.DataFrame, most: int, picture_of: PictureOf) -> list[AuditedKnee]:
    """The first `most` knees of an audit that have a score or a finding, for the page of the audit.

    Args:
        table: from `audit_labels`.
        most: maximum number of knees.
        picture_of: gives the picture of the knee in a table of one row, or None if there is none; for example
            `kneegrade.training.build_dataset.knee_picture`.
    """
    knees, suspect_rows = [], table[(table["score"] > 0) | (table["codes"] != "")].head(most)
    for number, (_, row) in enumerate(suspect_rows.iterrows()):
        codes, texts = (str(row[name]).split(";") if row[name] else [] for name in ("codes", "findings"))
        by_prediction = row.get("disagreement_score", 0) > row["coherence_score"]
        suspect = row["disagreement_grade"] if by_prediction else row["suspect"]
        expected = row["predicted"] if by_prediction else row["expected"]
        knees.append(
            AuditedKnee(
                name=str(row["knee_id"]) if "knee_id" in suspect_rows.columns else f"row {row.get('line', number)}",
                labels={name: int(row[name]) for name in TARGET_NAMES if not pd.isna(row[name])},
                score=float(row["score"]),
                suspect=None if pd.isna(suspect) else str(suspect),
                expected=None if pd.isna(expected) else int(expected),
                findings=tuple(Finding(code, text) for code, text in zip(codes, texts, strict=True)),
                crop=picture_of(suspect_rows.iloc[[number]]),
            )
        )
    return knees

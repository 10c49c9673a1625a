"""`beyond_table`: results beyond the paper: exact coherence and joint decoding against the mixture, and other parts."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from kneegrade.coherence import most_probable_grades, smoothed_table
from kneegrade.evaluation.bootstrap import Scores, SubjectBootstrap, score
from kneegrade.evaluation.finished_runs import FinishedRun, RecipeScores, mean_scores
from kneegrade.evaluation.paper_tables import method_name, score_cell, table_notes
from kneegrade.evaluation.predictions import Predictions
from kneegrade.evaluation.table_formats import Table
from kneegrade.progress import Progress
from kneegrade.schema import TARGETS, grade_tuple_counts
from kneegrade.uncertainty import (
    CalibrationKnees,
    CoherentDecoder,
    Postprocessor,
    fit_calibration,
    tuned_postprocessor,
)

ROWS = (
    "resnet50", "resnet50-layer3", "siamese", "cl", "kpn", "kpn-global", "kpn-reduced", "kpn-ordinal", "proposed",
    "proposed-joint",
)  # fmt: skip
DECODED = ("resnet50", "kpn", "proposed", "proposed-joint")
COLUMNS = (
    ("kl", "accuracy"), ("kl", "rmse"), ("kl", "kappa"), ("kl", "calibration_error"), ("oarsi_mean", "accuracy"),
    ("oarsi_mean", "rmse"), ("oarsi_mean", "kappa"), ("joint", "hard_rule_rate"), ("joint", "empty_cell_rate"),
    ("joint", "marginal_shift"),
)  # fmt: skip
WITH_INTERVAL = ("accuracy", "rmse", "kappa")
HEADER = (
    "method", "KL accuracy", "KL RMSE", "KL κ", "KL ECE", "OARSI accuracy", "OARSI RMSE", "OARSI κ",
    "hard rules broken", "empty cells", "marginal shift",
)  # fmt: skip


def beyond_table(
    rows: Mapping[str, RecipeScores], bootstrap: SubjectBootstrap, progress: Progress | None = None
) -> Table | None:
    """Networks as predicted, calibrated without a decoder, and calibrated through the decoder.

    Decoded rows are given for the most probable grade of each marginal and for the reported grades. The table is None
    if none of the methods that it is about was run.

    Args:
        rows: name of a recipe → its row.
        bootstrap: over the subjects of the test knees.
        progress: called with (done, total) of the rows to decode.
    """
    present = [name for name in ROWS if name in rows]
    if not any(name in rows for name in ("proposed", "proposed-joint", "kpn")):
        return None
    lines: list[tuple[str, ...] | None] = [(method_name(rows[name]), *_cells(rows[name].scores)) for name in present]
    lines.append(None)
    settings = []
    to_decode = [name for name in DECODED if name in rows]
    for number, name in enumerate(to_decode, start=1):
        method, runs = method_name(rows[name]), [decode(run) for run in rows[name].runs]
        settings += [f"{method} b {decoder.joint_exponent}, c {decoder.ordinal_smoothing}" for decoder, _, _ in runs]
        calibrated = mean_scores([score(without, bootstrap) for _, without, _ in runs])
        top = [most_probable_grades(decoded.probabilities) for _, _, decoded in runs]
        marginal = mean_scores(
            [score(decoded, bootstrap, grades) for (_, _, decoded), grades in zip(runs, top, strict=True)]
        )
        reported = mean_scores([score(decoded, bootstrap) for _, _, decoded in runs])
        lines += [
            (f"{method}, calibrated", *_cells(calibrated)),
            (f"{method}, decoded (marginals)", *_cells(marginal)),
            (f"{method}, decoded (reported grades)", *_cells(reported)),
        ]
        if progress:
            progress(number, len(to_decode))
    notes = (
        *table_notes(rows, present),
        "Hard rules broken, empty cells: shares of the predicted seven-tuples. Marginal shift: total variation between "
        "the mean prediction and the labels' distribution, averaged over grades.",
        "Decoded: calibrated through the decoder, as `kneegrade calibrate` does. Marginals: the most probable grade of "
        "each marginal. Reported grades: they keep the hard rules and use the ordinal smoothing c.",
        f"Joint exponent b and ordinal smoothing c, chosen on the calibration knees: {'; '.join(settings)}.",
    )
    return Table(
        "beyond", "Beyond the paper: exact coherence, coherent decoding, other parts", HEADER, tuple(lines), notes
    )


def decode(run: FinishedRun) -> tuple[CoherentDecoder, Predictions, Predictions]:
    """Test predictions of a run, calibrated on its calibration knees.

    Returns:
        The decoder; predictions calibrated without it; and predictions calibrated through it, with the reported grades.
        The last are what `kneegrade calibrate` would give for the same knees (`tuned_postprocessor`).
    """
    logits, targets = _log_probabilities(run.calibration), run.calibration.targets
    without = Postprocessor(fit_calibration(logits, torch.from_numpy(targets)))
    knees = CalibrationKnees(logits, targets, run.calibration.subject)
    through = tuned_postprocessor(knees, smoothed_table(grade_tuple_counts()))
    assert through.decoder is not None  # `tuned_postprocessor` always has one
    return through.decoder, _postprocessed(run.test, without), _postprocessed(run.test, through)


def _log_probabilities(predictions: Predictions) -> dict[str, torch.Tensor]:
    """Logits whose softmax are the predictions: logits are defined up to a constant."""
    shares = torch.from_numpy(predictions.probabilities).clamp(min=1e-8).log()
    return {t.name: shares[:, t.one_hot] for t in TARGETS}


def _postprocessed(predictions: Predictions, postprocessor: Postprocessor) -> Predictions:
    """A network's predictions after postprocessing."""
    calibrated = postprocessor(_log_probabilities(predictions))
    probabilities = calibrated.probabilities.astype(np.float32)
    return replace(predictions, probabilities=probabilities, grades=calibrated.grades)


def _cells(scores: Scores) -> list[str]:
    return [score_cell(scores, grade, metric, with_interval=metric in WITH_INTERVAL) for grade, metric in COLUMNS]

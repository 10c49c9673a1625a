"""The table that goes past the paper: exact coherence and coherent decoding against the mixture, and other parts."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from kneegrade.coherence import most_probable_grades, smoothed_table
from kneegrade.evaluation.bootstrap import Scores, SubjectBootstrap, score
from kneegrade.evaluation.finished_runs import FinishedRun, Row, mean_scores
from kneegrade.evaluation.paper_tables import cell, described, notes_on
from kneegrade.evaluation.predictions import Predictions
from kneegrade.evaluation.table_formats import Table
from kneegrade.progress import Progress
from kneegrade.schema import TARGETS, grade_tuple_counts
from kneegrade.uncertainty import CoherentDecoder, Graded, Postprocessor, fit_calibration, tuned_claims

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
SPREAD = ("accuracy", "rmse", "kappa")
HEADER = (
    "method", "KL accuracy", "KL RMSE", "KL κ", "KL ECE", "OARSI accuracy", "OARSI RMSE", "OARSI κ",
    "hard rules broken", "empty cells", "marginals off",
)  # fmt: skip


def beyond_table(
    rows: Mapping[str, Row], bootstrap: SubjectBootstrap, progress: Progress | None = None
) -> Table | None:
    """Rows as predicted; calibrated without a decoder; and calibrated through it, by marginals and by grades given.

    Args:
        rows: what was run.
        bootstrap: over the subjects of the test knees.
        progress: called with (done, all) of the rows to be decoded.
    """
    present = [name for name in ROWS if name in rows]
    if not any(name in rows for name in ("proposed", "proposed-joint", "kpn")):
        return None
    lines: list[tuple[str, ...] | None] = [(described(rows[name]), *_cells(rows[name].scores)) for name in present]
    lines.append(None)
    chosen = []
    to_decode = [name for name in DECODED if name in rows]
    for number, name in enumerate(to_decode, start=1):
        called, runs = described(rows[name]), [decode(run) for run in rows[name].runs]
        chosen += [f"{called} b {decoder.joint_exponent}, c {decoder.ordinal_smoothing}" for decoder, _, _ in runs]
        alone = mean_scores([score(said, bootstrap) for _, said, _ in runs])
        top = [most_probable_grades(said.probabilities) for _, _, said in runs]
        marginal = mean_scores([score(said, bootstrap, grades) for (_, _, said), grades in zip(runs, top, strict=True)])
        given = mean_scores([score(said, bootstrap) for _, _, said in runs])
        lines += [
            (f"{called}, calibrated", *_cells(alone)),
            (f"{called}, decoded (marginals)", *_cells(marginal)),
            (f"{called}, decoded (grades given)", *_cells(given)),
        ]
        if progress:
            progress(number, len(to_decode))
    notes = (
        *notes_on(rows, present),
        "Hard rules broken, empty cells: shares of the predicted seven-tuples. Marginals off: total variation between "
        "mean prediction and labels, mean over grades.",
        "Decoded: calibrated through the decoder, as `kneegrade calibrate` does; the likeliest grade of each marginal, "
        "and the grades given, which keep the hard rules and count near misses (ordinal_smoothing c).",
        f"Joint exponent b and ordinal_smoothing c, chosen on the calibration knees: {'; '.join(chosen)}.",
    )
    return Table(
        "beyond", "Beyond the paper: exact coherence, coherent decoding, other parts", HEADER, tuple(lines), notes
    )


def decode(run: FinishedRun) -> tuple[CoherentDecoder, Predictions, Predictions]:
    """The decoder of a run's calibration knees, and its test predictions calibrated without it, and through it.

    The second are what `kneegrade calibrate` would make of the same knees (`tuned_claims`), with the grades given.
    """
    said, targets = _log_probabilities(run.calibration), run.calibration.targets
    alone = Postprocessor(fit_calibration(said, torch.from_numpy(targets)))
    through = tuned_claims(Graded(said, targets, run.calibration.subject), smoothed_table(grade_tuple_counts()))
    assert through.decoder is not None  # `tuned_claims` always brings one
    return through.decoder, _claimed(run.test, alone), _claimed(run.test, through)


def _log_probabilities(predictions: Predictions) -> dict[str, torch.Tensor]:
    """Logits that give the predictions back: softmax does not see a constant."""
    shares = torch.from_numpy(predictions.probabilities).clamp(min=1e-8).log()
    return {t.name: shares[:, t.one_hot] for t in TARGETS}


def _claimed(predictions: Predictions, claims: Postprocessor) -> Predictions:
    """What claims make of a network's own predictions."""
    claim = claims(_log_probabilities(predictions))
    return replace(predictions, probabilities=claim.probabilities.astype(np.float32), grades=claim.grades)


def _cells(scores: Scores) -> list[str]:
    return [cell(scores, grade, metric, spread=metric in SPREAD) for grade, metric in COLUMNS]

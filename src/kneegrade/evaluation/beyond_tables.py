"""The table that goes past the paper: exact coherence and coherent decoding against the mixture, and other parts."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from kneegrade.coherence import smoothed_table
from kneegrade.evaluation.bootstrap import Scores, SubjectBootstrap, score
from kneegrade.evaluation.finished_runs import FinishedRun, Row, mean_scores
from kneegrade.evaluation.paper_tables import cell, described, notes_on
from kneegrade.evaluation.predictions import Predictions
from kneegrade.evaluation.table_formats import Table
from kneegrade.schema import TARGETS, grade_tuple_counts
from kneegrade.uncertainty import CoherentDecoder, fit_calibration, fit_decoder

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
    rows: Mapping[str, Row], bootstrap: SubjectBootstrap, progress: Callable[[int, int], None] | None = None
) -> Table | None:
    """Rows as predicted, then calibrated and coherently decoded, by marginals and by the rule-keeping tuple.

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
    exponents = []
    to_decode = [name for name in DECODED if name in rows]
    for number, name in enumerate(to_decode, start=1):
        decoded = [decode(run) for run in rows[name].runs]
        exponents += [f"{described(rows[name])} a {d.prior_exponent}, b {d.joint_exponent}" for d, _, _ in decoded]
        calibrated = mean_scores([score(said, bootstrap) for _, said, _ in decoded])
        kept = mean_scores([score(said, bootstrap, d.grades(said.probabilities)) for d, _, said in decoded])
        marginal = mean_scores([score(said, bootstrap) for _, _, said in decoded])
        lines += [
            (f"{described(rows[name])}, calibrated", *_cells(calibrated)),
            (f"{described(rows[name])}, decoded (marginals)", *_cells(marginal)),
            (f"{described(rows[name])}, decoded (keeping hard rules)", *_cells(kept)),
        ]
        if progress:
            progress(number, len(to_decode))
    notes = (
        *notes_on(rows, present),
        "Hard rules broken, empty cells: shares of the predicted seven-tuples. Marginals off: total variation between "
        "mean prediction and labels, mean over grades.",
        f"Exponents, by the likelihood of the calibration knees: {'; '.join(exponents)}.",
    )
    return Table(
        "beyond", "Beyond the paper: exact coherence, coherent decoding, other parts", HEADER, tuple(lines), notes
    )


def decode(run: FinishedRun) -> tuple[CoherentDecoder, Predictions, Predictions]:
    """The decoder fitted on a run's calibration knees, and its test predictions calibrated and decoded."""
    said = {name: _log_probabilities(part) for name, part in (("fit", run.calibration), ("test", run.test))}
    calibration = fit_calibration(said["fit"], torch.from_numpy(run.calibration.targets))
    shares = {name: _probabilities(calibration(logits)) for name, logits in said.items()}
    decoder = fit_decoder(smoothed_table(grade_tuple_counts()), shares["fit"], run.calibration.targets)
    calibrated = _with(run.test, shares["test"])
    return decoder, calibrated, _with(run.test, decoder.marginals(shares["test"]))


def _log_probabilities(predictions: Predictions) -> dict[str, torch.Tensor]:
    """Logits that give the predictions back: softmax does not see a constant."""
    shares = torch.from_numpy(predictions.probabilities).clamp(min=1e-8).log()
    return {t.name: shares[:, t.one_hot] for t in TARGETS}


def _probabilities(logits: Mapping[str, torch.Tensor]) -> NDArray[np.float64]:
    return torch.cat([torch.softmax(logits[t.name].double(), 1) for t in TARGETS], dim=1).numpy()


def _with(predictions: Predictions, probabilities: NDArray[np.floating]) -> Predictions:
    shares = probabilities.astype(np.float32)
    return Predictions(shares, predictions.targets, predictions.subject, predictions.knee)


def _cells(scores: Scores) -> list[str]:
    return [cell(scores, grade, metric, spread=metric in SPREAD) for grade, metric in COLUMNS]

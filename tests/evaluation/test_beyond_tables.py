import re

import numpy as np
import torch
from simulated_runs import read_csv

from kneegrade.coherence import smoothed_table
from kneegrade.evaluation.beyond_tables import decode
from kneegrade.evaluation.finished_runs import load_runs
from kneegrade.schema import TARGETS, grade_tuple_counts
from kneegrade.uncertainty import CalibrationKnees, Postprocessor, fit_calibration, tuned_postprocessor


def test_decoded_rows_break_no_hard_rule(written):
    rows = read_csv(written / "beyond.csv")
    decoded = [row for row in rows if "decoded (reported grades)" in row[0]]
    assert decoded
    assert all(row[rows[0].index("hard rules broken")] == "0.000" for row in decoded)
    assert re.search(r"calibration knees: .* b [\d.]+, c [\d.]+;", (written / "beyond.md").read_text())


def test_decoding_is_that_of_the_postprocessor(runs):
    """Temperature and bias are fitted through the decoder, not before it; the grades are those that reports give."""
    run = load_runs([runs / "kpn-seed0"])[0][0]
    decoder, without, decoded = decode(run)
    logits, test_logits = (
        {t.name: torch.from_numpy(predictions.probabilities[:, t.one_hot]).log() for t in TARGETS}
        for predictions in (run.calibration, run.test)
    )
    knees = CalibrationKnees(logits, run.calibration.targets, run.calibration.subject)
    postprocessor = tuned_postprocessor(knees, smoothed_table(grade_tuple_counts()))
    assert decoder.joint_exponent == postprocessor.decoder.joint_exponent
    expected = postprocessor(test_logits)
    np.testing.assert_allclose(decoded.probabilities, expected.probabilities, atol=1e-5)
    assert (decoded.guess() == expected.grades).all()
    calibrated = Postprocessor(fit_calibration(logits, torch.from_numpy(run.calibration.targets)))(test_logits)
    np.testing.assert_allclose(without.probabilities, calibrated.probabilities, atol=1e-5)

"""Kellgren-Lawrence labels that allow for the reader's error: a part of each goes where the knee's OARSI grades point.

Two readers of a film agree on KL in about seven knees of ten, and KL is nearly a function of the six OARSI grades. What
another network says of those six, without having seen the reading, is a second opinion on it.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from kneegrade.coherence import raked_table, smoothed_table
from kneegrade.schema import OARSI_NAMES, TARGETS, grade_tuple_counts
from kneegrade.uncertainty import CoherentDecoder

EXPONENT = 0.7  # of prior and joint table: least −log likelihood of 5,778 readings among 0.5, 0.7 and 1


def kl_from_oarsi(oarsi: Mapping[str, NDArray[np.floating]], prior: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N, 5) distribution of KL that six distributions of OARSI grades imply under the packaged joint table.

    Coherent decoding (`kneegrade.uncertainty.decoding`) with no evidence on KL itself; the table is raked to `prior`
    and to the means of the six.

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

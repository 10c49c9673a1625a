import pytest
import torch

from kneegrade.schema import TARGETS


@pytest.fixture
def assert_evidence_is_exact():
    """A function (network, its output): contributions and constant sum to the class-centred logits of every grade."""

    def check(made, output):
        attribution = made.attribute(output.pooled)
        for target in TARGETS:
            total = attribution.contributions[target.name].sum(1) + attribution.constant[target.name]
            logits = output.logits[target.name]
            torch.testing.assert_close(total, logits - logits.mean(1, keepdim=True), rtol=0, atol=1e-5)

    return check

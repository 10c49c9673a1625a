import pytest
import torch

from kneegrade.anatomy.tail_percentiles import low_high_percentile


@pytest.mark.parametrize("number", [1, 2, 60, 101, 4096])
def test_percentiles_are_those_of_torch_nanquantile(number):
    """Rows of which all, half, few and no values count."""
    generator = torch.Generator().manual_seed(number)
    values = torch.rand(4, number, generator=generator)
    counted = torch.rand(4, number, generator=generator) < torch.tensor([[1.0], [0.5], [0.02], [0.0]])
    expected = torch.nanquantile(values.masked_fill(~counted, torch.nan), torch.tensor([0.01, 0.99]), dim=1)
    torch.testing.assert_close(torch.stack(low_high_percentile(values, counted)), expected.nan_to_num(0.0))
    torch.testing.assert_close(low_high_percentile(values)[1], torch.quantile(values, 0.99, dim=1))

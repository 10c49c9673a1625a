"""Which setting `kneegrade info --speed` recommends."""

import pytest

from kneegrade.speed import Speed, recommended

DEFAULT = Speed("torch", "float32", 1, 100.0)


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([], DEFAULT),
        ([Speed("torch", "bf16", 1, 95.0)], DEFAULT),  # not clearly faster
        ([Speed("torch", "bf16", 1, 60.0)], Speed("torch", "bf16", 1, 60.0)),
        ([Speed("torch", "float32", 8, 20.0)], DEFAULT),  # eight processes of one thread are faster
        (
            [Speed("torch", "bf16", 1, 70.0), Speed("openvino", "float32", 1, 72.0)],
            Speed("openvino", "float32", 1, 72.0),
        ),
    ],
)
def test_recommended_setting(others, expected):
    assert recommended([DEFAULT, *others]) == expected

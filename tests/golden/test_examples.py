"""The example films keep their grades and probabilities. The values in examples.json are of float32 arithmetic.

python tests/golden/test_examples.py     # writes examples.json anew, for new weights
"""

import json
from pathlib import Path

import pytest

from kneegrade import Grader
from kneegrade.weights.inference import has_native_bfloat16

EXAMPLES = Path(__file__).parents[2] / "examples"
VALUES = Path(__file__).with_name("examples.json")


def graded(bfloat16: bool) -> dict[str, dict[str, dict[str, object]]]:
    grader = Grader("cpu")
    grader.network.in_bfloat16 = grader.detector.in_bfloat16 = bfloat16
    report = grader.grade(EXAMPLES)
    return {
        f"{radiograph.source} {knee.side}": {
            name: {"grade": result.grade, "probabilities": [round(p, 5) for p in result.probabilities]}
            for name, result in (knee.grades or {}).items()
        }
        for radiograph in report.radiographs
        for knee in radiograph.knees
    }


@pytest.fixture(scope="module")
def in_float32():
    return graded(bfloat16=False)


def test_grades_and_probabilities_are_the_recorded_ones(in_float32):
    expected = json.loads(VALUES.read_text(encoding="utf-8"))
    assert in_float32.keys() == expected.keys()
    for knee, grades in expected.items():
        for name, values in grades.items():
            assert in_float32[knee][name]["grade"] == values["grade"], f"{knee}, {name}"
            assert in_float32[knee][name]["probabilities"] == pytest.approx(values["probabilities"], abs=1e-3)


@pytest.mark.skipif(not has_native_bfloat16(), reason="this processor has no native bfloat16")
def test_bfloat16_gives_the_same_grades(in_float32):
    for knee, grades in graded(bfloat16=True).items():
        assert {n: v["grade"] for n, v in grades.items()} == {n: v["grade"] for n, v in in_float32[knee].items()}


if __name__ == "__main__":
    VALUES.write_text(json.dumps(graded(bfloat16=False), indent=1) + "\n", encoding="utf-8")

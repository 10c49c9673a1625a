"""The example films keep their grades and probabilities. The values in examples.json are of torch in float32.

python tests/golden/test_examples.py     # writes examples.json anew, for new weights
"""

import json
from pathlib import Path

import pytest

from kneegrade import Grader

EXAMPLES = Path(__file__).parents[2] / "examples"
VALUES = Path(__file__).with_name("examples.json")


def graded(**settings: str) -> dict[str, dict[str, dict[str, object]]]:
    grader = Grader("cpu", **settings)
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
    return graded()


def test_grades_and_probabilities_are_the_recorded_ones(in_float32):
    expected = json.loads(VALUES.read_text(encoding="utf-8"))
    assert in_float32.keys() == expected.keys()
    for knee, grades in expected.items():
        for name, values in grades.items():
            assert in_float32[knee][name]["grade"] == values["grade"], f"{knee}, {name}"
            assert in_float32[knee][name]["probabilities"] == pytest.approx(values["probabilities"], abs=1e-3)


def test_bfloat16_gives_the_same_grades(in_float32):
    for knee, grades in graded(precision="bf16").items():
        assert {n: v["grade"] for n, v in grades.items()} == {n: v["grade"] for n, v in in_float32[knee].items()}


def test_openvino_gives_the_same_grades_and_nearly_the_same_probabilities(in_float32):
    pytest.importorskip("openvino", reason='needs OpenVINO: pip install "kneegrade[openvino]"')
    for knee, grades in graded(runtime="openvino").items():
        for name, values in grades.items():
            assert values["grade"] == in_float32[knee][name]["grade"], f"{knee}, {name}"
            assert values["probabilities"] == pytest.approx(in_float32[knee][name]["probabilities"], abs=0.002)


if __name__ == "__main__":
    VALUES.write_text(json.dumps(graded(), indent=1) + "\n", encoding="utf-8")

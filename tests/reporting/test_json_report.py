import json
from dataclasses import replace

import numpy as np
import pytest
from jsonschema import Draft202012Validator, ValidationError

from kneegrade.reporting import SCHEMA_VERSION, json_schema, to_dict, write_json
from kneegrade.results import GradedKnee, GradedRadiograph
from kneegrade.schema import TARGETS


@pytest.fixture(scope="module")
def validator():
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def with_first_knee(report, **changes):
    film = report.radiographs[0]
    return replace(report, radiographs=(replace(film, knees=(replace(film.knees[0], **changes), *film.knees[1:])),))


def test_written_report_is_valid_and_reads_back_unchanged(report, validator, tmp_path):
    path = tmp_path / "report.json"
    write_json(report, path)
    read = json.loads(path.read_text(encoding="utf-8"))
    validator.validate(read)
    assert read == to_dict(report)
    assert read["schema_version"] == SCHEMA_VERSION == "2.2"
    assert read["software"]["weights"]["sha256"] == report.weights.sha256
    assert read["software"]["set_level"] == 0.9


def test_statuses_and_reasons(report):
    films = to_dict(report)["radiographs"]
    assert [film["status"] for film in films] == ["graded", "graded", "graded", "not_gradable", "failed"]
    assert [knee["status"] for knee in films[1]["knees"]] == ["graded", "not_gradable"]
    assert films[1]["reason"] is None
    assert films[1]["knees"][1]["reason"]["code"] == "implant"
    assert films[4]["reason"]["code"] == "unreadable"


def test_grades_keep_order_and_probabilities_keep_their_sum(report):
    knee = to_dict(report)["radiographs"][0]["knees"][0]
    assert list(knee["grades"]) == [target.name for target in TARGETS]
    for target in TARGETS:
        probabilities = knee["grades"][target.name]["probabilities"]
        assert len(probabilities) == target.classes
        assert sum(probabilities) == pytest.approx(1.0, abs=5e-6)
        held = report.radiographs[0].knees[0].grades[target.name].prediction_set
        assert knee["grades"][target.name]["set"] == list(held)
    assert knee["landmark_confidence"] == 0.8123
    assert np.shape(knee["landmarks_px"]) == (74, 2)


def test_evidence_of_the_reported_grade_adds_up(report, validator):
    knee, written = report.radiographs[0].knees[0], to_dict(report)
    for name, row in written["radiographs"][0]["knees"][0]["grades"].items():
        evidence, grade = row["evidence"], row["grade"]
        assert list(evidence) == ["femur", "tibia", "region", "constant", "logit"]
        column = knee.evidence.contributions[name][:, grade]
        expected = [
            column[:37].sum(), column[37:].sum(), knee.evidence.region_term[name][grade],
            knee.evidence.constant[name][grade],
        ]  # fmt: skip
        assert list(evidence.values()) == pytest.approx([*expected, sum(expected)], abs=1e-4)
    plain = written["radiographs"][2]["knees"][0]["grades"]
    assert [row["evidence"] for row in plain.values()] == [None] * 7
    validator.validate(written)


def test_coherence_has_the_shift_of_the_grades(report):
    coherence = to_dict(report)["radiographs"][0]["knees"][0]["coherence"]
    assert list(coherence) == ["log_probability", "decoding_shift", "findings"]
    assert coherence["decoding_shift"] == 3


def test_numpy_numbers_become_plain_json(report, validator):
    kl = report.radiographs[0].knees[0].grades["kl"]
    grades = dict(report.radiographs[0].knees[0].grades)
    grades["kl"] = replace(kl, grade=np.int64(kl.grade), probabilities=tuple(np.float32(kl.probabilities)))
    validator.validate(json.loads(json.dumps(to_dict(with_first_knee(report, grades=grades)))))


def test_landmark_without_coordinates_is_null(report, validator):
    landmarks = report.radiographs[0].knees[0].landmarks_px.copy()
    landmarks[3] = np.nan
    changed = to_dict(with_first_knee(report, landmarks_px=landmarks))
    assert changed["radiographs"][0]["knees"][0]["landmarks_px"][3] is None
    validator.validate(changed)


def test_other_numbers_that_are_not_finite_are_refused(report, tmp_path):
    with pytest.raises(ValueError, match="finite"):
        write_json(with_first_knee(report, landmark_confidence=float("nan")), tmp_path / "report.json")
    assert list(tmp_path.iterdir()) == []


def test_every_refusal_has_a_reason(report, validator):
    silent = (GradedRadiograph("a.dcm", (GradedKnee("R"),)), GradedRadiograph("b.dcm", failed=True))
    validator.validate(to_dict(replace(report, radiographs=silent)))


def film(wrong):
    return wrong["radiographs"][0]


def knee(wrong):
    return film(wrong)["knees"][0]


WRONG = {
    "graded knee without grades": lambda wrong: knee(wrong).update(grades=None),
    "refused knee with grades": lambda wrong: knee(wrong).update(status="not_gradable"),
    "graded knee with a reason": lambda wrong: knee(wrong).update(reason={"code": "a", "message": "b"}),
    "four probabilities for KL": lambda wrong: knee(wrong)["grades"]["kl"]["probabilities"].pop(),
    "five probabilities for OARSI": lambda wrong: knee(wrong)["grades"]["jsn_medial"]["probabilities"].append(0.0),
    "OARSI grade 4": lambda wrong: knee(wrong)["grades"]["jsn_medial"].update(grade=4),
    "grade that is not an integer": lambda wrong: knee(wrong)["grades"]["kl"].update(grade=1.5),
    "probability above 1": lambda wrong: knee(wrong)["grades"]["kl"]["probabilities"].__setitem__(0, 1.01),
    "missing grade": lambda wrong: knee(wrong)["grades"].pop("osteophyte_tibia_medial"),
    "evidence without the region term": lambda wrong: knee(wrong)["grades"]["kl"]["evidence"].pop("region"),
    "73 landmarks": lambda wrong: knee(wrong)["landmarks_px"].pop(),
    "landmark with three numbers": lambda wrong: knee(wrong)["landmarks_px"][0].append(0.0),
    "unknown side": lambda wrong: knee(wrong).update(side="left"),
    "finding without code": lambda wrong: film(wrong)["warnings"].append({"message": "b"}),
    "failed film with knees": lambda wrong: film(wrong).update(
        status="failed", reason={"code": "a", "message": "b"}, knees=[film(wrong)["knees"][0]]
    ),
    "graded film without graded knee": lambda wrong: film(wrong).update(knees=[]),
    "refused film without reason": lambda wrong: wrong["radiographs"][3].update(reason=None),
    "coherence without the shift": lambda wrong: knee(wrong)["coherence"].pop("decoding_shift"),
    "shift of half a grade": lambda wrong: knee(wrong)["coherence"].update(decoding_shift=0.5),
    "major version 1": lambda wrong: wrong.update(schema_version="1.3"),
    "short checksum": lambda wrong: wrong["software"]["weights"].update(sha256="abc"),
}


@pytest.mark.parametrize("damage", WRONG.values(), ids=WRONG.keys())
def test_invalid_reports_are_rejected(report, validator, damage):
    wrong = to_dict(report)
    damage(wrong)
    with pytest.raises(ValidationError):
        validator.validate(wrong)


def test_keys_may_be_added(report, validator):
    more = to_dict(report) | {"new": 1, "schema_version": "2.7"}
    knee(more)["new"] = None
    validator.validate(more)


def test_joint_space_keeps_the_old_keys_and_gains_errors_and_fractions(report):
    knee = to_dict(report)["radiographs"][0]["knees"][0]
    assert knee["joint_space_width_mm"] == {
        "medial": 3.27,
        "lateral": 5.918,
        "medial_error": 0.16,
        "lateral_error": 0.24,
    }
    space = knee["joint_space"]
    assert space["medial"]["fraction"] == pytest.approx(3.27 / 80, abs=1e-6)
    assert [row["x"] for row in space["fixed"]] == [0.15, 0.7]
    assert space["convergence_angle_deg"] == {"value": -1.5, "error": 0.4}
    assert space["tibial_width_mm"] == {"value": 80.0, "error": 0.4}
    assert knee["landmarks_outside"] == [0, 73]
    assert len(knee["point_confidence"]) == 74


def test_fractions_remain_without_a_spacing(report, validator):
    space = replace(report.radiographs[0].knees[0].joint_space, mm_per_px=None)
    written = to_dict(with_first_knee(report, joint_space=space))
    validator.validate(written)
    knee = written["radiographs"][0]["knees"][0]
    assert knee["joint_space_width_mm"] is None
    assert knee["joint_space"]["tibial_width_mm"] is None
    assert knee["joint_space"]["lateral"]["mm"] is None
    assert knee["joint_space"]["lateral"]["fraction"] == pytest.approx(5.918 / 80, abs=1e-6)

"""The evidence of a report, and the documented codes of its quality findings."""

import ast
import re
from inspect import isfunction
from pathlib import Path

import numpy as np
import pytest
import torch

import kneegrade
from kneegrade.anatomy import Knee, refusal
from kneegrade.anatomy.knee import build_knee
from kneegrade.anatomy.landmarks import Landmarks
from kneegrade.anatomy.laterality import SideAssignment
from kneegrade.anatomy.shape_model import ShapeModel
from kneegrade.imaging import check_crop, read_radiograph
from kneegrade.network import GradingNetwork, ModelConfig, evidence_of
from kneegrade.results import Finding
from kneegrade.schema import TARGETS
from kneegrade.uncertainty import QualityControl

REPORT_PAGE = Path(__file__).parents[1] / "docs" / "reference" / "report-json.md"


def knee_of_noise() -> Knee:
    """The mean shape on a film of noise that cuts off its shafts, so that some landmarks are not visible."""
    pixels = np.random.default_rng(0).uniform(size=(330, 400)).astype(np.float32)
    points = ShapeModel.load().mean({"kl": 0}) * 3 + [200, 165]
    inside = (points >= 0).all(1) & (points <= [399, 329]).all(1)
    landmarks = Landmarks(points, np.tile(np.eye(2), (74, 1, 1)), inside)
    return build_knee(read_radiograph(pixels), landmarks, SideAssignment("R", 0.9), landmark_confidence=0.9, roi_px=96)


@pytest.mark.parametrize("pooling", ["keypoints", "keypoints+global"])
@torch.no_grad()
def test_the_three_parts_of_evidence_sum_to_the_networks_centred_logits(pooling):
    torch.manual_seed(0)
    network = GradingNetwork(ModelConfig("resnet18", pooling, reduce=8, roi_px=96)).eval()
    network.feature_mean.normal_()
    knee = knee_of_noise()
    assert 0 < knee.visible.sum() < 74
    roi = torch.from_numpy(knee.roi)[None, None]
    output = network(roi, torch.from_numpy(knee.roi_landmarks_px).float()[None], torch.from_numpy(knee.visible)[None])
    attribution = network.attribute(output.pooled)
    evidence = evidence_of(knee, attribution, 0)
    for target in TARGETS:
        logits = output.logits[target.name][0].double().numpy()
        landmarks, global_term = evidence.contributions[target.name], evidence.region_term[target.name]
        assert landmarks.shape == (74, target.classes)
        assert global_term.shape == evidence.constant[target.name].shape == (target.classes,)
        total = landmarks.sum(0) + global_term + evidence.constant[target.name]
        np.testing.assert_allclose(total, logits - logits.mean(), atol=1e-4)
        if pooling == "keypoints":
            assert not global_term.any()
        else:  # the mean of the map is the read point after the landmarks
            expected = attribution.contributions[target.name][0, 74].double().numpy()
            np.testing.assert_array_equal(global_term, expected)
            assert np.abs(global_term).max() > 1e-3


def codes_given_by(function) -> set[str]:
    """Codes of the findings that a function can return: those that it names, and those of functions that it calls."""
    assert "Finding" not in function.__code__.co_names, (
        f"{function.__name__}: make its findings constants of the module"
    )
    found = set()
    for value in (function.__globals__.get(name) for name in function.__code__.co_names):
        findings = value if isinstance(value, tuple) else (value,)
        found |= {finding.code for finding in findings if isinstance(finding, Finding)}
        if isfunction(value) and value.__module__.startswith("kneegrade"):
            found |= codes_given_by(value)
    return found


def test_the_documented_codes_of_quality_are_those_that_the_code_gives():
    """The quality of a knee comes from quality control or, for a knee refused before it, from the refusal."""
    table = REPORT_PAGE.read_text().split("Codes in `quality.findings`:")[1].strip().split("\n\n")[0]
    documented = [code for row in table.splitlines() for code in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(documented) == sorted(
        codes_given_by(refusal) | codes_given_by(check_crop) | codes_given_by(QualityControl._quality)
    )
    assert {"view", "blur", "implant", "unlike_training"} < set(documented)


def codes_raised_in(path: Path) -> set[str]:
    """Codes of the errors that a module raises because of a file; `UsageError`s blame the call."""
    defaults = {
        "UnreadableFileError": "unreadable",
        "UnsupportedFileError": "unsupported",
        "LimitExceededError": "limit",
    }
    codes = set()
    for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
        name = getattr(call.func, "id", "")
        if name in {*defaults, "KneeGradeError"}:
            given = [*call.args[1:2], *(keyword.value for keyword in call.keywords if keyword.arg == "code")]
            codes.add(
                ast.literal_eval(given[0]) if given and isinstance(given[0], ast.Constant) else defaults.get(name)
            )
    return codes - {None}


def test_the_codes_of_files_that_cannot_be_read_are_documented():
    package = Path(kneegrade.__file__).parent
    modules = [
        *package.rglob("imaging/**/*.py"),
        package / "anatomy/coco_keypoints.py",
        package / "anatomy/landmark_files.py",
        package / "anatomy/user_landmarks.py",
    ]
    raised = {code for module in modules for code in codes_raised_in(module)}
    assert {"format", "zip_ratio", "transfer_syntax", "landmarks", "unreadable"} < raised
    documented = set(re.findall(r"`(\w+)`", REPORT_PAGE.read_text()))
    assert raised <= documented

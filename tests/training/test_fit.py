from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from kneegrade.phantom.phantom_cohort import ROI_FILE, TABLE_FILE
from kneegrade.training import fit
from kneegrade.uncertainty import ImplantLimits, ImplantNetwork, OODFeatures, save_implants
from kneegrade.weights import Weights


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_progress_of_quality_control_counts_every_film_up_to_all(tmp_path, monkeypatch, share):
    """Networks are replaced; of the phantoms with implants only the fifth that is measured on counts."""

    def predict_knees(source, weights, *, features, device, progress):
        for done in range(len(source)):
            progress(done + 1, len(source))
        rows = len(source)
        drawn = OODFeatures(np.zeros((rows, 2)), np.zeros(rows), np.zeros((rows, 15)), np.zeros((rows, 4, 4), np.uint8))
        return SimpleNamespace(ood_features=drawn)

    monkeypatch.setattr(fit, "predict_knees", predict_knees)
    monkeypatch.setattr(
        fit, "fit_implants_of_manifests", lambda *_, **__: (SimpleNamespace(network=None, limits=None), {})
    )
    monkeypatch.setattr(fit, "fit_quality_control", lambda *_, **__: SimpleNamespace(state_dict=dict))
    monkeypatch.setattr(fit, "_measures_on_phantoms", lambda *_: {})
    monkeypatch.setattr(fit, "_measures_on_films", lambda *_: {})
    subject = np.array([f"p{index}" for index in range(400)])
    path = [f"films/{index}.png" for index in range(400)]
    table = pd.DataFrame(
        {"image_path": path, "subject_id": subject, "split": np.where(np.arange(400) < 120, "train", "val")}
    )
    implant = np.where(np.arange(240) % 2, "nail", None)
    pd.DataFrame({"subject_id": np.arange(240) // 2, "implant": implant}).to_parquet(tmp_path / TABLE_FILE)
    np.save(tmp_path / ROI_FILE, np.zeros((240, 4, 4), dtype=np.uint8))
    calls = []
    fit.quality_control_from_manifest(
        table,
        tmp_path,
        tmp_path / "w.safetensors",
        share=share,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(done, calls[0][1]) for done in range(1, calls[0][1] + 1)]
    assert len(calls) == 400 + 240 - 96


def test_weights_name_the_sources_of_an_implant_network_that_they_take_over(tmp_path):
    path = tmp_path / "implants.safetensors"
    save_implants(path, ImplantNetwork(), ImplantLimits(0.95, 0.3), {"attribution": ["crops", "films of a hospital"]})
    loaded = Weights("grader", "0", {}, {"attribution": ["crops", "phantoms"]})
    found = fit._provenance_of_implants(loaded, path)
    assert found["attribution"] == ["crops", "phantoms", "films of a hospital"]
    assert found["implants"]["name"] == "implants"
    assert fit._provenance_of_implants(loaded, None) == {}

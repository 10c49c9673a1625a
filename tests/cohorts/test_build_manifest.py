import numpy as np
import pandas as pd
import pytest

from kneegrade.cohorts import Counts, load_manifest, phantom_manifest
from kneegrade.cohorts.build_manifest import split_by_subject
from kneegrade.errors import CohortError
from kneegrade.phantom import Cohort, write_cohort


def test_split_is_two_to_one_to_one_in_every_stratum():
    generator = np.random.default_rng(0)
    table = pd.DataFrame(
        {"subject_id": [f"s{i // 2}" for i in range(800)], "kl": pd.array(generator.integers(0, 5, 800), dtype="Int64")}
    )
    split = table["subject_id"].map(split_by_subject(table))
    worst = table.groupby("subject_id")["kl"].transform("max")
    for grade in (2, 3, 4):
        shares = split[worst == grade].value_counts(normalize=True)
        assert shares["train"] == pytest.approx(0.5, abs=0.06)
        assert shares["val"] == pytest.approx(0.25, abs=0.06)
    assert split_by_subject(table, 1) != split_by_subject(table, 0)


def test_phantom_films_are_split_by_person(tmp_path):
    write_cohort(tmp_path, Cohort(8, "uniform", seed=5, implants=0.3, longest_px=300))
    counts = Counts()
    table = phantom_manifest(tmp_path, counts=counts)
    truth = pd.read_parquet(tmp_path / "truth.parquet")
    assert len(table) == len(truth)
    assert table["kl"].isna().sum() == counts.by_name["knees with a joint replacement, without grades"] == 4
    assert set(table["split"]) == {"train", "val", "test"}
    assert len(table["landmarks_px"].iloc[0]) == 148
    table.to_parquet(tmp_path / "m.parquet")
    assert len(load_manifest(tmp_path / "m.parquet")) == len(table)


def test_folder_without_phantom_films_is_reported(tmp_path):
    with pytest.raises(CohortError, match=r"no truth\.parquet"):
        phantom_manifest(tmp_path)
    write_cohort(tmp_path, Cohort(1, kind="rois"))
    with pytest.raises(CohortError, match="single-knee crops"):
        phantom_manifest(tmp_path)

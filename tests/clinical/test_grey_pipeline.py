"""Windows and lookup tables of films in presentation states."""

import numpy as np
import pytest
from clinical_films import ClinicalVariant, PhantomPair, having, without
from iod_check import iod_problems, needs_dciodvfy
from pydicom.dataset import Dataset

from kneegrade.clinical.derived_object import file_bytes
from kneegrade.clinical.grey_pipeline import TABLES, WINDOW, source_with_grey_pipeline
from kneegrade.clinical.gsps import presentation_state

ENTRIES = np.arange(4096) * 16


def table(*, descriptor=(4096, 0, 16), data=None, vr="OW") -> Dataset:
    item = Dataset()
    item.add_new(0x00283002, "US", list(descriptor))
    item.LUTExplanation = "NORMAL"
    item.add_new(0x00283006, vr, ENTRIES.astype("<u2").tobytes() if data is None else data)
    return item


def with_tables(keyword: str, *items: Dataset):
    def change(film: Dataset) -> None:
        if keyword == "ModalityLUTSequence":
            without("RescaleSlope", "RescaleIntercept", "RescaleType")(film)
            for item in items:
                item.ModalityLUTType = "US"
        setattr(film, keyword, list(items))

    return change


CHANGES = {
    "voi": with_tables("VOILUTSequence", table()),
    "voi_numbers": with_tables("VOILUTSequence", table(data=ENTRIES.tolist(), vr="US")),
    "voi_second": with_tables("VOILUTSequence", table(descriptor=(0, 0)), table()),
    "voi_malformed": with_tables("VOILUTSequence", table(descriptor=(0, 0))),
    "voi_short": with_tables("VOILUTSequence", table(data=b"\0\0")),
    "modality": with_tables("ModalityLUTSequence", table()),
    "window": having(),
    "window_sigmoid": having(VOILUTFunction="SIGMOID"),
    "function_unknown": having(VOILUTFunction="ODD"),
    "window_zero": having(WindowWidth="0"),
    "window_half": having(WindowWidth=""),
}
KEPT = {  # elements of the pipeline that are left
    "voi": {"VOILUTSequence"},
    "voi_numbers": {"VOILUTSequence"},
    "voi_second": {"VOILUTSequence"},
    "voi_malformed": {"WindowCenter", "WindowWidth"},
    "voi_short": {"WindowCenter", "WindowWidth"},
    "modality": {"ModalityLUTSequence", "WindowCenter", "WindowWidth"},
    "window": {"WindowCenter", "WindowWidth"},
    "window_sigmoid": set(WINDOW),
    "function_unknown": {"WindowCenter", "WindowWidth"},
    "window_zero": set(),
    "window_half": set(),
}


@needs_dciodvfy
@pytest.mark.parametrize("name", CHANGES)
def test_what_is_well_formed_is_kept_and_the_state_is_valid(name: str, pair: PhantomPair, tmp_path) -> None:
    pytest.importorskip("highdicom", reason='highdicom is missing: pip install "kneegrade[dicom]"')
    film = ClinicalVariant(name, CHANGES[name]).film(pair)
    source = source_with_grey_pipeline(film.header, ignore_window=False)
    assert {keyword for keyword in (*TABLES, *WINDOW) if keyword in source} == KEPT[name]
    assert iod_problems(file_bytes(presentation_state(film)), tmp_path) == []


def test_an_ignored_window_is_removed_and_the_header_stays_as_it_is(pair: PhantomPair) -> None:
    header = ClinicalVariant("window").film(pair).header
    assert "WindowCenter" not in source_with_grey_pipeline(header, ignore_window=True)
    assert "WindowCenter" in header.image


def test_numbers_of_a_table_become_words(pair: PhantomPair) -> None:
    header = ClinicalVariant("numbers", CHANGES["voi_numbers"]).film(pair).header
    (item,) = source_with_grey_pipeline(header, ignore_window=False).VOILUTSequence
    assert np.frombuffer(item.LUTData, "<u2").tolist() == ENTRIES.tolist()

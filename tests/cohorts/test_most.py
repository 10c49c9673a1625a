import pytest

from kneegrade.cohorts.most import most_readings
from kneegrade.errors import CohortError


def test_invalid_table_is_reported_with_row_and_column(tmp_path):
    with pytest.raises(CohortError, match="no table mostv01235xray"):
        most_readings(tmp_path)
    (tmp_path / "MOSTV01235XRAY.txt").write_text("MOSTID\tV0XRKL\nMB00001\t7\n")
    with pytest.raises(CohortError, match="row 2, column V0XRKL: '7'"):
        most_readings(tmp_path)
    (tmp_path / "MOSTV01235XRAY.txt").write_text("MOSTID\tV0XRKL\nMB00001\t1\nMB00001\t2\n")
    with pytest.raises(CohortError, match="row 3, column MOSTID: 'MB00001'; expected one row per person"):
        most_readings(tmp_path)

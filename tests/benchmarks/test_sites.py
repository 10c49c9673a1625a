import numpy as np
import pytest

from kneegrade.uncertainty import Calibration, ConformalSets, Postprocessor, SiteMap, SiteScale
from kneegrade.weights import save_weights


def test_weights_on_the_scale_of_a_site_are_refused(tmp_path):
    """Their stored grades are the site's, and the tables would fit the scale of the site a second time."""
    from sites import study_postprocessor

    scale = SiteScale("North", 60, {"kl": SiteMap("identity", np.zeros(0))}, ConformalSets())
    about, plain = {"name": "w", "kind": "grader"}, Postprocessor(Calibration(), sets=ConformalSets())
    path = tmp_path / "w.safetensors"
    save_weights(path, plain.tensors(), about)
    assert study_postprocessor(path).site is None
    mapped = Postprocessor(Calibration(), sets=ConformalSets(), site=scale)
    save_weights(path, mapped.tensors(), {**about, "site": {"name": "North", "knees": 60}})
    with pytest.raises(SystemExit, match="scale of a site's reader"):
        study_postprocessor(path)

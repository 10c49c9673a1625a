import os
import subprocess
import sys


def test_a_mixture_is_fitted_without_a_word_where_the_cores_cannot_be_counted() -> None:
    """joblib runs `cat` and `lscpu`, which an empty PATH hides, unless OMP_NUM_THREADS is set."""
    code = (
        "from kneegrade.coherence.mixture import fit_mixture\n"
        "fit_mixture({(2, 0, 1, 0, 1, 0, 1): 60, (0, 0, 0, 0, 0, 0, 0): 60}, components=2)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | {"PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

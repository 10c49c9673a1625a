"""Imports of libraries that print what a user cannot act on."""

import io
import warnings
from contextlib import redirect_stderr


def import_joblib_quietly() -> None:
    """Import joblib, which scikit-learn uses, and let it count the cores; call it before scikit-learn is imported.

    Where there are no programs to count the cores (small containers), joblib warns at the first count and prints a
    traceback; where there are no semaphores, it warns when it is imported. Neither changes a result.
    """
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        import joblib

        joblib.cpu_count(only_physical_cores=True)

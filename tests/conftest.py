"""Settings for all tests."""

from hypothesis import settings

settings.register_profile("kneegrade", deadline=None)  # timings belong to benchmarks
settings.load_profile("kneegrade")

"""Fixtures of the tests of destinations."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from standing_clock import Clock

from kneegrade.server.spool.film_spool import Spool


@pytest.fixture
def no_sockets_are_left() -> Iterator[None]:
    """pynetdicom leaves the socket of a connection that was refused to the garbage collector."""
    yield
    gc.collect()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """An empty spool whose clock stands."""
    spool = Spool(tmp_path / "spool", min_free_bytes=0, clock=Clock())
    yield spool
    spool.close()

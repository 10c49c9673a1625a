"""Any number of films → Parquet tables, by worker processes or a Ray cluster, resumable at any moment.

`plan` lists the films, `film_task` grades one, `local_engine` and `ray_engine` spread them over processes, `retries`
decides which film is to blame when these die, `result_parts` writes their rows, `finished_films` tells what earlier
runs have done, `run` composes these, `summary` is the page for people.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kneegrade.batch.parquet import SCHEMA_VERSION, TABLES, Column
    from kneegrade.batch.result_parts import read_table
    from kneegrade.batch.run import BatchOptions, BatchProgress, run_batch
    from kneegrade.batch.run_file import RunSettings
    from kneegrade.batch.shard import Shard
    from kneegrade.batch.summary import write_summary

__all__ = [
    "SCHEMA_VERSION",
    "TABLES",
    "BatchOptions",
    "BatchProgress",
    "Column",
    "RunSettings",
    "Shard",
    "read_table",
    "run_batch",
    "write_summary",
]
_MODULES = {
    "parquet": ("SCHEMA_VERSION", "TABLES", "Column"),
    "result_parts": ("read_table",),
    "run": ("BatchOptions", "BatchProgress", "run_batch"),
    "run_file": ("RunSettings",),
    "shard": ("Shard",),
    "summary": ("write_summary",),
}


def __getattr__(name: str) -> Any:
    """The exported names are imported at their first use: a worker process imports this package first."""
    from importlib import import_module

    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Any number of films → Parquet tables, by worker processes or a Ray cluster, resumable at any moment.

`plan` lists the films, `film_task` grades one, `local_engine` and `ray_engine` spread them over processes,
`result_parts` writes their rows, `run` composes these, `summary` is the page for people.
"""

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

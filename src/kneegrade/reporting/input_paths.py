"""`inputs.json`: where the films of a report are, so that the reader's page finds them. Not part of the report."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from kneegrade.files import write_text

INPUTS_FILE: Final = "inputs.json"


def write_inputs(inputs: Iterable[Path], directory: Path) -> Path:
    """The path of `directory/inputs.json`, after the absolute paths of the inputs were written to it.

    Raises:
        UsageError: the file cannot be written.
    """
    path = directory / INPUTS_FILE
    write_text(path, json.dumps({"inputs": [str(each.absolute()) for each in inputs]}, indent=1) + "\n")
    return path

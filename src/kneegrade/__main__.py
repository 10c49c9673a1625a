"""`python -m kneegrade` and the command `kneegrade`.

The command line is imported within `run`, so that Ctrl-C during the import is a sentence too.
"""

import os
import sys


def run() -> None:
    """Entry point of the command `kneegrade`."""
    try:
        _open_standard_streams()
        from kneegrade.commands import main

        main()
    except KeyboardInterrupt:
        print("kneegrade: The command was interrupted.", file=sys.stderr)
        sys.exit(130)


def _open_standard_streams() -> None:
    """Open streams that were closed (`>&-`, some schedulers) on the null device.

    Their numbers would go to the next files that are opened otherwise, which child processes then take for streams.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


if __name__ == "__main__":
    run()

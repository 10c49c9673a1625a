"""Standard output and standard error that end the command when the reader of a pipe, for example `head`, has ended.

Python ignores SIGPIPE, which the pipes to child processes need, and raises BrokenPipeError instead. Libraries treat it
in different ways: rich and click end with exit code 1, which means ungraded films here.
"""

import io
import os
import stat
from typing import Any, Final, TextIO

PIPE_CLOSED: Final = 141  # exit code that a shell shows for a program that SIGPIPE (13) has ended: 128 + 13


class _EndingPipe(io.FileIO):
    """A pipe whose `write` raises SystemExit if its reader has ended; what is written later is dropped."""

    def write(self, data: Any, /) -> int:
        """As `io.FileIO.write`."""
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # so that the flush at the end of Python succeeds
            os.close(nowhere)
            raise SystemExit(PIPE_CLOSED) from None


def ending_with_reader(stream: TextIO) -> TextIO:
    """A stream in place of `stream` that ends the process quietly once the reader of its pipe has ended.

    Args:
        stream: standard output or standard error; one that is no pipe is returned unchanged.
    """
    try:
        is_pipe = isinstance(stream, io.TextIOWrapper) and stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):  # it is closed
        is_pipe = False
    if not is_pipe or not isinstance(stream, io.TextIOWrapper):
        return stream
    binary = io.BufferedWriter(_EndingPipe(stream.fileno(), "w", closefd=False))
    by_line = stream.line_buffering or stream.write_through  # python -u: text on a raw stream would lose partial writes
    return io.TextIOWrapper(binary, stream.encoding, stream.errors, line_buffering=by_line)

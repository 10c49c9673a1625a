"""A limit on the processor time of one file in the decoding process, for codecs that never end on a damaged stream.

The time depends on the size of the image, because a codec that has not decoded a small image after a few seconds never
will. It is processor time, so that a busy computer refuses no film. A process that uses none is ended by its parent
(`stuck_process`).
"""

import signal
from typing import Final

SECONDS: Final = 4.0  # for a file with a small image; films take less than one
SECONDS_PER_MEGAPIXEL: Final = 0.5
EXIT_STATUS: Final = -int(getattr(signal, "SIGPROF", 0))  # of a process that exceeded its limit, as `Popen.returncode`

_is_enabled = False  # in the decoding process only; the signal would end any other


def enable() -> None:
    """From now on the functions below limit this process, which then ends with `EXIT_STATUS`."""
    global _is_enabled
    _is_enabled = EXIT_STATUS != 0


def begin_cpu_limit() -> None:
    """Allow this process `SECONDS` for the file that it begins."""
    if _is_enabled:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)


def extend_cpu_limit(pixels: int) -> None:
    """Add the seconds that an image with so many pixels needs, when its header is read."""
    if _is_enabled:
        left, _ = signal.getitimer(signal.ITIMER_PROF)
        if left:  # otherwise no file has begun
            signal.setitimer(signal.ITIMER_PROF, left + SECONDS_PER_MEGAPIXEL * pixels / 1e6)


def end_cpu_limit() -> None:
    """Lift the limit until the next file."""
    if _is_enabled:
        signal.setitimer(signal.ITIMER_PROF, 0)

"""How hard the attacks try, and what they print.

`make attack` sets KNEEGRADE_ATTACK=1 and runs every attack at its full count; a larger number multiplies the counts.
Without the variable, as in CI, an attack makes a small share of its tries. Each prints what it tried (`pytest -s`).
"""

import os

SEED = 24
SCALE = float(os.environ.get("KNEEGRADE_ATTACK", "0"))


def tries(full: int, share: int) -> int:
    """Number of tries: `share` in CI, `full` times KNEEGRADE_ATTACK in `make attack`."""
    return max(share, round(full * SCALE))


def is_full() -> bool:
    """True in `make attack`."""
    return SCALE > 0


def say(promise: int, text: str) -> None:
    """Print one line about an attack."""
    print(f"\npromise {promise}: {text}", flush=True)

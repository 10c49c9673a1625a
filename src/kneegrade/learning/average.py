"""`Average`: the exponential moving average of a network while it is trained."""

from typing import Any

import torch


class Average:
    """Exponential moving average of a network's floating-point state.

    Args:
        network: where it starts.
        decay: share that stays at each step; it grows over the first steps, so that a random start is soon forgotten.
    """

    def __init__(self, network: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.state = {k: v.detach().clone() for k, v in network.state_dict().items() if v.is_floating_point()}

    def update(self, network: torch.nn.Module) -> None:
        """Move towards the network's present state."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for key, value in network.state_dict().items():
            if key in self.state:
                self.state[key].lerp_(value.detach(), 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"steps": self.steps, "state": self.state}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.steps = saved["steps"]
        for key, value in saved["state"].items():
            self.state[key].copy_(value)

"""The supplement's two figures: the incoherence loss (Eq. 4) and its gradient against g, for each τ."""

import os
from pathlib import Path

import numpy as np
import torch

from kneegrade.coherence import incoherence_loss

TAUS = (0.25, 0.5, 0.75, 1.0, 1.5)


def incoherence_figures(directory: Path) -> list[Path]:
    """Write `supplement-figure1.png` and `supplement-figure2.png` into `directory`."""
    from matplotlib.figure import Figure

    g = torch.linspace(-20, 20, 801, dtype=torch.float64, requires_grad=True)
    curves = []
    for tau in TAUS:
        loss = incoherence_loss(g, tau)
        (slope,) = torch.autograd.grad(loss.sum(), g)
        curves.append((tau, loss.detach().numpy(), slope.numpy()))
    written = []
    labels = ("incoherence loss", "gradient of the incoherence loss")
    for number, label in enumerate(labels, start=1):
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        axes = figure.add_subplot(xlabel="mixture log-probability g", ylabel=label)
        for tau, *values in curves:
            axes.plot(np.asarray(g.detach()), values[number - 1], label=f"τ = {tau:g}")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        path = directory / f"supplement-figure{number}.png"
        partial = path.with_name(path.name + ".tmp")
        figure.savefig(partial, dpi=150, format="png")
        os.replace(partial, path)
        written.append(path)
    return written

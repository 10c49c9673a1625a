"""Training of the implant network of quality control, and its limits.

Real knees with metal are not labelled in the available data. Therefore the network learns from sound knees of several
sites and from the same knees with drawn metal (`kneegrade.training.metal.implant_examples`). If all metal were in
phantoms, or all knees without metal in one hospital, the network could tell "no metal" from the picture's origin.

The limits are chosen on sites that the network has not seen: for each site except the first, a network is trained
without it and applied to its sound knees. The first site and the phantoms are judged on people who were left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kneegrade.progress import Progress
from kneegrade.training.initialization import seeded
from kneegrade.training.metal.implant_examples import (
    ImplantExamples,
    KneePictures,
    concatenate_examples,
    make_examples,
    plain_inputs,
)
from kneegrade.training.trainer import LoopSettings, Tensors, TrainingTask, train
from kneegrade.uncertainty import ImplantLimits, ImplantNetwork
from kneegrade.uncertainty.implant_network import IMPLANT_PX

EXAMPLES, EPOCHS, BATCH_SIZE = 10_000, 7, 16
LEARNING_RATE, CONTINUED_LEARNING_RATE, WEIGHT_DECAY = 3e-3, 1e-3, 1e-2
SITE_EXPONENT = 1 / 3  # of a site's number of knees in its share of the examples
MIN_EXAMPLES, MAX_EXAMPLES_PER_KNEE = 64, 16  # of a site
POSSIBLE_SHARE, CERTAIN_SHARE = 0.03, 0.005  # of the sound knees of a typical site that are above each limit
MIN_POSSIBLE, MIN_CERTAIN = 0.3, 0.95
MAX_SHIFT = 0.05  # of the image's side
MAX_LOG_GAMMA = 0.4

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FittedImplants:
    """The implant network with its limits, and what they were chosen on.

    Attributes:
        network: trained on all sites.
        limits: for its probability.
        left_out: site → (N,) probabilities of metal in its sound knees, from a network that has not seen the site (for
            the first site and phantoms: the people).
    """

    network: ImplantNetwork
    limits: ImplantLimits
    left_out: Mapping[str, Array]


def fit_implants(
    sites: Sequence[KneePictures], phantoms: KneePictures, implants: KneePictures, held_out: Sequence[KneePictures], *,
    examples: int = EXAMPLES, epochs: int = EPOCHS, seed: int = 0, progress: Progress | None = None,
) -> FittedImplants:  # fmt: skip
    """The implant network and its limits, from sound knees of several sites and phantoms.

    Args:
        sites: real knees without metal; the first site is that of the training data of the grading network.
        phantoms: phantoms without metal.
        implants: phantoms with metal of their own.
        held_out: knees without metal of other people, of the first site and of phantoms.
        examples: number of pictures that are made of `sites` and `phantoms`, half of them with drawn metal.
        epochs: of each network without a site; the final network continues the last of them for half as many epochs.
        seed: of drawing, initial weights and order.
        progress: called with (steps done, steps in all): examples made, then steps of each training.
    """
    sources = [*sites, phantoms]
    numbers = examples_of_sites([len(source) for source in sources], examples)
    parts = []
    for index, (source, number) in enumerate(zip(sources, numbers, strict=True)):
        parts.append(make_examples(source, number, 1000 * seed + index, progress=progress))
    shown = make_examples(implants, len(implants), 1000 * seed + len(sources), metal=False)
    everything = concatenate_examples([*parts, replace(shown, metal=np.ones(len(shown), dtype=np.bool_))])
    network, left_out = None, {}
    for site in sites[1:]:
        network = fit_implant_network(everything.without(site.site), seed, epochs=epochs, progress=progress)
        left_out[site.site] = network.probability(plain_inputs(site))
    rest = epochs if network is None else max(1, epochs // 2)
    network = fit_implant_network(everything, seed, epochs=rest, start=network, progress=progress)
    for part in held_out:
        left_out[f"{part.site}, other people"] = network.probability(plain_inputs(part))
    return FittedImplants(network, implant_limits(left_out), left_out)


def examples_of_sites(knees: Sequence[int], examples: int) -> list[int]:
    """Number of examples of each site: small sites get more for each knee, as they differ as much as large ones.

    At most 16 for a knee, at least 64 for a site.

    Example:
        >>> examples_of_sites([1000, 125], 600)
        [400, 200]
    """
    shares = np.power(np.asarray(knees, dtype=np.float64), SITE_EXPONENT)
    wanted = np.minimum(examples * shares / shares.sum(), np.multiply(knees, MAX_EXAMPLES_PER_KNEE))
    return [max(MIN_EXAMPLES, round(number)) for number in wanted.tolist()]


def implant_limits(left_out: Mapping[str, Array]) -> ImplantLimits:
    """The limits that 3 % (possible) and 0.5 % (certain) of the sound knees of a typical new site exceed.

    Typical is the median over the sites: one unusual site must not cost the detection of metal everywhere. What it
    gives is in `FittedImplants.left_out`. The limits are at least 0.3 and 0.95.

    Args:
        left_out: site → (N,) probabilities of metal in sound knees of the site.
    """
    possible, certain = (
        float(np.median([np.quantile(own, 1 - share, method="higher") for own in left_out.values()]))
        for share in (POSSIBLE_SHARE, CERTAIN_SHARE)
    )
    possible = max(possible, MIN_POSSIBLE)
    return ImplantLimits(possible=possible, certain=max(certain, possible, MIN_CERTAIN))


def fit_implant_network(
    examples: ImplantExamples, seed: int = 0, *, epochs: int = EPOCHS, start: ImplantNetwork | None = None,
    progress: Progress | None = None,
) -> ImplantNetwork:  # fmt: skip
    """A trained implant network in evaluation mode, its parameters rounded to bfloat16 as in a weights file.

    Both classes have the same total weight. Trained on the CPU; 8,000 examples take two to three minutes on one core.

    Args:
        examples: at least 32, of both classes.
        seed: of initial weights, order and augmentation.
        epochs: passes over the examples.
        start: network to continue, at a lower learning rate; it is not changed. By default a new one.
        progress: called with (steps done, steps in all, loss).
    """
    task = ImplantTask(examples, seed, epochs, start)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of dropout
        train(task, progress=progress)
    network: ImplantNetwork = task.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.bfloat16())
    return network


class ImplantTask(TrainingTask):
    """The implant network; see `fit_implant_network` for the arguments. Not resumable: batches are drawn in order."""

    name = identity = "implant"
    network: ImplantNetwork

    def __init__(self, examples: ImplantExamples, seed: int, epochs: int, start: ImplantNetwork | None) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        network = seeded(ImplantNetwork, seed)
        if start is not None:
            network.load_state_dict(start.state_dict())
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.pictures = torch.from_numpy(examples.inputs).unsqueeze(1)
        self.truth = torch.from_numpy(examples.metal).float()
        share = self.truth.mean()
        self.weight = torch.where(self.truth > 0, 0.5 / share, 0.5 / (1 - share))
        self.settings = LoopSettings(
            epochs=epochs,
            steps_per_epoch=len(examples) // BATCH_SIZE,
            learning_rate=LEARNING_RATE if start is None else CONTINUED_LEARNING_RATE,
            schedule="one_cycle",
            weight_decay=WEIGHT_DECAY,
            bf16=True,
            cpu=True,
        )

    def batch(self, epoch: int, step: int) -> tuple[Tensors, Tensors]:
        """((images (B, 1, 144, 144),), (truth (B,), weights (B,))); every epoch has its own order."""
        if step == 0:
            number = self.settings.steps_per_epoch
            order = torch.randperm(len(self.pictures), generator=self.generator)
            self.order = order[: number * BATCH_SIZE].chunk(number)
        rows = self.order[step]
        images = _augment(self.pictures[rows].float() / 255, self.generator)
        return (images.contiguous(memory_format=torch.channels_last),), (self.truth[rows], self.weight[rows])

    def losses(self, output: Tensor, labels: Tensors, epoch: int) -> dict[str, Tensor]:
        """Weighted binary cross entropy."""
        truth, weight = labels
        return {"loss": functional.binary_cross_entropy_with_logits(output.float(), truth, weight)}


def _augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Images shifted by whole pixels and perhaps mirrored, all in the same way, each with its own gamma.

    What a shift uncovers is outside the film.
    """
    most = round(MAX_SHIFT * IMPLANT_PX)
    down, right = torch.randint(0, 2 * most + 1, (2,), generator=generator).tolist()
    padded = functional.pad(pictures, (most,) * 4)
    pictures = padded[..., down : down + IMPLANT_PX, right : right + IMPLANT_PX]
    gamma = torch.exp(MAX_LOG_GAMMA * (2 * torch.rand(len(pictures), 1, 1, 1, generator=generator) - 1))
    mirrored = torch.rand(1, generator=generator) < 0.5
    return (pictures.flip(-1) if mirrored else pictures) ** gamma

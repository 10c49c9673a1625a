"""Two graders on the same knees, each calibrated on the other half of the people.

    python benchmarks/compare_weights.py cache/dataset-chen2018-shipped OLD.safetensors NEW.safetensors [--split val]

Calibration, decoder and ordinal smoothing of each network are fitted on the people of one half and predict the other
half, in both directions (as in benchmarks/decoding.py), so the published calibration of neither is used and no knee is
left out by either. Differences are new minus old, paired, with 95 % bootstrap intervals over people. The last line is
the CPU time of a crop in both networks alone, one thread, float32, in turn.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from decoding import COLUMNS, SMOOTHED, cross_fitted, read, with_log_loss

from kneegrade.evaluation import SubjectBootstrap, score
from kneegrade.evaluation.bootstrap import differences
from kneegrade.evaluation.paper_tables import difference_cell, score_cell
from kneegrade.evaluation.table_formats import Table, markdown
from kneegrade.network import Ensemble, GradingNetwork, load_network
from kneegrade.weights import load_weights

TIMED_CROPS, TIMED_ROUNDS = 8, 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--split", default="val", help="split of the dataset to calibrate and score; default: val")
    options = parser.parse_args()
    predictions = {}
    for path in (options.old, options.new):
        knees = read(options.dataset, options.split, path)
        predictions[path] = cross_fitted(knees)[0][SMOOTHED]
    people = SubjectBootstrap(knees.subject)
    scores = {path: with_log_loss(score(one, people), one, people) for path, one in predictions.items()}
    lines: list[tuple[str, ...] | None] = [
        (name, *(score_cell(scores[path], *column) for column in COLUMNS.values()))
        for name, path in (("old", options.old), ("new", options.new))
    ]
    found = [differences(scores[options.old], scores[options.new], grade)[metric] for grade, metric in COLUMNS.values()]
    lines.append(("new minus old", *(difference_cell(*each) for each in found)))
    print(markdown(Table("compare", "Two graders", ("", *COLUMNS), tuple(lines), (f"{len(knees.subject)} knees.",))))
    old, new = network_milliseconds([options.old, options.new])
    print(f"milliseconds a crop: old {np.median(old):.0f}, new {np.median(new):.0f}, ratio {np.median(new / old):.2f}")


def network_milliseconds(paths: list[Path]) -> np.ndarray:
    """(networks, rounds) CPU milliseconds of one crop, in float32 on one thread, one network after the other."""
    torch.set_num_threads(1)
    networks = [load_network(load_weights(path, "grader")).optimized_for_inference("cpu") for path in paths]
    times = [[_milliseconds(network) for network in networks] for _ in range(TIMED_ROUNDS + 1)]
    return np.array(times[1:]).T  # without the first round, which allocates memory


@torch.no_grad()
def _milliseconds(network: GradingNetwork | Ensemble) -> float:
    side = network.config.roi_px
    crops = torch.rand(TIMED_CROPS, 1, side, side).to(memory_format=torch.channels_last)
    points, visible = torch.rand(TIMED_CROPS, 74, 2) * side, torch.ones(TIMED_CROPS, 74, dtype=torch.bool)
    start = time.process_time()
    network(crops, points, visible, torch.ones_like(crops, dtype=torch.bool))
    return 1000 * (time.process_time() - start) / TIMED_CROPS


if __name__ == "__main__":
    main()

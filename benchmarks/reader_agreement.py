"""Agreement of the simulated coherent reader of phantoms with the true grades, at the paper's prevalence.

    python benchmarks/reader_agreement.py [--number 20000]

Prints, as JSON, accuracy and quadratic kappa of each grade. They are what a network that predicts the true grades would
score on labels of this reader.
"""

import argparse
import json

import numpy as np

from kneegrade.evaluation import agreement
from kneegrade.phantom import coherent_reading
from kneegrade.phantom.prevalence import tuple_probabilities
from kneegrade.schema import OARSI_NAMES, TARGET_NAMES, TARGETS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=20_000, help="number of knees")
    number = parser.parse_args().number
    tuples, probabilities = tuple_probabilities("paper")
    truth = tuples[np.random.default_rng(0).choice(len(tuples), number, p=probabilities)]
    by_name = (dict(zip(TARGET_NAMES, row.tolist(), strict=True)) for row in truth)
    readings = np.array([list(coherent_reading(grades, 0, i, "paper").values()) for i, grades in enumerate(by_name)])
    found = {t.name: agreement(truth[:, i], readings[:, i], t.classes) for i, t in enumerate(TARGETS)}
    result = {name: {key: round(own[key], 3) for key in ("accuracy", "kappa")} for name, own in found.items()}
    result["oarsi_mean"] = {
        key: round(float(np.mean([found[name][key] for name in OARSI_NAMES])), 3) for key in ("accuracy", "kappa")
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

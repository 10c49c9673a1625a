"""Two graders on the same knees, each calibrated on the other half of the people.

    python benchmarks/compare_weights.py cache/dataset-chen2018-shipped OLD.safetensors NEW.safetensors [--split val]

Calibration, decoder and ordinal smoothing of each network are fitted on the people of one half and predict the other
half, in both directions (as in benchmarks/decoding.py), so the published calibration of neither is used and no knee is
left out by either. Differences are new minus old, paired, with 95 % bootstrap intervals over people.
"""

import argparse
from pathlib import Path

from decoding import COLUMNS, SMOOTHED, cross_fitted, read, with_log_loss

from kneegrade.evaluation import SubjectBootstrap, score
from kneegrade.evaluation.bootstrap import differences
from kneegrade.evaluation.paper_tables import difference_cell, score_cell
from kneegrade.evaluation.table_formats import Table, markdown


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


if __name__ == "__main__":
    main()

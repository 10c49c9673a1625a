"""Accuracy of the shipped landmark detector on real whole films: number of knees, sides, and overlays for inspection.

    python benchmarks/real_films.py FILMS [--sheets DIR]

FILMS is the unpacked folder of the films of Wani and Arora 2021 (doi 10.17632/fxjm8fb6mw.2). `real_films.csv` beside
this script contains the number of knees on each film, counted by eye, and which films were excluded from all training.
On all films with two knees the knee on the left of the image is the right one, according to markers and fibulas. Prints
JSON, for excluded films and for the others: films with the correct number of knees, films with two knees and correct
sides, and the films with an error. `--sheets` writes overlays of all films.
"""

import argparse
import csv
import json
from pathlib import Path

from kneegrade.anatomy import LandmarkDetector, refusal
from kneegrade.imaging import read_radiograph
from kneegrade.reporting.landmark_export import overlay

TABLE = Path(__file__).with_name("real_films.csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", type=Path, help="unpacked folder of the films")
    parser.add_argument("--sheets", type=Path, help="folder for contact sheets")
    parser.add_argument("--weights", type=Path, help="weights of a detector; default: the shipped weights")
    arguments = parser.parse_args()
    detector, tiles = LandmarkDetector(arguments.weights), []
    with TABLE.open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    result: dict[str, dict] = {}
    for row in table:
        film = read_radiograph(arguments.films / f"{row['film']}.jpg")
        found, _ = detector.find(film)
        knees = [k for k in found if refusal(k) is None or refusal(k).code != "view"]
        sides, number = [k.side for k in knees], int(row["knees"])
        counts = result.setdefault(
            "excluded from training" if row["kept_out"] == "1" else "used in training",
            {"films": 0, "number_right": 0, "with_two_knees": 0, "sides_right": 0, "wrong": []},
        )
        counts["films"] += 1
        counts["number_right"] += len(knees) == number
        counts["with_two_knees"] += number == 2
        counts["sides_right"] += number == 2 and sides == ["R", "L"]
        if len(knees) != number or (number == 2 and sides != ["R", "L"]):
            counts["wrong"].append([row["film"], number, sides])
        if arguments.sheets:
            labels = [(k.landmarks, f"{k.side} {k.landmark_confidence:.2f}") for k in found]
            tiles.append((row["film"], overlay(film.pixels, labels, 520, widths=False)))
    print(json.dumps(result, indent=1))
    if arguments.sheets:
        from sheets import write_sheets

        write_sheets(arguments.sheets, "films", tiles, columns=5)


if __name__ == "__main__":
    main()

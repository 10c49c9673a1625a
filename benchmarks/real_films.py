"""How the shipped detector does on real whole films: number of knees, sides, outlines to be looked at.

    python benchmarks/real_films.py FILMS [--sheets DIR]

FILMS is the unpacked folder of the films of Wani and Arora 2021 (doi 10.17632/fxjm8fb6mw.2). `real_films.csv` beside
this script says, by eye, how many knees each film shows and which films were kept out of all training; on all that
show two, the image-left knee is the right one, by markers and fibulas. Prints, as JSON, for films kept out and for the
others: how many have the right number of knees, on how many with two the sides are right, and which are wrong.
`--sheets` writes overlays of all of them.
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
    parser.add_argument("films", type=Path)
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--weights", type=Path, help="a detector's weights instead of the shipped ones")
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
        held = result.setdefault(
            "kept out of training" if row["kept_out"] == "1" else "of training",
            {"films": 0, "number_right": 0, "with_two_knees": 0, "sides_right": 0, "wrong": []},
        )
        held["films"] += 1
        held["number_right"] += len(knees) == number
        held["with_two_knees"] += number == 2
        held["sides_right"] += number == 2 and sides == ["R", "L"]
        if len(knees) != number or (number == 2 and sides != ["R", "L"]):
            held["wrong"].append([row["film"], number, sides])
        if arguments.sheets:
            labels = [(k.outline, f"{k.side} {k.landmark_confidence:.2f}") for k in found]
            tiles.append((row["film"], overlay(film.pixels, labels, 520, widths=False)))
    print(json.dumps(result, indent=1))
    if arguments.sheets:
        from sheets import write_sheets

        write_sheets(arguments.sheets, "films", tiles, columns=5)


if __name__ == "__main__":
    main()

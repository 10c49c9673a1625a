"""Results of a grader on the films of several sites, as Markdown tables.

    python benchmarks/sites.py split SITE -o site.parquet
    python benchmarks/sites.py grade RESULTS [--validation CHEN2018] [--third SITE --part look] [--films FILMS]
                               [--styles] [--weights FILE] [--detector FILE]
    python benchmarks/sites.py table RESULTS/<weights> [--weights FILE]

`split` writes a table of the images of a labelled site (`path`, `kl`, `group`, `part`), see `site_split.py`.

`grade` grades the images as `kneegrade grade` does and stores one JSON line per image below RESULTS, in a folder named
after the weights. Run it again to continue. Results do not know the version of the code: use a new folder after a
change of detector or quality control. Sites:

- `validation`: validation crops of Chen 2018, of the people that calibration and quality control were not fitted on
  (`--half` chooses others);
- `validation-<family>`: the same crops in each of the styles that no network was trained with (`UNSEEN_FAMILIES`): the
  simulated unseen hospital;
- `third-look`, `third-score`: crops of Gornale and Patravali 2020 (doi 10.17632/t9ndx37v5h.1), copies in one group. The
  part "score" is for one scoring of a finished default;
- `films`: whole films of Wani and Arora 2021 (doi 10.17632/fxjm8fb6mw.2) without grades, used in development.

`table` prints what became of the knees; agreement of KL with the labels, of the knees that are graded and of all knees
with landmarks (refused ones included, so that graders are compared on the same knees); agreement between the two styles
of the simulated hospital; and means over 100 draws of 100 knees that the scale of the site is fitted on. Intervals are
95 %, by bootstrap over people or groups of copies.
"""

import argparse
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from site_images import changed_images, film_images, in_hash_order, labelled_site_images, validation_images
from site_knees import SiteImage, folder_of, read_lines, site_knees
from site_split import site_table
from site_styles import styled
from site_tables import print_tables

from kneegrade import Grader
from kneegrade.imaging.styles import UNSEEN_FAMILIES
from kneegrade.uncertainty import Postprocessor
from kneegrade.uncertainty.site_scale import SITE
from kneegrade.weights import load_weights, shipped_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    split = commands.add_parser("split", help="divide a labelled site into images to look at and images to score")
    split.add_argument("site", type=Path, help="folder with one folder of images per KL grade")
    split.add_argument("-o", "--output", type=Path, required=True, help="Parquet file")
    grade = commands.add_parser("grade", help="grade the images of sites and print the tables")
    grade.add_argument("results", type=Path, help="folder for the results")
    grade.add_argument("--validation", type=Path, help="unpacked folder of the Chen 2018 archive")
    grade.add_argument("--half", choices=["fitted", "left-out", "all"], default="left-out", help="people, see above")
    grade.add_argument("--styles", action="store_true", help="also the simulated unseen hospital")
    grade.add_argument("--third", type=Path, help="folder of the labelled site")
    grade.add_argument("--part", choices=["look", "score"], default="look", help="part of the labelled site")
    grade.add_argument("--films", type=Path, help="folder of whole films")
    grade.add_argument("--limit", type=int, help="number of images per site, in an order given by a hash; default: all")
    grade.add_argument("--weights", type=Path, help="weights of a grader; default: the shipped weights")
    grade.add_argument("--detector", type=Path, help="weights of a detector; default: the shipped weights")
    table = commands.add_parser("table", help="print the tables of stored results")
    table.add_argument("folder", type=Path, help="folder of one grader below the folder of results")
    table.add_argument("--weights", type=Path, help="weights of that grader; default: the shipped weights")
    options = parser.parse_args()
    if options.command == "split":
        divided = site_table(options.site)
        divided.to_parquet(options.output, index=False)
        print(divided.groupby(["part", "kl"]).size().unstack())
    else:
        postprocessor = study_postprocessor(options.weights)
        sites = graded_sites(options) if options.command == "grade" else stored_sites(options.folder)
        print_tables(sites, postprocessor)


def study_postprocessor(path: Path | None) -> Postprocessor:
    """The postprocessor of a grader's weights (None: the shipped ones), whose grades are on the study's scale."""
    weights = load_weights(path or shipped_path("grader"), "grader")
    if SITE in weights.description:
        raise SystemExit(
            f"The weights {weights.name} report on the scale of a site's reader. These tables are about the study's "
            "scale, and fit the scale of each site themselves. Use the weights that `kneegrade calibrate --site` read."
        )
    return Postprocessor.of(weights)


def graded_sites(options: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """Site → rows of its knees; images without stored results are graded."""
    torch.set_num_threads(1)
    sites: dict[str, list[SiteImage]] = {}
    if options.validation:
        sites["validation"] = validation_images(options.validation, options.half, options.weights)
        if options.styles:
            for family in UNSEEN_FAMILIES:
                sites[f"validation-{family}"] = changed_images(sites["validation"], partial(styled, family=family))
    if options.third:
        sites[f"third-{options.part}"] = labelled_site_images(options.third, options.part)
    if options.films:
        sites["films"] = film_images(options.films)
    folder = folder_of(options.weights, options.detector, options.results)
    grader = Grader(weights=options.weights, detector=options.detector)
    graded = {}
    for name, images in sites.items():
        by_name = {image.name: image for image in images}
        chosen = [by_name[key] for key in in_hash_order(by_name)[: options.limit]]
        graded[name] = site_knees(grader, chosen, folder / f"{name}.jsonl")
    return graded


def stored_sites(folder: Path) -> dict[str, pd.DataFrame]:
    """Site → rows of its knees, of all results in a folder."""
    return {file.stem: pd.DataFrame([row for rows in read_lines(file).values() for row in rows])
            for file in sorted(folder.glob("*.jsonl"))}  # fmt: skip


if __name__ == "__main__":
    main()

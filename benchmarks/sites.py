"""Results of a grader on the films of several sites.

    python benchmarks/sites.py split SITE -o site.parquet

`split` writes a table of the images of a labelled site (`path`, `kl`, `group`, `part`), see `site_split.py`.
"""

import argparse
from pathlib import Path

from site_split import site_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    split = commands.add_parser("split", help="divide a labelled site into images to look at and images to score")
    split.add_argument("site", type=Path, help="folder with one folder of images per KL grade")
    split.add_argument("-o", "--output", type=Path, required=True, help="Parquet file")
    options = parser.parse_args()
    table = site_table(options.site)
    table.to_parquet(options.output, index=False)
    print(table.groupby(["part", "kl"]).size().unstack())


if __name__ == "__main__":
    main()

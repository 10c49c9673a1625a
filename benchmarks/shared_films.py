"""How much grades change when films are shared without the patient, with everything but the knees blanked.

    python benchmarks/shared_films.py FOLDER [--number 25] [--seed 0]

Takes NUMBER films of a folder at random, writes them with `kneegrade share`, and compares the grades of the shared
films with those of the films.
"""

import argparse
import random
import tempfile
from pathlib import Path

import numpy as np
import torch

from kneegrade import Grader
from kneegrade.clinical.pseudonyms import Pseudonyms
from kneegrade.clinical.sharing import FILMS, share
from kneegrade.imaging import Source, find_sources


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--number", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sources = list(find_sources([options.folder]))
    chosen = random.Random(options.seed).sample(sources, min(options.number, len(sources)))
    grader = Grader(device="cpu")
    before = grader.grade_sources(chosen).radiographs
    with tempfile.TemporaryDirectory() as folder:
        films = share(chosen, Path(folder), grader, Pseudonyms(bytes(32)), formats=["json"])
        kept = [number for number, film in enumerate(films) if film.path is not None]
        shared = [Source(film.path.name, film.path) for film in films if film.path is not None]
        after = grader.grade_sources(shared).radiographs
        print(f"{len(chosen)} films, {len(list((Path(folder) / FILMS).iterdir()))} shared")
    grades, kl, changes, lost = [], [], [], 0
    for number, again in zip(kept, after, strict=True):
        original = before[number]
        if [knee.status for knee in original.knees] != [knee.status for knee in again.knees]:
            lost += 1
            continue
        for one, other in zip(original.knees, again.knees, strict=True):
            for name, grade in (one.grades or {}).items():
                grades.append(grade.grade != other.grades[name].grade)
                changes.append(np.abs(np.subtract(grade.probabilities, other.grades[name].probabilities)).max())
            if one.grades:
                kl.append(one.grades["kl"].grade != other.grades["kl"].grade)
    print(f"films with another number or status of knees: {lost}")
    print(f"grades changed: {sum(grades)} of {len(grades)}; KL: {sum(kl)} of {len(kl)}")
    print(f"largest change of a probability: median {np.median(changes):.3f}, maximum {max(changes):.3f}")


if __name__ == "__main__":
    main()

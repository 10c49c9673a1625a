"""CPU milliseconds an image of every stage of `Grader`, on one thread.

    python benchmarks/stage_speed.py FOLDER [--number 60] [--runtime openvino] [--precision bf16]

Prints JSON. A stage does not include the time of stages that it calls. "networks" is the sum of the networks, "other"
that of everything else but decoding, which runs in a process of its own.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

from cpu_clock import Clock

from kneegrade import Grader, grader
from kneegrade.anatomy import detector, knee, knee_localizer
from kneegrade.imaging import file_reader, find_sources
from kneegrade.uncertainty import ood_features

STAGES: list[tuple[Any, tuple[str, ...]]] = [
    (grader, ("read_radiograph", "check_film", "measure", "ood_features_of", "evidence_of", "refusal")),
    (file_reader, ("normalised_image",)),
    (knee_localizer, ("localizer_input", "read_candidates")),
    (
        detector,
        ("extract_crops", "stretch_contrast", "regularize_by_shape", "read_points", "build_knee", "search_square"),
    ),
    (knee, ("extract_crop", "stretch_contrast", "check_crop")),
    (ood_features, ("photometry_features", "implant_input")),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of images")
    parser.add_argument("--number", type=int, default=60, help="images, chosen at random (seed 0)")
    parser.add_argument("--runtime", default="torch", help="torch or openvino")
    parser.add_argument("--precision", default="float32", help="float32 or bf16")
    options = parser.parse_args()
    paths = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in (".jpg", ".png", ".dcm"))
    paths = random.Random(0).sample(paths, min(options.number, len(paths)))
    clock, subject = Clock(), Grader("cpu", runtime=options.runtime, precision=options.precision)
    for owner, names in STAGES:
        for name in names:
            clock.watch(owner, name, name)
    for network in ("knee_localizer", "coarse", "fine"):
        for part in ("encoder", "decoder"):
            clock.watch(getattr(getattr(subject.detector, network), part), "forward", f"network {network}")
    clock.watch(subject.network.trunk, "forward", "network grading")
    clock.watch(subject.network, "attribute", "attribute")
    if subject.quality_control is not None:
        clock.watch(subject.quality_control.implant_network, "forward", "network implants")
    subject.grade_sources = clock.timed("rest", subject.grade_sources)  # type: ignore[method-assign]
    for path in paths[:3]:
        subject.grade(path)
    clock.spent.clear()
    for path in paths:
        subject.grade_sources(find_sources([path]))
    ms = {name: 1000 * spent / len(paths) for name, spent in sorted(clock.spent.items(), key=lambda each: -each[1])}
    sums = {"networks": sum(value for name, value in ms.items() if name.startswith("network "))}
    sums["other"] = sum(ms.values()) - sums["networks"]
    print(json.dumps({name: round(value, 2) for name, value in (sums | ms).items()}, indent=1))


if __name__ == "__main__":
    main()

"""What `kneegrade calibrate --site` and `--unlabelled` gain, on simulated readers and on the knees of a real site.

    python benchmarks/site_scale.py logits TABLE.parquet -o knees.npz [--weights FILE]
    python benchmarks/site_scale.py simulated knees.npz        # of the validation crops
    python benchmarks/site_scale.py site knees.npz             # of a site with its own reader
    python benchmarks/site_scale.py prevalence knees.npz [--site site.npz]

`logits` runs the grader without quality control on the images of a manifest (`image_path`, `kl`, `subject_id`), or of
the table of `benchmarks/sites.py split` (`path`, `kl`, `group`, `part`; use --part), and keeps one knee of each.

`simulated`: readers with other borders of the grades label the crops. A crop's latent severity is its KL plus the rank
of its soft OARSI labels among the crops of that KL, with noise. 50, 100 or 200 crops, by person, are calibrated on, the
others are scored.

`site`: the same with the site's labels, by groups of copies.

`prevalence`: EM on crops resampled to stated prevalences of KL and, with --site, on a site with another scale.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from site_metrics import drawn_groups
from sklearn.metrics import cohen_kappa_score

from kneegrade.anatomy import UserHints
from kneegrade.coherence import marginal
from kneegrade.grader import Grader, detect_film
from kneegrade.imaging import Source
from kneegrade.schema import OARSI_NAMES, ONE_HOT_LENGTH, TARGETS
from kneegrade.uncertainty import CalibratedGrades, Postprocessor, em_prevalences, fit_site_scale
from kneegrade.weights import load_weights, shipped_path

READERS = {  # latent severity at which each reader's grades 1 to 4 begin; the study's begin at 1, 2, 3, 4
    "same": None, "half a grade lenient": (1.5, 2.5, 3.4, 4.2), "lenient": (1.8, 2.7, 3.6, 4.4),
    "strict": (0.5, 1.4, 2.4, 3.4), "lenient at 2": (1.2, 2.6, 3.2, 4.1), "without 1": (1.7, 1.9, 3.0, 4.0),
}  # fmt: skip
PREVALENCES = {"healthy": (0.7, 0.15, 0.1, 0.04, 0.01), "even": (0.2,) * 5, "ill": (0.05, 0.1, 0.3, 0.35, 0.2)}
SIZES = (50, 100, 200)
Scores = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("logits", "simulated", "site", "prevalence"))
    parser.add_argument("knees", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--part", help="of the table of `sites.py split`: look or score")
    parser.add_argument("--site", type=Path)
    parser.add_argument("--weights", type=Path, default=shipped_path("grader"))
    parser.add_argument("--draws", type=int, default=20)
    options = parser.parse_args()
    if options.what == "logits":
        np.savez(options.output, **logits_of(pd.read_parquet(options.knees), options.part, options.weights))
        return
    postprocessor = replace(Postprocessor.of(load_weights(options.weights, "grader")), site=None)
    knees = dict(np.load(options.knees))
    if options.what == "simulated":
        for number in SIZES:
            for name in READERS:
                report(f"{name}, {number}", draws(postprocessor, knees, number, options.draws, name))
    elif options.what == "site":
        for number in SIZES:
            if number < len(knees["kl"]) - 30:
                report(f"site, {number}", draws(postprocessor, knees, number, options.draws, None))
    else:
        prevalence(postprocessor, knees, options.draws)
        if options.site:
            other = dict(np.load(options.site))
            rows = np.arange(len(other["kl"]))
            report("site", [corrected(postprocessor, graded(postprocessor, other), other["kl"], rows)])


def logits_of(table: pd.DataFrame, part: str | None, weights: Path) -> dict[str, NDArray[np.generic]]:
    """Logits (N, 29), KL, group and the sum of the soft OARSI labels (`severity`, NaN without) of each image."""
    rows = table[table["part"] == part] if part else table
    rows = rows.rename(columns={"image_path": "path", "subject_id": "group"})
    grader, found, kept = Grader("cpu", weights, quality_control=False), [], []
    for index, path in enumerate(rows["path"]):
        knees = detect_film(Source(Path(path).name, Path(path)), grader.detector, UserHints()).knees
        if knees:
            with torch.inference_mode():
                output, _ = grader._predict([knees[0]])
            found.append(torch.cat([output.logits[t.name][0].float().cpu() for t in TARGETS]).numpy())
            kept.append(index)
    rows = rows.iloc[kept]
    soft = [f"{name}_probabilities" for name in OARSI_NAMES]
    severity = np.full(len(rows), np.nan)
    if set(soft) <= set(rows.columns):
        severity = sum(np.stack(rows[name].to_list()) @ np.arange(4) for name in soft)
    return {"logits": np.array(found), "kl": rows["kl"].to_numpy(np.int64), "severity": severity,
            "group": rows["group"].to_numpy(str)}  # fmt: skip


def graded(postprocessor: Postprocessor, knees: dict[str, NDArray[np.generic]]) -> CalibratedGrades:
    logits = torch.from_numpy(knees["logits"].astype(np.float32))
    return postprocessor({t.name: logits[:, t.one_hot] for t in TARGETS})


def simulated_labels(
    knees: dict[str, NDArray[np.generic]], borders: tuple[float, ...] | None, generator: np.random.Generator
) -> NDArray[np.int64]:
    """(N,) KL as a reader with these borders would give it."""
    kl = knees["kl"].astype(np.int64)
    if borders is None:
        return kl
    latent = kl.astype(np.float64)
    for grade in np.unique(kl):
        own = np.flatnonzero(kl == grade)
        latent[own[np.argsort(knees["severity"][own])]] += (np.arange(len(own)) + 0.5) / len(own)
    return np.digitize(latent + generator.normal(0, 0.25, len(kl)), borders)


def draws(
    postprocessor: Postprocessor, knees: dict[str, NDArray[np.generic]], number: int, count: int, reader: str | None
) -> list[Scores]:
    """Scores before and after calibration of each draw of `number` knees by group, on the other knees."""
    study, found = graded(postprocessor, knees), []
    for draw in range(count):
        generator = np.random.default_rng([draw, number])
        labels = knees["kl"] if reader is None else simulated_labels(knees, READERS[reader], generator)
        targets = np.full((len(labels), ONE_HOT_LENGTH), np.nan, np.float32)
        targets[:, TARGETS[0].one_hot] = np.eye(5)[labels]
        chosen = drawn_groups(knees["group"], number, generator)
        scale = fit_site_scale(
            study.probabilities[chosen], targets[chosen], knees["group"][chosen], name="site",
            study_sets=postprocessor.sets, ordinal_smoothing=postprocessor.decoder.ordinal_smoothing,
        )  # fmt: skip
        after = Postprocessor(postprocessor.calibration, postprocessor.decoder, postprocessor.sets, scale)
        mapped = graded(after, knees)
        found.append(np.concatenate([scores(study, labels, ~chosen), scores(mapped, labels, ~chosen)]))
    return found


def scores(grades: CalibratedGrades, labels: NDArray[np.int64], rows: NDArray[np.generic]) -> Scores:
    """Accuracy, quadratic kappa, −log likelihood, coverage and size of the sets, of KL."""
    true, given, p = labels[rows], grades.grades[rows, 0], grades.probabilities[rows, :5]
    own = np.arange(len(true))
    members = np.ones(p.shape) if grades.sets is None else grades.sets[rows, :5]
    kappa = cohen_kappa_score(true, given, weights="quadratic", labels=range(5))
    loss = -np.log(np.maximum(p[own, true], 1e-9)).mean()
    return np.array([(true == given).mean(), kappa, loss, members[own, true].mean(), members.sum(1).mean()])


def prevalence(postprocessor: Postprocessor, knees: dict[str, NDArray[np.generic]], count: int) -> None:
    study, kl = graded(postprocessor, knees), knees["kl"].astype(np.int64)
    for name, shares in PREVALENCES.items():
        found = []
        for draw in range(count):
            generator = np.random.default_rng(draw)
            rows = [generator.choice(np.flatnonzero(kl == k), round(300 * share)) for k, share in enumerate(shares)]
            found.append(corrected(postprocessor, study, kl, np.concatenate(rows)))
        report(f"EM, {name}", found)


def corrected(
    postprocessor: Postprocessor, study: CalibratedGrades, labels: NDArray[np.int64], rows: NDArray[np.int64]
) -> Scores:
    """Scores of KL before and after EM on `rows` (with repetitions), most probable grades, without sets."""
    prior = marginal(postprocessor.decoder.table, 0)
    p = study.probabilities[rows, :5]
    q = p * em_prevalences(p, prior) / prior
    both = []
    for shares in (p, q / q.sum(1, keepdims=True)):
        padded = np.pad(shares, ((0, 0), (0, ONE_HOT_LENGTH - 5)))
        grades = np.repeat(shares.argmax(1)[:, None], 7, axis=1)
        both.append(scores(CalibratedGrades(padded, grades, grades, None), labels[rows], np.arange(len(rows))))
    return np.concatenate(both)


def report(name: str, found: list[Scores]) -> None:
    before, after = np.array(found).mean(0).reshape(2, -1)
    better = int((np.array(found)[:, 7] < np.array(found)[:, 2]).sum())
    cells = (f"{b:.3f} → {a:.3f}" for b, a in zip(before, after, strict=True))
    names = ("accuracy", "kappa", "−log likelihood", "coverage", "set size")
    parts = ", ".join(f"{n} {c}" for n, c in zip(names, cells, strict=True))
    print(f"{name}: {parts}; likelihood better in {better} of {len(found)} draws", flush=True)


if __name__ == "__main__":
    main()

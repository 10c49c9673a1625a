"""Sensitivity of the label audit for simulated label errors, from the labels alone.

    python benchmarks/audit_planted.py [--seeds 10]

The knees of the packaged joint counts are divided into two random halves. The joint table is estimated from one half.
In the other half one grade of 5 % of the knees is changed by two or more. Prints the area under the ROC curve of the
audit score for all errors, for errors that break a hard rule or give a tuple that does not occur in the table, and for
the other errors, and how often the suspected grade is the changed one. Means over the seeds.
"""

import argparse
import json

import numpy as np
from sklearn.metrics import roc_auc_score

from kneegrade.coherence import RULES, audit_grades, smoothed_table
from kneegrade.schema import TARGETS, grade_tuple_counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="number of repetitions")
    results = [planted(seed) for seed in range(parser.parse_args().seeds)]
    print(json.dumps({key: round(float(np.mean([r[key] for r in results])), 3) for key in results[0]}, indent=1))


def planted(seed: int) -> dict[str, float]:
    generator = np.random.default_rng(seed)
    counts = grade_tuple_counts()
    tuples, numbers = np.array(list(counts)), np.array(list(counts.values()))
    half = generator.binomial(numbers, 0.5)
    grades = np.repeat(tuples, numbers - half, axis=0)
    known = {tuple(row): int(n) for row, n in zip(tuples.tolist(), half, strict=True) if n}
    wrong, moved = generator.random(len(grades)) < 0.05, np.zeros(len(grades), dtype=int)
    for row in np.flatnonzero(wrong):
        options = [(q, g) for q, t in enumerate(TARGETS) for g in range(t.classes) if abs(g - grades[row, q]) >= 2]
        moved[row], grades[row, moved[row]] = options[generator.integers(len(options))]
    audit = audit_grades(grades, smoothed_table(known))
    hard = {rule.code for rule in RULES if rule.hard}
    unseen = np.array([tuple(row) not in known for row in grades.tolist()])
    breaking = wrong & (unseen | np.array([bool(hard & set(own)) for own in audit.rules]))
    silent = wrong & ~breaking
    return {
        "errors": float(wrong.sum()),
        "breaking": float(breaking.sum()),
        "auc_all": roc_auc_score(wrong, audit.score),
        "auc_breaking": roc_auc_score(breaking[breaking | ~wrong], audit.score[breaking | ~wrong]),
        "auc_silent": roc_auc_score(silent[silent | ~wrong], audit.score[silent | ~wrong]),
        "suspect_is_the_moved_grade": float((audit.suspect[wrong] == moved[wrong]).mean()),
    }


if __name__ == "__main__":
    main()

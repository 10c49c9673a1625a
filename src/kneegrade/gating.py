"""`gate`: a grader's weights learn which knees to refuse, from sound knees and from phantoms with and without metal."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kneegrade.errors import RecipeError
from kneegrade.finding import FoundFilm, Said, find_film, find_knees
from kneegrade.grader import Grader
from kneegrade.imaging import Source, read_radiograph
from kneegrade.learning.folds import DIVISION, people_first
from kneegrade.learning.metal import bars_of, drawn_into, fit_metal
from kneegrade.phantom.cohort import ROI_FILE, TABLE_FILE
from kneegrade.uncertainty import Gate, MetalNetwork, Signs, Split, fit_gate
from kneegrade.uncertainty.gate import GATE
from kneegrade.weights import load_weights, save_weights, shipped_path

MOST_SOUND = 1_000
FEWEST = 100
Progress = Callable[[int, int], None]


def gate(
    table: pd.DataFrame, phantoms: Path, output: Path, weights: Path | None = None, *, split: str = "val",
    share: float = 0.5, refuse: float = 0.01, seed: int = 0, device: str = "auto", progress: Progress | None = None,
) -> dict[str, float]:  # fmt: skip
    """Write `output`: the same weights with a quality gate; what comes back was measured on people left out.

    Args:
        table: a manifest of sound films: those of split "train" (1,000 at most) teach what is usual, `share` of the
            people of `split` how far sound knees stray, and the rest of them are measured on.
        phantoms: folder of `kneegrade phantom --rois --implants`; three fifths of its people teach, one fifth says how
            far phantoms stray, one is measured on.
        output: safetensors file; its description goes beside it.
        weights: a grader's; the shipped ones by default.
        split: of the manifest.
        share: of its people, about; with the same seed those that `calibrate` fits on.
        refuse: share of sound knees that may be refused for being strange.
        seed: of the division.
        device: "auto", "cpu" or "cuda".
        progress: called with (done, all).

    Returns:
        Of the real knees left out their number `knees`, the shares `refused`, `refused_<reason>` and `warned`, and
        `drawn_metal_seen`, of as many with a phantom's metal drawn in; of the phantoms left out `implant_auc`,
        `implants_seen`, `plain_taken_for_implants` and `plain_warned`; and `implant_limit`.

    Raises:
        RecipeError: too few films, or phantoms without metal.
        WeightsError: missing or damaged weights.
    """
    place = weights or shipped_path("grader")
    held, grader = load_weights(place, "grader"), Grader(device, place, gated=False)
    sound = table[table["split"] == "train"]
    sound = sound.iloc[np.random.default_rng(seed).permutation(len(sound))[:MOST_SOUND]]
    rest = table[table["split"] == split]
    first = people_first(rest["subject_id"].to_numpy(dtype=str), share, seed)
    drawn = pd.read_parquet(phantoms / TABLE_FILE)
    metal = drawn["implant"].notna().to_numpy()
    fifth = pd.factorize(drawn["subject_id"])[0] % 5
    kept, straying, teaching = fifth == 0, fifth == 1, fifth > 1
    _check(
        {"sound films": len(sound), f"films of split {split}": int(first.sum()),
         "phantoms with metal": int(metal.sum()), "phantoms without": int((~metal).sum())}
    )  # fmt: skip
    whole = len(sound) + len(rest) + len(drawn)
    rois = np.load(phantoms / ROI_FILE, mmap_mode="r")
    done = count(1)

    def signs(items: Iterable[Any]) -> Signs:
        return grader.signs(_found(grader, items, lambda: progress(next(done), whole) if progress else None))

    real = Split(signs(sound["image_path"]), signs(rest[first]["image_path"]))
    plain = Split(signs(rois[~metal & teaching]), signs(rois[~metal & straying]))
    network = _taught(real.usual, plain.usual, signs(rois[metal & teaching]), drawn[metal & teaching], seed)
    fitted = fit_gate(real, plain, network, refuse=refuse)
    parts = {key: value for key, value in held.tensors.items() if not key.startswith(f"{GATE}.")}
    parts |= {f"{GATE}.{key}": value for key, value in fitted.state_dict().items()}
    found = _phantoms_told(fitted, signs(rois[~metal & kept]), signs(rois[metal & kept]))
    if not first.all():
        found |= _sound_told(fitted, signs(rest[~first]["image_path"]), drawn[metal & kept], seed)
    said = {
        "sound": len(sound), "reference": int(first.sum()), "phantoms": len(drawn), "division": DIVISION,
        "share": share, "seed": seed, **found,
    }  # fmt: skip
    save_weights(output, parts, {**held.description, "gate": said})
    return found


def _taught(real: Signs, plain: Signs, implants: Signs, drawn: pd.DataFrame, seed: int) -> MetalNetwork:
    """A metal network: real knees without, and with a phantom's metal drawn in; phantoms without, and with."""
    into_real = drawn_into(real.pictures, bars_of(drawn), np.random.default_rng(seed))
    shown = [real.pictures, into_real, plain.pictures, implants.pictures]
    return fit_metal(np.concatenate(shown), np.repeat([False, True, False, True], [len(p) for p in shown]), seed)


def _found(grader: Grader, items: Iterable[Any], counted: Callable[[], None]) -> Iterator[FoundFilm]:
    """Films from paths, or single knees from arrays."""
    for item in items:
        if isinstance(item, str):
            yield find_film(Source(Path(item).name, path=Path(item)), grader.detector, Said())
        else:
            yield find_knees("phantom", read_radiograph(np.asarray(item)), grader.detector)
        counted()


def _phantoms_told(gate: Gate, plain: Signs, implants: Signs) -> dict[str, float]:
    """How phantoms with metal are told from those without, and how many without have a finding."""
    from sklearn.metrics import roc_auc_score

    metal = np.concatenate([gate.metal_network.probability(each.pictures) for each in (plain, implants)])
    truth = np.repeat([0, 1], [len(plain.doubt), len(implants.doubt)])
    taken, limit = metal > float(gate.implant_limit), float(gate.implant_limit)
    return {
        "implant_auc": round(float(roc_auc_score(truth, metal)), 4), "implant_limit": round(limit, 4),
        "implants_seen": round(float(taken[truth == 1].mean()), 4),
        "plain_taken_for_implants": round(float(taken[truth == 0].mean()), 4),
        "plain_warned": round(float(np.mean([bool(quality.findings) for quality in gate(plain)])), 4),
    }  # fmt: skip


def _sound_told(gate: Gate, sound: Signs, phantoms: pd.DataFrame, seed: int) -> dict[str, float]:
    """How many sound knees are refused, and why; and of how many metal would be seen, drawn in as phantoms have it."""
    said = gate(sound)
    reasons = [quality.reason.code for quality in said if quality.reason is not None]
    with_some = drawn_into(sound.pictures, bars_of(phantoms), np.random.default_rng([seed, 1]))
    seen = gate.metal_network.probability(with_some) > float(gate.implant_limit)
    return {
        "knees": len(said),
        "refused": round(len(reasons) / len(said), 4),
        "warned": round(sum(bool(quality.findings) for quality in said) / len(said), 4),
        **{f"refused_{code}": round(reasons.count(code) / len(said), 4) for code in sorted(set(reasons))},
        "drawn_metal_seen": round(float(seen.mean()), 4),
    }


def _check(counts: Mapping[str, int]) -> None:
    few = {name: number for name, number in counts.items() if number < FEWEST}
    if few:
        raise RecipeError(
            f"A gate needs {FEWEST} of each kind; there are "
            + ", ".join(f"{n} {name}" for name, n in few.items())
            + "."
        )

"""Grey levels, power spectrum and edge width of phantoms beside real knees, as numbers and as a plot.

    python benchmarks/phantom_statistics.py PHANTOM_STORE [--chen CHEN_STORE] [--plot FILE.png] [--number 500]

Per region (320 px, 1.2 plateau widths; the part that its film covers): mean and spread of grey levels; slope of the
logarithm of spectral power against that of frequency, from 3 to 100 cycles a plateau width; width of the edge from
joint space to tibia, its 10–90 % rise in per cent of the plateau width. Printed as JSON: mean and standard deviation
over regions, and the distance of the means in standard deviations of the real ones.
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from scipy.ndimage import map_coordinates

from kneegrade.anatomy.geometry import ROI_PLATEAU_WIDTHS, sample_affine
from kneegrade.training.dataset import KneeDataset, load_datasets

SIDE_PX = 320
PER_WIDTH_PX = SIDE_PX / ROI_PLATEAU_WIDTHS
BANDS = np.geomspace(3, 100, 24)  # cycles per plateau width
EDGE_POINTS = (49, 50, 51, 59, 60, 61)


def regions(store: KneeDataset, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grey levels (N, S, S) 0 … 255, what films cover (N, S, S), landmarks (N, 74, 2) in pixels of the region."""
    frames = torch.from_numpy(store.frames(SIDE_PX)[rows])
    cut, _ = sample_affine(torch.from_numpy(store.images[rows]).unsqueeze(1).float(), frames, SIDE_PX)
    shown = (cut[:, 0] > 0.5).numpy()
    linear = np.linalg.inv(frames[:, :, :2].numpy())
    points = (store.landmarks_px[rows] - frames[:, None, :, 2].numpy()) @ linear.transpose(0, 2, 1)
    return (cut[:, 0].numpy() - 1).clip(0) * 255 / 254, shown, points


def spectrum(picture: np.ndarray) -> np.ndarray:
    """Mean power per band of the middle of a region, which every film covers, under a Hann window."""
    side = SIDE_PX * 3 // 4
    part = picture[SIDE_PX // 8 :][:side, SIDE_PX // 8 :][:, :side]
    window = np.hanning(side)
    power = np.abs(np.fft.fft2((part - part.mean()) * window[:, None] * window)) ** 2
    cycles = np.fft.fftfreq(side) * PER_WIDTH_PX
    radius = np.hypot(cycles[:, None], cycles)
    band = np.digitize(radius.ravel(), BANDS)
    return np.bincount(band, power.ravel())[1 : len(BANDS)] / np.bincount(band)[1 : len(BANDS)]


def edge_width(picture: np.ndarray, points: np.ndarray) -> float:
    """Median 10–90 % rise, in per cent of the plateau width, across the tibial plateau."""
    rises = []
    reach = 0.05 * PER_WIDTH_PX
    steps = np.linspace(-reach, reach, 161)
    for number in EDGE_POINTS:
        x, y = points[number]
        profile = map_coordinates(picture, [y + steps, np.full_like(steps, x)], order=1, mode="nearest")
        top = int(profile.argmax())
        bottom = int(profile[: top + 1].argmin())
        low, high = profile[bottom], profile[top]
        if high - low < 15:
            continue
        rise = profile[bottom : top + 1]
        first, last = ((rise >= low + share * (high - low)).argmax() for share in (0.1, 0.9))
        rises.append((last - first) * (steps[1] - steps[0]))
    return float(np.median(rises) / PER_WIDTH_PX * 100) if rises else np.nan


def measure(store: KneeDataset, number: int) -> dict[str, np.ndarray]:
    """One value, or row, per region for each statistic."""
    rows = np.random.default_rng(0).permutation(np.flatnonzero(store.split == "train"))[:number]
    pictures, shown, points = regions(store, rows)
    power = np.array([spectrum(picture) for picture in pictures])
    middle = np.log((BANDS[:-1] + BANDS[1:]) / 2)
    inside = [picture[mask] for picture, mask in zip(pictures, shown, strict=True)]
    return {
        "mean_grey": np.array([part.mean() for part in inside]),
        "spread_of_grey": np.array([part.std() for part in inside]),
        "spectral_slope": np.array([np.polyfit(middle, np.log(row + 1e-9), 1)[0] for row in power]),
        "edge_width_percent": np.array([edge_width(*pair) for pair in zip(pictures, points, strict=True)]),
        "histogram": np.array([np.histogram(part, 64, (0, 256), density=True)[0] for part in inside]),
        "power": power,
    }


def plot(path: Path, sets: dict[str, dict[str, np.ndarray]]) -> None:
    """Histogram, spectrum and edge width, each set with its middle 80 %."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (first, second, third) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for name, colour in zip(sets, ("tab:orange", "tab:blue"), strict=False):
        for axes, x, values in (
            (first, np.linspace(2, 254, 64), sets[name]["histogram"]),
            (second, BANDS[:-1], sets[name]["power"]),
        ):
            low, middle, high = np.percentile(values, [10, 50, 90], axis=0)
            axes.plot(x, middle, color=colour, label=name)
            axes.fill_between(x, low, high, color=colour, alpha=0.2)
        widths = sets[name]["edge_width_percent"]
        third.hist(widths[np.isfinite(widths)], 40, range=(0, 6), density=True, color=colour, alpha=0.5, label=name)
    first.set(xlabel="grey level", ylabel="density", title="Grey levels")
    second.set(xlabel="cycles per plateau width", ylabel="power", xscale="log", yscale="log", title="Power spectrum")
    third.set(xlabel="10–90 % rise, % of plateau width", ylabel="density", title="Edge of the tibial plateau")
    first.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phantoms", type=Path)
    parser.add_argument("--chen", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--number", type=int, default=500)
    options = parser.parse_args()
    sets = {"phantom": measure(load_datasets((options.phantoms,)), options.number)}
    if options.chen:
        sets["real"] = measure(load_datasets((options.chen,)), options.number)
    result: dict[str, dict[str, float]] = {}
    for name, values in sets.items():
        for key in ("mean_grey", "spread_of_grey", "spectral_slope", "edge_width_percent"):
            row = result.setdefault(key, {})
            row[name], row[f"{name}_sd"] = (round(float(f(values[key])), 2) for f in (np.nanmean, np.nanstd))
            if name == "real":
                row["apart_in_sd"] = round((row["phantom"] - row["real"]) / row["real_sd"], 2)
    print(json.dumps(result, indent=1))
    if options.plot:
        plot(options.plot, sets)


if __name__ == "__main__":
    main()

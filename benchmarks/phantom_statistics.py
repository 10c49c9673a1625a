"""Grey levels, power spectrum and edge width of phantoms compared with real knees, as numbers and as a plot.

    python benchmarks/phantom_statistics.py PHANTOM_DATASET [--chen DATASET] [--plot FILE.png] [--number 500]

Statistics per crop (320 px, 1.2 plateau widths; only pixels on the film):

- mean and standard deviation of the grey levels;
- slope of log spectral power against log frequency, from 3 to 100 cycles per plateau width;
- width of the edge from joint space to tibia: its 10–90 % rise in % of the plateau width.

Prints JSON: mean and standard deviation over crops, and the difference of the means in standard deviations of the real
crops.
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


def crops(dataset: KneeDataset, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grey levels (N, S, S) 0 … 255, mask of the film (N, S, S), and landmarks (N, 74, 2) in pixels of the crop."""
    frames = torch.from_numpy(dataset.frames(SIDE_PX)[rows])
    cut, _ = sample_affine(torch.from_numpy(dataset.images[rows]).unsqueeze(1).float(), frames, SIDE_PX)
    on_film = (cut[:, 0] > 0.5).numpy()
    linear = np.linalg.inv(frames[:, :, :2].numpy())
    points = (dataset.landmarks_px[rows] - frames[:, None, :, 2].numpy()) @ linear.transpose(0, 2, 1)
    return (cut[:, 0].numpy() - 1).clip(0) * 255 / 254, on_film, points


def spectrum(image: np.ndarray) -> np.ndarray:
    """Mean power per band of the central part of a crop, which is always on the film, with a Hann window."""
    side = SIDE_PX * 3 // 4
    part = image[SIDE_PX // 8 :][:side, SIDE_PX // 8 :][:, :side]
    window = np.hanning(side)
    power = np.abs(np.fft.fft2((part - part.mean()) * window[:, None] * window)) ** 2
    cycles = np.fft.fftfreq(side) * PER_WIDTH_PX
    radius = np.hypot(cycles[:, None], cycles)
    band = np.digitize(radius.ravel(), BANDS)
    return np.bincount(band, power.ravel())[1 : len(BANDS)] / np.bincount(band)[1 : len(BANDS)]


def edge_width(image: np.ndarray, points: np.ndarray) -> float:
    """Median width of the 10–90 % rise across the tibial plateau, in % of the plateau width."""
    rises = []
    reach = 0.05 * PER_WIDTH_PX
    steps = np.linspace(-reach, reach, 161)
    for number in EDGE_POINTS:
        x, y = points[number]
        profile = map_coordinates(image, [y + steps, np.full_like(steps, x)], order=1, mode="nearest")
        top = int(profile.argmax())
        bottom = int(profile[: top + 1].argmin())
        low, high = profile[bottom], profile[top]
        if high - low < 15:
            continue
        rise = profile[bottom : top + 1]
        first, last = ((rise >= low + share * (high - low)).argmax() for share in (0.1, 0.9))
        rises.append((last - first) * (steps[1] - steps[0]))
    return float(np.median(rises) / PER_WIDTH_PX * 100) if rises else np.nan


def measure(dataset: KneeDataset, number: int) -> dict[str, np.ndarray]:
    """Statistic → one value or row per crop."""
    rows = np.random.default_rng(0).permutation(np.flatnonzero(dataset.split == "train"))[:number]
    images, on_film, points = crops(dataset, rows)
    power = np.array([spectrum(image) for image in images])
    log_frequency = np.log((BANDS[:-1] + BANDS[1:]) / 2)
    inside = [image[mask] for image, mask in zip(images, on_film, strict=True)]
    return {
        "mean_grey": np.array([part.mean() for part in inside]),
        "spread_of_grey": np.array([part.std() for part in inside]),
        "spectral_slope": np.array([np.polyfit(log_frequency, np.log(row + 1e-9), 1)[0] for row in power]),
        "edge_width_percent": np.array([edge_width(*pair) for pair in zip(images, points, strict=True)]),
        "histogram": np.array([np.histogram(part, 64, (0, 256), density=True)[0] for part in inside]),
        "power": power,
    }


def plot(path: Path, sets: dict[str, dict[str, np.ndarray]]) -> None:
    """Plots histogram, spectrum and edge width of each dataset, with the central 80 % of the crops."""
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
    parser.add_argument("phantoms", type=Path, help="dataset of phantoms")
    parser.add_argument("--chen", type=Path, help="dataset of the Chen 2018 crops")
    parser.add_argument("--plot", type=Path, help="PNG file for the plot")
    parser.add_argument("--number", type=int, default=500, help="crops per dataset")
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

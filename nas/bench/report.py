"""Strategies side by side: a Markdown table and a picture."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.bench.search import Run, bands
from nas.errors import NasError
from nas.report.intervals import interval


def markdown(runs: Sequence[Run], about: Mapping[str, Any], heading: str) -> str:
    """The table of `nas bench search`.

    Args:
        runs: In any order; those of random search are what others are measured by.
        about: What they came from, for the head.
        heading: What was compared.
    """
    lines = [
        f"# {heading}",
        "",
        *(f"- {key}: {value}" for key, value in about.items()),
        "",
        "Best: the exact score of the trial that was observed to be best, after the last trial:",
        "mean over seeds and its 95% interval (Student). Gain: over random search, seed by seed.",
        "Trials to random's: median of the trials until what random search has after all of its.",
        "",
        "| objective | noise | strategy | best | gain over random | trials to random's "
        "| ms a proposal |",
        f"|{'---|' * 7}",
    ]
    for (objective, noise, strategy), band in sorted(
        bands(runs).items(), key=lambda item: (item[0][0], item[0][1], -item[1].mean)
    ):
        cells = (
            objective,
            f"{noise:g}",
            strategy,
            _spread(band.mean, band.half),
            "" if strategy == "random" else _spread(band.gain, band.gain_half, "+"),
            "never" if band.until is None else f"{band.until:g}",
            f"{band.ms:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def bands_table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The same as rows with the keys that JSON has."""
    return [
        {
            "objective": objective,
            "noise": noise,
            "strategy": strategy,
            "best": band.mean,
            "interval": band.half,
            "gain": band.gain,
            "gain_interval": band.gain_half,
            "trials_to_random": band.until,
            "ms": band.ms,
        }
        for (objective, noise, strategy), band in bands(runs).items()
    ]


def picture(runs: Sequence[Run], path: Path) -> None:
    """The best score by trial, a line a strategy with its 95% band; a panel an objective and noise.

    Raises:
        NasError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise NasError("a picture needs matplotlib: pip install 'hybrid-nas[plots]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = sorted({(r.objective, r.noise) for r in runs})
    strategies = sorted({r.strategy for r in runs})
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(5 * columns, 3.6 * rows), squeeze=False, layout="constrained"
    )
    for panel, axis in zip(panels, axes.flat, strict=False):
        for number, strategy in enumerate(strategies):
            of = [r for r in runs if (r.objective, r.noise, r.strategy) == (*panel, strategy)]
            if not of:
                continue
            columns_of = list(zip(*(r.best for r in of), strict=True))
            trials = range(1, len(columns_of) + 1)
            means = [statistics.fmean(column) for column in columns_of]
            halves = [interval(column) or 0.0 for column in columns_of]
            colour = f"C{number}"
            axis.plot(trials, means, color=colour, label=strategy)
            low = [m - h for m, h in zip(means, halves, strict=True)]
            high = [m + h for m, h in zip(means, halves, strict=True)]
            axis.fill_between(trials, low, high, color=colour, alpha=0.12, linewidth=0)
        axis.set_title(panel[0] + (f", noise {panel[1]:g}" if panel[1] else ""))
        axis.set_xlabel("trials")
        axis.set_ylabel("best score")
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)))
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise NasError(f"cannot write {path}: {error.strerror}") from error
    finally:
        pyplot.close(figure)


def _spread(mean: float, half: float | None, sign: str = "") -> str:
    around = "" if half is None else f" ± {half:.3f}"
    return f"{mean:{sign}.3f}{around}"

"""`python -m benchmarks.queue.figures` simulates all workloads, draws docs/fairness.svg and prints the page's table."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.queue.baselines import IDEAL, OURS
from benchmarks.queue.table import SCHEDULERS, Cell, cells, lines

FILE = Path(__file__).parents[2] / "docs" / "fairness.svg"
SHOWN = {
    "first in, first out": "first in, first out",
    "weighted round robin, by calls": "weighted round robin",
    "deficit round robin, max_tokens": "deficit round robin",
    OURS.name: "VTC (ours)",
}
COLOURS = {
    "first in, first out": "#b23a48",
    "weighted round robin, by calls": "#e09f3e",
    "deficit round robin, max_tokens": "#8a9a5b",
    OURS.name: "#1b6ca8",
    IDEAL.name: "#333333",
}
LEAST_S = 0.01  # who waits less is drawn as if it waited this long
POINTS = 120


def waits(axes: Axes, found: dict[tuple[str, str], Cell]) -> None:
    """What share of the light tenants' calls waited at most so long, beside a flood of 1,000."""
    for name, label in (*SHOWN.items(), (IDEAL.name, "charged as written (ideal)")):
        all_waits = found["flood 1,000", name].waits
        step = max(len(all_waits) // POINTS, 1)
        seconds = [max(wait, LEAST_S) for wait in all_waits[::step]]
        shares = [(number * step + 1) / len(all_waits) for number in range(len(seconds))]
        style = ":" if name == IDEAL.name else "-"
        axes.plot(seconds, shares, style, label=label, color=COLOURS[name], lw=1.6 if name == OURS.name else 1.1)
    axes.set(xscale="log", xlabel="wait for a slot, s", ylabel="share of light calls", ylim=(0, 1))
    axes.set_title("What nine light tenants wait beside a flood of 1,000", fontsize=9)
    axes.legend(fontsize=7, frameon=False, loc=(0.4, 0.3))


def shares(axes: Axes, found: dict[tuple[str, str], Cell]) -> None:
    """Jain's index of weighted tokens per weight among floods, where there are several."""
    names = ["two floods, 20x sizes", "tiers 1:2:4", "short prompt, long answer", "late flood"]
    width = 0.8 / len(SHOWN)
    for number, (name, label) in enumerate(SHOWN.items()):
        heights = [found[workload, name].jain for workload in names]
        places = [place + number * width for place in range(len(names))]
        axes.bar(places, heights, width, label=label, color=COLOURS[name])
    axes.set_xticks([place + 0.3 for place in range(len(names))], [name.replace(" ", "\n", 1) for name in names])
    axes.tick_params(axis="x", labelsize=7)
    axes.set(ylabel="Jain's index, worst of five seeds", ylim=(0, 1.05))
    axes.set_title("Who shares the capacity evenly", fontsize=9)


def main() -> int:
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "fairness", "font.size": 8}
    everyone = tuple(SCHEDULERS)
    found = cells(everyone)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    waits(left, found)
    shares(right, found)
    figure.savefig(FILE, metadata={"Date": None})
    sys.stdout.write("\n".join(lines(found, everyone)) + f"\n\n{FILE.name} is drawn.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m benchmarks.history``: draw the ratios of all recorded runs (``python -m benchmarks --record``)."""

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from ngd_theory.report.style import RC, colour, label, marker

FOLDER = Path(__file__).with_name("recorded")
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "benchmarks" / "history.png"
#: Of the environment; the rest says nothing of speed.
KEPT = ("time", "git_commit", "versions", "python", "device", "float")


def record(results: dict[str, Any], folder: Path = FOLDER) -> Path:
    """Add a run of ``python -m benchmarks`` to the history.

    Seconds are kept, but only ratios within a run are drawn: two runs may be of different machines.
    """
    environment = results["environment"]
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    entry = {"machine": machine, **{name: environment[name] for name in KEPT}, **results["steps"]}
    path = folder / f"{environment['time'][:10]}-{commit(environment)}.json"
    folder.mkdir(exist_ok=True)
    path.write_text(json.dumps(entry, indent=1) + "\n")
    return path


def commit(run: dict[str, Any]) -> str:
    """The short name of the commit, with "-dirty" if files had changed."""
    name, _, changed = (run["git_commit"] or "unknown").partition("-")
    return "-".join(filter(None, (name[:7], changed)))


def read(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """Every recorded run, the oldest first."""
    runs = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return sorted(runs, key=lambda run: run["time"])


def draw(runs: list[dict[str, Any]], path: Path = FIGURE) -> None:
    """Draw a panel for each width: ratios to the reference step over the runs."""
    widths = sorted({row["width"] for run in runs for row in run["rows"]})
    with plt.rc_context(RC):
        size = (3.2 * len(widths) + 1.6, 3.4)
        figure, grid = plt.subplots(1, len(widths), figsize=size, sharey=True, squeeze=False)
        for panel, width in zip(grid[0], widths, strict=True):
            _draw_width(panel, runs, width)
        grid[0][0].set_ylabel("time of a step over the reference's")
        grid[0][-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
        figure.savefig(path, dpi=120, bbox_inches="tight")
        plt.close(figure)


def _draw_width(panel, runs: list[dict[str, Any]], width: int) -> None:
    steps = dict.fromkeys(row["step"] for run in runs for row in run["rows"])
    for step in steps:
        found = {
            i: row["ratio"]
            for i, run in enumerate(runs)
            for row in run["rows"]
            if (row["step"], row["width"]) == (step, width) and step != run["reference"]
        }
        if found:
            look = {"color": colour(step), "marker": marker(step), "label": label(step)}
            panel.plot(list(found), list(found.values()), **look)
    panel.set_title(f"M = {width}")
    panel.set_yscale("log")
    names = [f"{run['time'][:10]}\n{commit(run)}" for run in runs]
    panel.set_xticks(range(len(runs)), names, rotation=90)


def main() -> None:
    """Draw the history."""
    argparse.ArgumentParser(prog="python -m benchmarks.history", description=__doc__).parse_args()
    runs = read()
    if not runs:
        sys.exit(f"no run is recorded in {FOLDER}: python -m benchmarks --record")
    draw(runs)
    print(f"written to {FIGURE}")


if __name__ == "__main__":
    main()

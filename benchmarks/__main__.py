"""``python -m benchmarks``: run the benchmarks, print tables, write JSON."""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import history, memory, steps
from ngd_theory.report.result import environment


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--widths", default="1024,2048,4096,8192")
    parser.add_argument("--num-samples", type=int, default=100)
    parser.add_argument("--output-dim", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-memory", action="store_true", help="leave the memory run out")
    parser.add_argument("--record", action="store_true", help="add the run to benchmarks/recorded")
    parser.add_argument("--out", type=Path, default=Path("results/bench.json"))
    arguments = parser.parse_args()

    widths = tuple(int(w) for w in arguments.widths.split(","))
    # First, because the peak is taken over all child processes so far.
    measured = None if arguments.no_memory else memory.run()
    timed = steps.run(
        widths, arguments.num_samples, output_dim=arguments.output_dim, rounds=arguments.rounds
    )
    results = {"environment": environment(), "steps": timed, "memory": measured}
    _print(results, widths)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {arguments.out}")
    if arguments.record:
        print(f"and to {history.record(results)}")


def _print(results: dict, widths: tuple[int, ...]) -> None:
    console = Console(width=None if Console().is_terminal else 110)
    timed = results["steps"]
    table = Table(
        title=f"seconds a step and ratio to {timed['reference']} ({results['environment']['device']})"
    )
    table.add_column("step")
    for width in widths:
        table.add_column(f"M = {width}", justify="right")
    table.add_column("target", justify="right")
    table.add_column("exponent, M ≥ 1024", justify="right")
    for name in dict.fromkeys(r["step"] for r in timed["rows"]):
        cells = [
            f"{r['seconds']:.4f}  {r['ratio']:.2f}×" for r in timed["rows"] if r["step"] == name
        ]
        target = timed["targets"].get(name)
        exponent = timed["exponents"].get(name)
        table.add_row(
            name,
            *cells,
            "" if target is None else f"≤ {target:g}×",
            "" if exponent is None else f"{exponent:.2f}",
        )
    console.print(table)
    if results["memory"]:
        m = results["memory"]
        console.print(
            f"verify --width {m['width']} (float64): peak {m['peak_gb']:.2f} GB (target "
            f"{m['target_gb']} GB), {m['seconds']:.0f} s, exit status {m['exit_status']}"
        )


if __name__ == "__main__":
    main()

"""``python -m benchmarks.limits``: how near each step comes to the machine's limit, and how its time grows.

The least time of a step is the longer of two: its operations at the rate of a large matmul, and its reads and writes
of weights at the memory's bandwidth. Both rates are measured in the same run.
"""

import argparse
import json
import statistics
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.steps import make_steps
from benchmarks.timing import interleaved
from ngd_theory.environment import environment
from ngd_theory.threads import limit_blas_threads

INPUTS, DEPTH = 784, 3


def machine(rounds: int = 5) -> tuple[float, float]:
    """Measure operations per second of a large float32 matmul, and bytes per second of a large addition."""
    side, length = 4096, 2**27
    a = jax.random.normal(jax.random.key(0), (side, side))
    x = jnp.ones(length)
    seconds = interleaved(
        {"matmul": partial(jax.jit(jnp.dot), a, a), "addition": partial(jax.jit(jnp.add), x, 1.0)},
        rounds,
    )
    return 2 * side**3 / min(seconds["matmul"]), 8 * length / min(seconds["addition"])


def operations(step: str, width: int, n: int, c: int) -> float:
    """Multiplications and additions that a step of a perceptron without biases needs at least.

    Counted are its matmuls and, for unit-wise, the Cholesky factorisations of its units. Other factorisations, of
    matrices of size N C, are left out.
    """
    sizes = [(INPUTS, width)] + [(width, width)] * (DEPTH - 2) + [(width, c)]
    products = sum(2 * n * p * m for p, m in sizes)
    # Forward, the gradient, and backward through all layers but the first. A natural gradient goes backward C times.
    backward = products - 2 * n * INPUTS * width
    plain = 2 * products + backward
    natural = 2 * products + c * backward
    grams = sum(2 * n**2 * p + 2 * (n * c) ** 2 * m for p, m in sizes)
    return {
        "plain GD": plain,
        "identity": natural,
        "exact": natural + grams,
        "block-diagonal": natural + grams,
        "block-tridiagonal": natural + grams,
        "kfac": natural + 2 * grams,
        "kfac-tridiagonal": natural + 2 * grams,
        "kfac-input": natural + sum(4 * n**2 * p for p, _ in sizes),
        "kfac-output": natural + sum(4 * (n * c) ** 2 * m for _, m in sizes),
        "ekfac": natural + 2 * grams,
        "shampoo": natural + 2 * grams,
        "unit-wise": natural + sum(2 * n**2 * p + m * n**3 / 3 for p, m in sizes),
        "entry-wise": natural + products,
        "quasi-diagonal": natural + products,
    }[step]


def traffic(width: int) -> float:
    """Bytes that any step moves in float32.

    Weights are read forward, backward (not in the first layer) and for the update, and the new ones are written.
    """
    return 4 * (3 * INPUTS * width + 4 * (DEPTH - 2) * width**2)


def measure(widths: list[int], samples: list[int], c: int, rounds: int) -> dict:
    """Time every step at every size."""
    rate, bandwidth = machine()
    sizes = [(m, samples[0]) for m in widths] + [(widths[-1], n) for n in samples[1:]]
    rows = []
    for width, n in sizes:
        steps = make_steps(width, n, INPUTS, DEPTH, c, 1e-4)
        for name, times in interleaved(steps, rounds).items():
            seconds = statistics.median(times)
            least = max(operations(name, width, n, c) / rate, traffic(width) / bandwidth)
            rows.append(
                {
                    "step": name,
                    "width": width,
                    "num_samples": n,
                    "seconds": seconds,
                    "of_the_limit": least / seconds,
                }
            )
        print(f"  M = {width}, N = {n} done", flush=True)
    exponents = {}
    for name in dict.fromkeys(r["step"] for r in rows):
        mine = [r for r in rows if r["step"] == name]
        exponents[name] = (
            _exponent([r for r in mine if r["num_samples"] == samples[0]], "width"),
            _exponent([r for r in mine if r["width"] == widths[-1]], "num_samples"),
        )
    return {"rate": rate, "bandwidth": bandwidth, "rows": rows, "exponents": exponents}


def _exponent(rows: list[dict], along: str) -> float:
    """Exponent of ``along`` in a power law fitted to the seconds."""
    if len(rows) < 2:
        return float("nan")
    logs = np.log([(r[along], r["seconds"]) for r in rows])
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description=__doc__)
    parser.add_argument("--widths", default="1024,2048,4096,8192")
    parser.add_argument("--samples", default="100,200,400", help="all at the largest width")
    parser.add_argument("--output-dim", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/bench-limits.json"))
    arguments = parser.parse_args()
    limit_blas_threads()
    widths = [int(w) for w in arguments.widths.split(",")]
    samples = [int(n) for n in arguments.samples.split(",")]
    found = measure(widths, samples, arguments.output_dim, arguments.rounds)
    print(
        f"matmul {found['rate'] / 1e9:.0f} Gflop/s, memory {found['bandwidth'] / 1e9:.1f} GB/s\n"
        f"{'step':18} {'M':>5} {'N':>4} {'seconds':>9} {'of the limit':>13}"
    )
    for r in found["rows"]:
        print(
            f"{r['step']:18} {r['width']:5d} {r['num_samples']:4d} {r['seconds']:9.4f} {r['of_the_limit']:12.0%}"
        )
    print(f"{'growth as power of':18} {'M':>5} {'N':>9}")
    for name, (over_width, over_samples) in found["exponents"].items():
        print(f"{name:18} {over_width:5.2f} {over_samples:9.2f}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"environment": environment(), **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

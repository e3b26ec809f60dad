"""``python -m benchmarks.limits``: how near each step comes to what the machine can do, and how it grows.

The least time of a step is that of its multiplications at the rate of a large matmul, or of one reading and writing of
what it must touch at the memory's bandwidth, whichever is longer; both rates are measured in the same run.
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
    """Operations a second of a large float32 matmul, and bytes a second read or written by a large addition."""
    side, length = 4096, 2**27
    a = jax.random.normal(jax.random.key(0), (side, side))
    x = jnp.ones(length)
    seconds = interleaved(
        {"matmul": partial(jax.jit(jnp.dot), a, a), "addition": partial(jax.jit(jnp.add), x, 1.0)},
        rounds,
    )
    return 2 * side**3 / min(seconds["matmul"]), 8 * length / min(seconds["addition"])


def operations(step: str, width: int, n: int, c: int) -> float:
    """Multiplications and additions that a step of a perceptron without biases cannot do without.

    Those of its matmuls and, for unit-wise, of the Cholesky factorisations of its units; other factorisations, of
    matrices of size N C, are left out.
    """
    sizes = [(INPUTS, width)] + [(width, width)] * (DEPTH - 2) + [(width, c)]
    products = sum(2 * n * p * m for p, m in sizes)
    # Forward, the gradient, and back through all but the first layer; C of those for a natural gradient.
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
        "unit-wise": natural + sum(2 * n**2 * p + m * n**3 / 3 for p, m in sizes),
        "entry-wise": natural + products,
    }[step]


def traffic(width: int) -> float:
    """Bytes that any step moves, float32: weights read forward, back (not the first) and for the new, and these."""
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
    """Fitted power of ``along`` in the seconds."""
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

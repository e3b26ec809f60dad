"""``python -m benchmarks.many_samples``: exact and block-diagonal steps without the kernel.

Each runs in a process of its own. First conjugate gradients are compared with Cholesky at N = 2,000 (float64). Then a
float32 step is measured at every given N: seconds, iterations, residual, and the peak memory of the process beside
the memory of the kernel alone.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from ngd_theory import fisher, networks
from ngd_theory.environment import environment
from ngd_theory.threads import limit_blas_threads

INPUTS, WIDTH, DEPTH = 784, 512, 3
APPROXIMATIONS = {cls.name: cls for cls in (fisher.Exact, fisher.BlockDiagonal)}


def setting(num_samples: int, dtype: str):
    """A network, its parameters, Gaussian inputs and targets."""
    net = networks.mlp(INPUTS, [WIDTH] * (DEPTH - 1), 1)
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (num_samples, INPUTS), dtype)
    y = jnp.sign(jax.random.normal(keys[1], (num_samples, 1), dtype))
    return net, net.init(keys[2], dtype), x, y


def agreement(name: str, damping: float) -> float:
    """Relative difference of natural gradients by conjugate gradients and Cholesky, at N = 2,000 in float64."""
    jax.config.update("jax_enable_x64", True)
    net, params, x, y = setting(2000, "float64")
    lin = jax.jit(lambda p, x: networks.linearize(net, p, x))(params, x)
    found = [
        APPROXIMATIONS[name](solver=solver).natural_gradient(lin, lin.outputs - y, damping)
        for solver in ("cg", "cholesky")
    ]
    pairs = list(zip(*map(jax.tree.leaves, found), strict=True))
    difference = sum(jnp.sum((a - b) ** 2) for a, b in pairs)
    return float((difference / sum(jnp.sum(b**2) for _, b in pairs)) ** 0.5)


def step(name: str, num_samples: int, damping: float) -> dict:
    """Time a compiled float32 step (linearisation, solve, new parameters), and report on its solve."""
    net, params, x, y = setting(num_samples, "float32")
    approximation = APPROXIMATIONS[name](solver="cg")

    def whole(params, x, y):
        lin = networks.linearize(net, params, x)
        gradient = approximation.natural_gradient(lin, lin.outputs - y, damping)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)

    def told(params, x, y):
        lin = networks.linearize(net, params, x)
        solutions = approximation.dual_solutions(lin, lin.outputs - y, damping)
        return [(s.iterations, s.residual, s.converged) for s in solutions]

    compiled = jax.jit(whole).lower(params, x, y).compile()
    jax.block_until_ready(compiled(params, x, y))
    start = time.perf_counter()
    jax.block_until_ready(compiled(params, x, y))
    seconds = time.perf_counter() - start
    iterations, residuals, converged = zip(*jax.jit(told)(params, x, y), strict=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "approximation": name,
        "num_samples": num_samples,
        "seconds": seconds,
        "iterations": [int(i) for i in iterations],
        "residual": max(float(r) for r in residuals),
        "converged": all(bool(c) for c in converged),
        "peak_gb": peak * (1 if sys.platform == "darwin" else 1024) / 1e9,
        "kernel_gb": 4 * num_samples**2 / 1e9,
    }


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_samples", description=__doc__)
    parser.add_argument("--samples", default="2000,5000,20000")
    parser.add_argument("--approximations", default="exact,block-diagonal")
    parser.add_argument("--damping", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=Path("results/bench-many-samples.json"))
    arguments = parser.parse_args()
    limit_blas_threads()
    names = arguments.approximations.split(",")
    # A new process for each, because the peak memory is of all that a process has done.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        equal = {name: pool.apply(agreement, (name, arguments.damping)) for name in names}
        rows = [
            pool.apply(step, (name, int(n), arguments.damping))
            for n in arguments.samples.split(",")
            for name in names
        ]
    for name, error in equal.items():
        print(f"{name}: conjugate gradients and Cholesky differ by {error:.1e} at N = 2000")
    print(
        f"{'step':16} {'N':>7} {'seconds':>8} {'iterations':>12} {'residual':>9} {'peak GB':>8} {'kernel GB':>10}"
    )
    for row in rows:
        counts = ", ".join(map(str, row["iterations"]))
        print(
            f"{row['approximation']:16} {row['num_samples']:7d} {row['seconds']:8.2f} {counts:>12} "
            f"{row['residual']:9.1e} {row['peak_gb']:8.2f} {row['kernel_gb']:10.2f}"
            + ("" if row["converged"] else "  NOT CONVERGED")
        )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(
        json.dumps({"environment": environment(), "agreement": equal, "steps": rows}, indent=1)
        + "\n"
    )


if __name__ == "__main__":
    main()

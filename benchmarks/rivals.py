"""``python -m benchmarks.rivals``: kernels and steps beside neural-tangents, kfac-jax and plain autodiff.

All use the same network and data in one run. The results are compared first, then all are timed in turn. A rival that
is not installed is left out with a message. kfac-jax's release 0.0.8 needs JAX <= 0.9.1; the structured derivatives
of neural-tangents work on no JAX that we support.
"""

import argparse
import importlib
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullLocator

import ngd_theory as ngd
from benchmarks.timing import interleaved, ratio
from ngd_theory.environment import environment
from ngd_theory.kernels._neural_tangents import NeuralTangentsError, neural_tangents
from ngd_theory.threads import limit_blas_threads

INPUTS, DAMPING = 784, 1e-2
#: Largest Jacobian of autodiff, in bytes.
LARGEST_JACOBIAN = 8e9


class NotInstalled(Exception):
    """A rival cannot run here: it is not installed, or its Jacobian is too large."""


class Setting:
    """A ReLU perceptron in the standard parameterisation, L = 3, and Gaussian data."""

    def __init__(self, width: int, num_samples: int, output_dim: int):
        net = ngd.networks.mlp(INPUTS, [width, width], output_dim)
        self.net = ngd.networks.standard_parameterization(net)
        keys = jax.random.split(jax.random.key(0), 3)
        self.params = ngd.networks.scaled_init(self.net, keys[0], gain=2.0)
        self.x = jax.random.normal(keys[1], (num_samples, INPUTS)) / INPUTS**0.5
        self.y = jax.random.normal(keys[2], (num_samples, output_dim))
        self.jacobian_bytes = 4 * self.y.size * self.net.num_parameters

    def jacobian(self, params, x):
        """Jacobian by reverse-mode autodiff: (NC, number of parameters)."""
        found = jax.jacrev(lambda p: self.net.apply(p, x).ravel())(params)
        return jnp.concatenate([j.reshape(len(j), -1) for j in jax.tree.leaves(found)], axis=1)


def our_kernel(s: Setting) -> Callable:
    """Our NTK: the sum of the layers' kernels."""
    net = s.net
    return jax.jit(
        lambda params, x: ngd.kernels.layerwise_ntk(ngd.networks.linearize(net, params, x)).sum(0)
    )


def autodiff_kernel(s: Setting) -> Callable:
    """The NTK as autodiff's Jacobian times its transpose."""
    if s.jacobian_bytes > LARGEST_JACOBIAN:
        raise NotInstalled(f"its Jacobian takes {s.jacobian_bytes / 1e9:.0f} GB")

    def kernel(params, x):
        j = s.jacobian(params, x)
        return j @ j.T

    return jax.jit(kernel)


def neural_tangents_kernel(s: Setting, implementation: str) -> Callable:
    """neural-tangents' empirical NTK."""
    try:
        nt = neural_tangents()
    except NeuralTangentsError as error:
        raise NotInstalled(str(error)) from None
    if implementation == "JACOBIAN_CONTRACTION" and s.jacobian_bytes > LARGEST_JACOBIAN:
        raise NotInstalled(f"its Jacobian takes {s.jacobian_bytes / 1e9:.0f} GB")
    kernel = nt.empirical_ntk_fn(
        lambda params, x: s.net.apply(params, x),
        trace_axes=(),
        vmap_axes=0,
        implementation=nt.NtkImplementation[implementation],
    )

    def by_rows(params, x):
        """Reorder (N, N, C, C) to rows ``n*C + c``."""
        found = jnp.moveaxis(kernel(x, None, params), 2, 1)
        return found.reshape(s.y.size, s.y.size)

    return jax.jit(by_rows)


def our_step(s: Setting, approximation) -> Callable:
    """Our linearisation and natural gradient."""

    def gradient(params, x):
        lin = ngd.networks.linearize(s.net, params, x)
        return approximation.natural_gradient(lin, lin.outputs - s.y, DAMPING)

    return jax.jit(gradient)


def autodiff_step(s: Setting) -> Callable:
    """The exact natural gradient from the Jacobian and a dense N x N solve."""
    if s.jacobian_bytes > LARGEST_JACOBIAN:
        raise NotInstalled(f"its Jacobian takes {s.jacobian_bytes / 1e9:.0f} GB")

    def gradient(params, x):
        n, j = len(x), s.jacobian(params, x)
        residual = (s.net.apply(params, x) - s.y).ravel()
        weights = jnp.linalg.solve(j @ j.T / n + DAMPING * jnp.eye(len(j)), residual) / n
        flat, sizes = j.T @ weights, np.cumsum([p.size for p in jax.tree.leaves(params)])
        leaves = [
            part.reshape(p.shape)
            for part, p in zip(jnp.split(flat, sizes[:-1]), jax.tree.leaves(params), strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(params), leaves)

    return jax.jit(gradient)


def kfac_jax_step(s: Setting) -> Callable:
    """kfac-jax's factors of the batch (exact), their inverses and the preconditioned gradient, in one program."""
    try:
        kfac_jax = importlib.import_module("kfac_jax")
    except ImportError as error:
        raise NotInstalled(str(error)) from None

    def loss(params, batch):
        h, targets = batch
        for index, layer in enumerate(params):
            h = h @ layer["weight"]
            h = jax.nn.relu(h) if index + 1 < len(params) else h
        kfac_jax.register_squared_error_loss(h, weight=0.5)
        return 0.5 * jnp.sum((h - targets) ** 2) / len(targets)

    def arguments(params, x):
        return list(params), (x, s.y)

    estimator = kfac_jax.BlockDiagonalCurvature(loss, default_estimation_mode="ggn_exact")
    key = jax.random.key(0)
    state = estimator.init(key, arguments(s.params, s.x), None, None)

    @jax.jit
    def gradient(state, params, x):
        given = arguments(params, x)
        fresh = estimator.update_curvature_matrix_estimate(
            state, 0.0, 1.0, DAMPING, len(x), key, given
        )
        found = jax.grad(loss)(*given)
        return estimator.multiply_inverse(
            fresh,
            found,
            DAMPING,
            exact_power=False,
            use_cached=False,
            pmap_axis_name=None,
        )

    return partial(gradient, state)


#: Race -> competitor -> function that makes it; the first competitor is ours, the reference.
RACES: dict[str, dict[str, Callable[[Setting], Callable]]] = {
    "NTK": {
        "ours, layer by layer": our_kernel,
        "neural-tangents, Jacobian": partial(
            neural_tangents_kernel, implementation="JACOBIAN_CONTRACTION"
        ),
        "neural-tangents, products": partial(
            neural_tangents_kernel, implementation="NTK_VECTOR_PRODUCTS"
        ),
        "autodiff": autodiff_kernel,
    },
    "exact step": {
        "ours": partial(our_step, approximation=ngd.fisher.Exact()),
        "autodiff": autodiff_step,
    },
    "K-FAC step": {
        "ours": partial(our_step, approximation=ngd.fisher.KFAC()),
        "kfac-jax": kfac_jax_step,
    },
}

#: Outputs C if not 1: with C = 1 kfac-jax damps the output layer's factor, a single number, in another way.
OUTPUTS = {"K-FAC step": 2}


def difference(found, reference) -> float:
    """Relative difference over all leaves."""
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True))
    error = sum(float(jnp.sum((a - b) ** 2)) for a, b in pairs)
    return (error / sum(float(jnp.sum(b**2)) for _, b in pairs)) ** 0.5


def held(function: partial) -> int:
    """Bytes that a compiled function holds in addition to its arguments and its result."""
    analysis = jax.jit(function.func).lower(*function.args).compile().memory_analysis()
    return 0 if analysis is None else analysis.temp_size_in_bytes


def race(name: str, width: int, num_samples: int, rounds: int) -> list[dict]:
    """Compare and time one race at one size."""
    s = Setting(width, num_samples, OUTPUTS.get(name, 1))
    functions = {}
    for rival, make in RACES[name].items():
        try:
            functions[rival] = partial(make(s), s.params, s.x)
        except NotInstalled as reason:
            print(f"{name}, M = {width}, N = {num_samples}: {rival} left out: {reason}", flush=True)
    ours = next(iter(functions))
    reference = functions[ours]()
    errors = {rival: difference(function(), reference) for rival, function in functions.items()}
    memory = {rival: held(function) for rival, function in functions.items()}
    seconds = interleaved(functions, rounds, pause=1.0)
    return [
        {
            "race": name,
            "rival": rival,
            "width": width,
            "num_samples": num_samples,
            "seconds": statistics.median(times),
            "times_ours": ratio(times, seconds[ours]),
            "difference": errors[rival],
            "held_gb": memory[rival] / 1e9,
        }
        for rival, times in seconds.items()
    ]


def draw(rows: list[dict], path: Path) -> None:
    """Draw seconds against the width and against the samples, log-log."""
    races = list(dict.fromkeys(r["race"] for r in rows))
    figure, grid = plt.subplots(
        len(races), 2, figsize=(9, 3 * len(races)), layout="constrained", squeeze=False
    )
    for axes_row, name in zip(grid, races, strict=True):
        mine = [r for r in rows if r["race"] == name]
        for axes, along, fixed in zip(
            axes_row, ("width", "num_samples"), ("num_samples", "width"), strict=True
        ):
            values = [r[fixed] for r in mine]
            common = max(set(values), key=values.count)
            for rival in dict.fromkeys(r["rival"] for r in mine):
                points = sorted(
                    (r[along], r["seconds"])
                    for r in mine
                    if r["rival"] == rival and r[fixed] == common
                )
                axes.loglog(*zip(*points, strict=True), "o-", label=rival)
            axes.set_xticks(sorted({r[along] for r in mine if r[fixed] == common}))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel(
                {"width": "width M", "num_samples": "samples N"}[along]
                + f" ({'N' if along == 'width' else 'M'} = {common})"
            )
            axes.set_title(name, loc="left")
        axes_row[0].set_ylabel("seconds")
        axes_row[0].legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rivals", description=__doc__)
    parser.add_argument("--widths", default="512,1024,2048")
    parser.add_argument("--samples", default="32,64,128")
    parser.add_argument("--races", default=",".join(RACES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/bench-rivals.json"))
    arguments = parser.parse_args()
    limit_blas_threads()
    widths = [int(w) for w in arguments.widths.split(",")]
    samples = [int(n) for n in arguments.samples.split(",")]
    sizes = dict.fromkeys([(m, samples[-1]) for m in widths] + [(widths[-1], n) for n in samples])
    rows = []
    for name in arguments.races.split(","):
        for width, num_samples in sizes:
            rows += race(name, width, num_samples, arguments.rounds)
    print(
        f"{'race':11} {'M':>5} {'N':>5} {'':26} {'seconds':>9} {'times ours':>11} {'difference':>11} {'GB held':>8}"
    )
    for r in rows:
        print(
            f"{r['race']:11} {r['width']:5d} {r['num_samples']:5d} {r['rival']:26} {r['seconds']:9.4f} "
            f"{r['times_ours']:10.1f}x {r['difference']:11.1e} {r['held_gb']:8.3f}"
        )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(
        json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n"
    )
    draw(rows, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()

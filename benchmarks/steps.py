"""The cost of one natural-gradient step, as a multiple of a plain gradient-descent step.

The reference is what a user would write without this library: ``jax.grad`` of the loss and an update.
A step is the whole jitted step: linearisation, natural gradient, new parameters. Each is timed three times in a row
after a pause, without thread settings: if OpenBLAS's threads work on after a call, the step that made the call pays.
With C > 1 outputs a linearisation takes C backward passes. The reference is then the identity's step, with the same
passes and one gradient.
"""

import statistics
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import ngd_theory as ngd
from benchmarks.timing import interleaved, ratio

#: Target ratio to plain gradient descent at M = 8192 (C = 1, N = 100, float32).
TARGETS = {
    "exact": 1.1,
    "block-diagonal": 1.1,
    "block-tridiagonal": 1.1,
    "kfac": 1.1,
    "kfac-input": 1.1,
    "ekfac": 1.5,
    "entry-wise": 2.0,
    "unit-wise": 4.0,
}


def run(
    widths=(1024, 2048, 4096, 8192),
    num_samples: int = 100,
    input_dim: int = 784,
    depth: int = 3,
    output_dim: int = 1,
    rounds: int = 7,
    damping: float = 1e-4,
) -> dict:
    """Time a step of every approximation at every width; return JSON-ready rows."""
    rows, reference = [], "plain GD" if output_dim == 1 else "identity"
    for width in widths:
        steps = make_steps(width, num_samples, input_dim, depth, output_dim, damping)
        seconds = interleaved(steps, rounds, pause=0.15, calls=3)
        for name, times in seconds.items():
            rows.append(
                {
                    "width": width,
                    "step": name,
                    "seconds": statistics.median(times),
                    "ratio": ratio(times, seconds[reference]),
                }
            )
        print(f"  width {width} done", flush=True)
    return {
        "rows": rows,
        "reference": reference,
        "exponents": _exponents(rows),
        "targets": TARGETS if output_dim == 1 else {},
    }


def make_steps(width, num_samples, input_dim, depth, output_dim, damping):
    """Make whole float32 steps by name; each is compiled and checked to be finite."""
    net = ngd.networks.mlp(input_dim, [width] * (depth - 1), output_dim)
    keys = jax.random.split(jax.random.key(0), 3)
    params = net.init(keys[0])
    x = jax.random.normal(keys[1], (num_samples, input_dim))
    y = jax.random.normal(keys[2], (num_samples, output_dim))

    def descend(params, gradient, step_size):
        return jax.tree.map(lambda p, g: p - step_size * g, params, gradient)

    @jax.jit
    def plain(params, x, y):
        def loss(params):
            return ngd.losses.MSE.value(net.apply(params, x), y)

        return descend(params, jax.grad(loss)(params), 1e-3)

    @jax.jit
    def natural(approximation, params, x, y, damping):
        lin = ngd.networks.linearize(net, params, x)
        residual = ngd.losses.MSE.residual(lin.outputs, y)
        return descend(params, approximation.natural_gradient(lin, residual, damping), 1e-3)

    rho = ngd.fisher.as_damping(damping)
    steps = {"plain GD": partial(plain, params, x, y)}
    for name in ngd.fisher.APPROXIMATIONS:
        approximation = ngd.fisher.by_name(name)
        steps[name] = partial(natural, approximation, params, x, y, rho)
    for name, step in steps.items():
        if not all(bool(jnp.isfinite(p).all()) for p in jax.tree.leaves(step())):
            raise FloatingPointError(f"the {name} step is not finite at width {width}")
    return steps


def _exponents(rows) -> dict[str, float]:
    """Exponent of the width in a power law fitted to the seconds, from M = 1024 on."""
    exponents = {}
    for name in dict.fromkeys(r["step"] for r in rows):
        points = [(r["width"], r["seconds"]) for r in rows if r["step"] == name]
        large = np.log([p for p in points if p[0] >= 1024])
        if len(large) >= 2:
            exponents[name] = float(np.polyfit(large[:, 0], large[:, 1], 1)[0])
    return exponents

"""``python -m benchmarks.optimizers``: the cost of a K-FAC step on the MNIST autoencoder, beside kfac-jax's.

If kfac-jax (Botev & Martens) is not installed, it is left out with a message. Its release 0.0.8 needs JAX <= 0.9.1.
Both have adaptive step size, momentum and damping. The row "full batch" is ours with exactly kfac-jax's work: no
search of gamma, and the whole batch for statistics and Fisher products.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from ngd_theory import losses, networks, optim
from ngd_theory.environment import environment
from ngd_theory.errors import InputError
from ngd_theory.optim.rivals import KFACJax
from ngd_theory.threads import limit_blas_threads

LOSS, L2, DAMPING, PERIOD = losses.SIGMOID_CROSS_ENTROPY, 1e-5, 150.0, 20
NETWORK = networks.autoencoder(*networks.AUTOENCODERS["mnist"])
FRACTIONS = {"statistics_fraction": 1 / 8, "curvature_fraction": 1 / 4}
OURS = {
    "K-FAC, full batch": {"adapt_factor_damping": False},
    "K-FAC": FRACTIONS,
    "K-FAC, tridiagonal": {"structure": "block-tridiagonal", **FRACTIONS},
}


def ours(params, batch, options):
    """Return a function without arguments that advances our K-FAC by one step."""
    optimizer = optim.kfac(NETWORK, LOSS, l2=L2, damping=DAMPING, **options)

    @jax.jit
    def step(params, state, batch):  # batch as a constant would be folded by XLA
        value, grads = jax.value_and_grad(lambda p: LOSS.value(NETWORK.apply(p, batch), batch))(
            params
        )
        updates, state = optimizer.update(grads, state, params, x=batch, y=batch)
        return optax.apply_updates(params, updates), state, value

    held = [params, optimizer.init(params)]

    def advance():
        *held[:], value = step(*held, batch)
        return held, value

    return advance


def kfac_jax(params, batch):
    """Return the same function for kfac-jax.

    Raises
    ------
    InputError
        If it is not installed.
    """
    rival = KFACJax(NETWORK, LOSS, L2, damping=DAMPING, inverse_period=PERIOD)
    params, state = rival.begin(params, batch, batch)
    step = rival.compile(params, state, batch, batch, len(batch))
    held, rows = [params, state], jnp.arange(len(batch))

    def advance():
        *held[:], value = step(held[0], held[1], rows)
        return held, value

    return advance


def main() -> None:
    """Time whole periods of steps; the optimisers take turns."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.optimizers", description=__doc__)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--periods", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/bench-optimizers.json"))
    arguments = parser.parse_args()
    limit_blas_threads()
    params = networks.sparse_init(NETWORK, jax.random.key(0), scale=0.35)
    # Low rank, so that a code layer of 30 units can represent it.
    keys = jax.random.split(jax.random.key(1))
    low_rank = jax.random.normal(keys[0], (arguments.batch, 20)) @ jax.random.normal(
        keys[1], (20, NETWORK.output_dim)
    )
    batch = jax.nn.sigmoid(low_rank)
    steps = {name: ours(params, batch, options) for name, options in OURS.items()}
    try:
        steps["kfac-jax"] = kfac_jax(params, batch)
    except InputError as error:
        print(f"left out: {error}")
    rows = {name: {"losses": [], "seconds": []} for name in steps}
    for _ in range(PERIOD + 1):  # compile, and skip the first steps, which refresh more often
        for step in steps.values():
            jax.block_until_ready(step())
    for _ in range(arguments.periods):
        for name, step in steps.items():
            for _ in range(PERIOD):
                start = time.perf_counter()
                _, value = jax.block_until_ready(step())
                rows[name]["seconds"].append(time.perf_counter() - start)
                rows[name]["losses"].append(float(value))
    reference = statistics.mean(rows.get("kfac-jax", rows["K-FAC, full batch"])["seconds"])
    print(f"{'step':22} {'mean s':>8} {'median s':>9} {'ratio of means':>15} {'last loss':>10}")
    for name, row in rows.items():
        mean, median = statistics.mean(row["seconds"]), statistics.median(row["seconds"])
        print(
            f"{name:22} {mean:8.3f} {median:9.3f} {mean / reference:15.2f} {row['losses'][-1]:10.2f}"
        )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(
        json.dumps({"environment": environment(), "steps": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()

"""Run in processes of its own by tests/networks/test_sharding.py: the same numbers on eight devices as on one.

``on_devices.py eight`` has them in one process, ``on_devices.py hosts ADDRESS ID`` is one of two with four each.
Prints JSON.
"""

import json
import os
import sys

PROCESSES = 2 if sys.argv[1] == "hosts" else 1
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={8 // PROCESSES}"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)
if PROCESSES > 1:
    jax.distributed.initialize(sys.argv[2], PROCESSES, int(sys.argv[3]))

import ngd_theory as ngd  # noqa: E402
from ngd_theory.errors import InputError  # noqa: E402
from ngd_theory.networks.sharding import on_host  # noqa: E402

NETWORK = ngd.networks.mlp(12, [32, 32], 2, activation="tanh", bias_std=0.3)
MESH = ngd.networks.device_mesh(width=2)


def problem():
    """Parameters, inputs and targets, in numpy: the same on every host."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: rng.normal(size=p.shape), jax.eval_shape(NETWORK.init, jax.random.key(0))
    )
    return params, rng.normal(size=(8, 12)), rng.normal(size=(8, 2))


def placed():
    params, x, y = problem()
    params = ngd.networks.shard_parameters(MESH, NETWORK, params)
    return params, *ngd.networks.shard_samples(MESH, x, y)


def difference(found, wanted):
    """Relative, over all leaves."""
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True))
    error = sum(np.sum((on_host(a) - np.asarray(b)) ** 2) for a, b in pairs)
    return float((error / sum(np.sum(np.asarray(b) ** 2) for _, b in pairs)) ** 0.5)


def step(approximation, damping):
    """Natural gradient and kernel of a linearisation, in one program."""

    def run(params, x, y):
        lin = ngd.networks.linearize(NETWORK, params, x)
        gradient = approximation.natural_gradient(lin, lin.outputs - y, damping)
        return gradient, ngd.kernels.ntk(lin), lin

    return jax.jit(run)


def refused():
    """What is said of numbers that the mesh does not divide."""
    odd = ngd.networks.mlp(12, [32, 3], 2)
    for attempt in (
        lambda: ngd.networks.shard_parameters(MESH, odd, odd.init(jax.random.key(0))),
        lambda: ngd.networks.shard_samples(MESH, np.ones((6, 12))),
    ):
        try:
            attempt()
        except InputError as error:
            yield str(error)


def eight():
    one, many = jax.tree.map(jnp.asarray, problem()), placed()
    found = {"devices": len(jax.devices()), "differences": {}, "refused": list(refused())}
    solvers = {name: ngd.fisher.by_name(name) for name in ngd.fisher.APPROXIMATIONS}
    solvers["exact, cg"] = ngd.fisher.Exact(solver="cg")
    for name, approximation in solvers.items():
        run = step(approximation, 1e-3)
        gradient, kernel, lin = run(*many)
        found["differences"][name] = difference((gradient, kernel), run(*one)[:2])
    found["parts"] = {
        "sensitivities": lin.layers[0].sensitivities.addressable_shards[0].data.size
        / lin.layers[0].sensitivities.size,
        "weight": many[0][1]["weight"].addressable_shards[0].data.size / many[0][1]["weight"].size,
    }
    exact = ngd.fisher.Exact()
    runs = [ngd.dynamics.train(NETWORK, *each, exact, 0.5, 2, 1e-3) for each in (many, one)]
    found["differences"]["training"] = difference(runs[0].outputs, runs[1].outputs)
    found["trained parts"] = [
        layer["weight"].addressable_shards[0].data.size / layer["weight"].size
        for layer in runs[0].params
    ]
    optimizer = ngd.optim.kfac(NETWORK, ngd.losses.MSE, damping=1.0)

    @jax.jit
    def optimize(params, x, y):
        gradient = jax.grad(lambda p: ngd.losses.MSE.value(NETWORK.apply(p, x), y))(params)
        return optimizer.update(gradient, optimizer.init(params), params, x=x, y=y)[0]

    found["differences"]["optim.kfac"] = difference(optimize(*many), optimize(*one))
    return found


def hosts():
    trained = ngd.dynamics.train(NETWORK, *placed(), ngd.fisher.Exact(), 0.5, 2, 1e-3)
    return {"devices": len(jax.devices()), "losses": trained.losses.tolist()}


print(json.dumps({"eight": eight, "hosts": hosts}[sys.argv[1]]()), flush=True)

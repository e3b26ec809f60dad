"""Run in processes of its own by tests/networks/test_sharding.py: the same numbers on eight devices as on one.

``on_devices.py eight`` has them in one process, ``on_devices.py hosts ADDRESS ID`` is one of two with four each.
Prints JSON.
"""

import json
import logging
import os
import re
import sys
from dataclasses import dataclass

PROCESSES = 2 if sys.argv[1] == "hosts" else 1
FLAG = f"--xla_force_host_platform_device_count={8 // PROCESSES}"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAG}"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)
if PROCESSES > 1:
    jax.distributed.initialize(sys.argv[2], PROCESSES, int(sys.argv[3]))

import ngd_theory as ngd  # noqa: E402
from ngd_theory.errors import InputError, SingularKernelError  # noqa: E402
from ngd_theory.fisher import many_systems, unit_wise  # noqa: E402
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


@ngd.fisher.approximation
@dataclass(frozen=True)
class Broken(ngd.fisher.Exact):
    """A solve that breaks down."""

    def precondition(self, lin, cotangent, damping):
        return jax.tree.map(lambda g: g * jnp.nan, lin.vjp(cotangent))


class Compiled(logging.Handler):
    """Counts compilations of the training step."""

    count = 0

    def emit(self, record):
        self.count += "Finished XLA compilation of jit(_step)" in record.getMessage()

    def __enter__(self):
        jax.config.update("jax_log_compiles", True)
        logging.getLogger("jax").addHandler(self)
        return self

    def __exit__(self, *_):
        jax.config.update("jax_log_compiles", False)
        logging.getLogger("jax").removeHandler(self)


def step(approximation, damping):
    """Natural gradient and kernel of a linearisation, in one program."""

    def run(params, x, y):
        lin = ngd.networks.linearize(NETWORK, params, x)
        gradient = approximation.natural_gradient(lin, lin.outputs - y, damping)
        return gradient, ngd.kernels.ntk(lin), lin

    return jax.jit(run)


def units_a_device():
    """Sizes of the batches that a device factorises in the program that accelerators run (a CPU may not)."""
    jax.lax.platform_dependent = lambda *args, default, **_: default(*args)
    unit_wise.batch_size = many_systems.batch_size = lambda *_, **__: 8
    jax.clear_caches()
    program = step(ngd.fisher.by_name("unit-wise"), 1e-3).lower(*placed()).compile().as_text()
    batches = re.findall(r"= f64\[(\d+),8,1\]\S* custom-call\(.*trsm", program)
    gathered = re.findall(r"= f64\[([\d,]+)\]\S* all-gather\(.*while", program)
    return {
        "solved": sorted({int(n) for n in batches}),
        "gathered": max(int(shape.split(",")[0]) for shape in gathered),
    }


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
    with Compiled() as compiled:
        runs = [ngd.dynamics.train(NETWORK, *many, exact, 0.5, 2, 1e-3)]
    found["programs of the step"] = compiled.count
    runs.append(ngd.dynamics.train(NETWORK, *one, exact, 0.5, 2, 1e-3))
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
    found["units"] = units_a_device()
    return found


def hosts():
    trained = ngd.dynamics.train(NETWORK, *placed(), ngd.fisher.Exact(), 0.5, 2, 1e-3)
    params, x, y = problem()
    x[1] = x[0]
    params = ngd.networks.shard_parameters(MESH, NETWORK, params)
    try:
        ngd.dynamics.train(
            *(NETWORK, params, *ngd.networks.shard_samples(MESH, x, y), Broken(), 0.5, 2, 1e-12)
        )
    except SingularKernelError as error:
        broken = str(error)
    return {"devices": len(jax.devices()), "losses": trained.losses.tolist(), "broken": broken}


print(json.dumps({"eight": eight, "hosts": hosts}[sys.argv[1]]()), flush=True)

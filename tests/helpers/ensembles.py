"""An ensemble of 100 networks by vmap, and 6 dampings, for every approximation: run as a program of its own."""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import ngd_theory as ngd

MEMBERS = 100


def main(names):
    jax.config.update("jax_enable_x64", True)
    net = ngd.networks.mlp(10, [32, 32], 1, activation="tanh")
    x = jax.random.normal(jax.random.key(0), (24, 10))
    keys = jax.random.split(jax.random.key(1), MEMBERS)
    lin = jax.jit(ngd.networks.linearize, static_argnums=0)(net, net.init(keys[0]), x)
    dampings = jnp.logspace(-6, -1, 6)
    for name in names:
        approximation = ngd.fisher.by_name(name)

        def member(key, approximation=approximation):
            lin = ngd.networks.linearize(net, net.init(key), x)
            gradient = approximation.natural_gradient(lin, lin.outputs, 1e-3)
            return gradient[1]["weight"], approximation.function_space_map(lin, 1e-3)

        def damped(rho, approximation=approximation):
            return approximation.function_space_map(lin, rho)

        for function, arguments in ((member, keys), (damped, dampings)):
            together = jax.jit(jax.vmap(function))(arguments)
            alone = jax.jit(function)(arguments[3])
            for found, wanted in zip(
                jax.tree.leaves(together), jax.tree.leaves(alone), strict=True
            ):
                error = np.linalg.norm(found[3] - wanted) / np.linalg.norm(wanted)
                assert error < 1e-6, f"{name}: {error}"
        print(name, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

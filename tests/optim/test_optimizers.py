"""The optimisers of training studies."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ngd_theory import losses, networks
from ngd_theory.errors import InputError
from ngd_theory.optim.optimizers import build
from ngd_theory.optim.stepping import OptaxStepper


def test_nesterov_momentum_may_keep_an_average_of_its_iterates():
    network = networks.standard_parameterization(networks.mlp(3, [4], 1, "tanh", bias_std=1.0))
    params = network.init(jax.random.key(0))
    options = {"learning_rate": 0.05, "momentum": 0.5}
    plain = build("nag", network, losses.MSE, 0.01, options)
    optimizer = build("nag", network, losses.MSE, 0.01, {**options, "averaging": 0.6})
    states, expected = (plain.init(params), optimizer.init(params)), None
    x, y = jnp.arange(12.0).reshape(4, 3) / 10, jnp.ones((4, 1))
    for k in range(1, 6):
        grads = jax.grad(lambda p: losses.MSE.value(network.apply(p, x), y))(params)
        (updates, first), (same, second) = (
            o.update(grads, s, params, x=x, y=y)
            for o, s in zip((plain, optimizer), states, strict=True)
        )
        states = first, second
        jax.tree.map(np.testing.assert_array_equal, updates, same)
        params = optax.apply_updates(params, updates)
        keep = min(1 - 1 / k, 0.6)
        mean = params if expected is None else expected
        expected = jax.tree.map(lambda a, p, keep=keep: keep * a + (1 - keep) * p, mean, params)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), second.average, expected
        )
    stepper = OptaxStepper(network, losses.MSE, optimizer)
    assert stepper.measured_at(params, second) is second.average
    assert stepper.measured_at(params, first) is params
    with pytest.raises(InputError, match=r"averaging is 1\.0"):
        build("nag", network, losses.MSE, 0.0, {"learning_rate": 0.1, "averaging": 1.0})

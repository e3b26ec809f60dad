"""The ranks that constants are made of equal measured ranks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory as ngd


@pytest.mark.parametrize(
    ("activation", "bias_std", "hidden", "input_dim", "num_samples", "output_dim"),
    [
        ("tanh", 0.0, (12, 12), 4, 6, 1),
        ("tanh", 0.3, (12, 12), 4, 8, 2),
        ("identity", 0.0, (12, 3, 12), 4, 6, 1),
        ("identity", 0.3, (12, 12), 4, 8, 2),
        pytest.param(
            *("identity", 0.3, (12, 2, 12), 4, 8, 3),
        ),
        ("tanh", 0.0, (5, 30), 9, 8, 3),
        ("identity", 0.0, (), 3, 8, 2),
    ],
)
def test_predicted_ranks_are_measured(
    activation, bias_std, hidden, input_dim, num_samples, output_dim
):
    network = ngd.networks.mlp(input_dim, hidden, output_dim, activation, bias_std=bias_std)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(num_samples, input_dim)))
    lin = ngd.networks.linearize(network, network.init(jax.random.key(0)), x)
    for size, layer in zip(network.layer_sizes, lin.layers, strict=True):
        a = np.asarray(layer.inputs[:, 0])
        delta = np.asarray(layer.sensitivities).reshape(-1, size.num_units)
        assert a.shape[1] == size.num_inputs
        assert np.linalg.matrix_rank(a) == size.input_rank(num_samples)
        assert np.linalg.matrix_rank(delta) == size.sensitivity_rank(num_samples, output_dim)
        kernel = np.asarray(ngd.kernels.layer_kernel(layer))
        rank = np.linalg.matrix_rank(kernel, tol=1e-10 * np.trace(kernel))
        assert rank == size.jacobian_rank(num_samples, output_dim)

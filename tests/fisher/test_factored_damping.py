"""The ratio of two means, at the ends of the range and at zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ngd_theory.fisher.factored_damping import factored_damping


@pytest.mark.parametrize(("a", "b"), [(1e-30, 1e30), (1e30, 1e-30), (3e37, 2e37), (2e-37, 5e-37)])
def test_dampings_are_in_range_where_the_ratio_of_the_means_is_not(a, b):
    found = factored_damping(jnp.float32(a), jnp.float32(b), jnp.float32(0.1))
    np.testing.assert_allclose(found, [0.1 * (a / b) ** 0.5, 0.1 * (b / a) ** 0.5], rtol=1e-5)


@pytest.mark.parametrize(("a", "b"), [(0.0, 2.0), (2.0, 0.0), (0.0, 0.0)])
def test_of_a_mean_of_zero_the_damping_is_shared_evenly_and_the_derivatives_are_zero(a, b):
    for mode in (jax.jacfwd, jax.jacrev):
        assert mode(lambda m: factored_damping(*m, 0.1)[0])(jnp.array([a, b])).tolist() == [0, 0]
    assert [float(d) for d in factored_damping(jnp.array(a), jnp.array(b), 0.1)] == [0.1, 0.1]


def test_derivatives_equal_differences():
    means = jnp.array([0.3, 1.7])
    wanted = [
        0.05 / 0.3 * (0.3 / 1.7) ** 0.5,
        -0.05 / 1.7 * (0.3 / 1.7) ** 0.5,
    ]
    for mode in (jax.jacfwd, jax.jacrev):
        found = mode(lambda m: factored_damping(*m, 0.1)[0])(means)
        np.testing.assert_allclose(found, wanted, rtol=1e-12)

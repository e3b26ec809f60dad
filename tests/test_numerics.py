"""Against Python's fractions and extended precision, at the ends of the range."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ngd_theory.numerics import geometric_sum, norm, power, row_norms

ENDS = [1e-36, 1e-25, 1.0, 1e25, 1e38]


@pytest.mark.parametrize("scale", ENDS)
def test_norms_of_numbers_whose_squares_are_out_of_range(scale):
    x = jnp.array([[0.3, -0.4], [0.0, 0.0]], "float32") * jnp.float32(scale)
    np.testing.assert_allclose(np.asarray(row_norms(x), float) / scale, [0.5, 0], rtol=1e-6)
    tree = {"a": x, "b": jnp.zeros((0, 3), "float32"), "c": 4 * x[0, 0]}
    np.testing.assert_allclose(float(norm(tree)) / scale, math.hypot(0.5, 1.2), rtol=1e-6)
    for function in (norm, lambda x: row_norms(x).sum()):
        for mode in (jax.jacfwd, jax.jacrev):
            np.testing.assert_allclose(jax.jit(mode(function))(x), [[0.6, -0.8], [0, 0]], rtol=1e-6)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_norms_of_what_is_not_finite_are_not(bad):
    x = jnp.array([[1.0, bad], [1.0, 0.0]])
    assert not jnp.isfinite(norm(x))
    np.testing.assert_array_equal(jnp.isfinite(row_norms(x)), [False, True])


RATES = [-0.3, -1e-6, 0.0, 1e-12, 2e-4, 0.3, 0.5, 1.0, 1.7, 2.0, 2.3]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("t", [0, 1, 2, 7, 40])
def test_powers_and_geometric_sums_equal_exact_fractions(t, dtype):
    rates = jnp.asarray(RATES, dtype)
    terms = jnp.array(t)
    exact = [Fraction(float(r)) for r in rates]
    sums = [sum((1 - x) ** s for s in range(t)) for x in exact]
    slopes = [-sum(s * (1 - x) ** (s - 1) for s in range(1, t)) for x in exact]
    bends = [sum(s * (s - 1) * (1 - x) ** (s - 2) for s in range(2, t)) for x in exact]
    eps = float(jnp.finfo(rates.dtype).eps)
    found = geometric_sum(rates, terms)
    assert found.dtype == rates.dtype
    # Terms of alternating signs cancel: relative to their sizes.
    sizes = np.array([float(sum(abs(1 - x) ** s for s in range(t))) for x in exact])
    np.testing.assert_array_less(abs(found - np.array(sums, float)), 20 * eps * sizes + 1e-30)
    for mode in (jax.jacfwd, jax.jacrev):
        slope = jnp.diagonal(jax.jit(mode(lambda r: geometric_sum(r, terms)))(rates))
        for n in range(len(RATES)):
            wanted = float(slopes[n])
            assert abs(float(slope[n]) - wanted) <= 300 * eps * (1 + sizes[n] * t), RATES[n]
        bend = jax.jit(jax.vmap(mode(mode(lambda r: geometric_sum(r, terms)))))(rates)
        near = np.abs(RATES) * t < 0.1
        np.testing.assert_allclose(bend[near], np.array(bends, float)[near], rtol=1e3 * eps)
        base = jnp.asarray([0.0, -0.5, 1.5], dtype)
        by_base = jnp.diagonal(jax.jit(mode(lambda b: power(b, terms)))(base))
        np.testing.assert_allclose(
            by_base, [t * float(b) ** (t - 1) if t else 0.0 for b in base], rtol=20 * eps
        )
    np.testing.assert_allclose(
        power(jnp.asarray([0.0, -0.5, 1.5], dtype), terms),
        [0.0**t, (-0.5) ** t, 1.5**t],
        rtol=20 * eps,
    )

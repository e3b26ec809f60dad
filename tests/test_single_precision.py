"""float32 against float64, with tolerances that docs/how-to/precision.md repeats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import APPROXIMATIONS, BY_NAME, LARGE_LATER, problem

import ngd_theory as ngd
from ngd_theory.errors import InputError, SingularKernelError

CASE = BY_NAME["L3 C3 gelu bias"]
DAMPING = 1e-2
#: Relative errors of natural gradients and maps at damping 1e-2: 1e-7 times the condition number of the damped
#: matrices, for K-FAC's that of both factors.
TOLERANCES = dict.fromkeys(APPROXIMATIONS, 2e-4) | {"identity": 2e-6, "kfac-tridiagonal": 2e-3}


@pytest.fixture(scope="module")
def both():
    """The problem in float64 and float32."""
    p = problem(CASE)

    def at(dtype):
        params, x, y = jax.tree.map(lambda a: jnp.asarray(a, dtype), (p.params, p.x, p.targets))
        return ngd.networks.linearize(p.network, params, x), y

    return at("float64"), at("float32")


@pytest.mark.parametrize("name", LARGE_LATER)
def test_single_precision_is_within_its_tolerance(both, name):
    approximation = ngd.fisher.by_name(name)
    found = []
    # A GPU's TF32 products have 10 bits.
    with jax.default_matmul_precision("highest"):
        for lin, y in both:
            gradient = approximation.natural_gradient(lin, lin.outputs - y, DAMPING)
            k = approximation.function_space_map(lin, DAMPING)
            assert k.dtype == lin.outputs.dtype
            assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {lin.outputs.dtype}
            flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])
            found.append((flat, np.asarray(k)))
    for wide, narrow in zip(*found, strict=True):
        error = np.linalg.norm(narrow - wide) / np.linalg.norm(wide)
        assert error < TOLERANCES[name]
        # It is another number: nothing was computed in double precision.
        assert error > 1e-9


@pytest.mark.parametrize("name", APPROXIMATIONS)
@pytest.mark.parametrize("scale", [1e20, 1e25])
@pytest.mark.parametrize("n", [1, 5])
def test_squares_out_of_range_are_an_error_not_a_step_of_zero(name, scale, n):
    net = ngd.networks.mlp(3, (16,), 2, "relu", bias_std=0.1)
    params = jax.tree.map(lambda a: a.astype("float32"), net.init(jax.random.key(0)))
    x, v = (jax.random.normal(jax.random.key(s), (n, d), "float32") for s, d in ((1, 3), (2, 2)))
    lin = ngd.networks.linearize(net, params, x * jnp.float32(scale))
    approximation = ngd.fisher.by_name(name)
    if name == "identity":
        wanted = [np.asarray(leaf) for leaf in jax.tree.leaves(lin.vjp(v / n))]
        found = approximation.natural_gradient(lin, v, 1e-3)
        for one, other in zip(jax.tree.leaves(found), wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5)
        return
    for damping in (1e-3, 0.0):
        if name == "kfac-output" and outputs_in_range(lin):
            # It squares sensitivities only.
            wide = jax.tree.map(lambda leaf: leaf.astype("float64"), lin)
            wanted = approximation.natural_gradient(wide, v, damping)
            found = approximation.natural_gradient(lin, v, damping)
            for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
                scale = float(jnp.max(jnp.abs(other)))
                np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-3 * scale)
            continue
        with pytest.raises(SingularKernelError):
            approximation.natural_gradient(lin, v, damping)


def outputs_in_range(lin):
    """Whether the factors of all layers are numbers whose products are."""
    sizes = [
        float(jnp.max(jnp.abs(y.inputs))) * float(jnp.max(jnp.abs(y.sensitivities)))
        for y in lin.layers
    ]
    return max(sizes) < 1e30


def test_training_in_single_precision_follows_double():
    p = problem(CASE)

    def trained(dtype):
        params, x, y = jax.tree.map(lambda a: jnp.asarray(a, dtype), (p.params, p.x, p.targets))
        with jax.default_matmul_precision("highest"):
            found = ngd.dynamics.train(p.network, params, x, y, ngd.fisher.Exact(), 0.5, 3, DAMPING)
        assert found.outputs.dtype == dtype
        return np.asarray(found.outputs)

    wide, narrow = trained("float64"), trained("float32")
    assert np.linalg.norm(narrow - wide) < 2e-4 * np.linalg.norm(wide)


@pytest.mark.parametrize("damping", [1e39, np.float64(1e300), jnp.asarray(1e39)])
def test_a_damping_is_in_the_range_of_what_is_solved(damping):
    network = ngd.networks.mlp(3, [4], 2)
    params = network.init(jax.random.key(0), jnp.float32)
    x, y = jnp.ones((2, 3), jnp.float32), jnp.ones((2, 2))
    lin, exact = ngd.networks.linearize(network, params, x), ngd.fisher.Exact()
    predict, train = ngd.dynamics.predict, ngd.dynamics.train
    calls = [
        ("damping", lambda: exact.natural_gradient(lin, y, damping)),
        ("damping", lambda: exact.function_space_map(lin, damping)),
        ("damping", lambda: ngd.theory.check_conditions(exact, network, lin, damping)),
        ("damping", lambda: predict(exact, lin, y, 0.1, 1, damping)),
        ("step_size", lambda: predict(exact, lin, y, damping, 1, 0.1)),
        ("step_size", lambda: train(network, params, x, y, exact, damping, 1, 0.1)),
        ("targets", lambda: predict(exact, lin, damping * y, 0.1, 1, 0.1)),
        ("targets", lambda: train(network, params, x, damping * y, exact, 0.1, 1, 0.1)),
        ("cotangent", lambda: exact.natural_gradient(lin, damping * y, 0.1)),
    ]
    for name, call in calls:
        with pytest.raises(InputError, match=rf"{name}.* beyond float32, whose positive"):
            call()
    for step in (1e-60, 10**400):
        with pytest.raises(InputError, match="step_size is 1"):
            predict(exact, lin, y, step, 1, 0.1)
    # The limit, as a damping of 0.
    for tiny in (1e-60, 1e-40):
        assert jnp.array_equal(
            exact.function_space_map(lin, tiny), exact.function_space_map(lin, 0.0)
        )

"""Natural gradients and maps are differentiated in both modes, by parameters, inputs and damping.

The reference is a central difference of the function itself. Among the cases are those in which eigenvalues are equal
or zero: duplicated inputs, a readout of zeros, more samples than dimensions, the limit rho = 0.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import LARGE_LATER

import ngd_theory as ngd
from ngd_theory import fisher

NAMES = tuple(fisher.APPROXIMATIONS)


@pytest.fixture(autouse=True)
def strict():
    """The settings of careful users."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@dataclass(frozen=True)
class Case:
    """A problem at which derivatives are taken."""

    activation: str = "tanh"
    num_samples: int = 3
    input_dim: int = 4
    hidden: tuple[int, ...] = (6, 6)
    output_dim: int = 2
    damping: float = 1e-2
    duplicated: bool = False
    zero_readout: bool = False
    #: Steps of the difference: where a map is a projector, the function is stiff in small sensitivities.
    step: float = 1e-3
    convolution: bool = False

    def network(self):
        if self.convolution:
            return ngd.networks.cnn((4, 4, 1), [3], self.output_dim, activation="tanh")
        return ngd.networks.mlp(self.input_dim, self.hidden, self.output_dim, self.activation)


PLAIN = Case()
DUPLICATED = Case(duplicated=True)
ZERO_READOUT = Case(zero_readout=True)
TALL = Case(num_samples=6, input_dim=2, hidden=(4, 4))
RELU = Case("relu", output_dim=3)
LIMIT = Case(damping=0.0, output_dim=1, step=1e-4)
DUPLICATED_LIMIT = Case(damping=0.0, output_dim=1, duplicated=True, step=1e-4)


def function(case, approximation):
    """A number of the gradient and one of the map: along parameters, inputs and damping, zero at the point."""
    rng = np.random.default_rng(0)
    net = case.network()
    params = jax.jit(net.init)(jax.random.key(1))
    # Away from zero, so that no unit's sensitivities are small.
    params = (
        *params[:-1],
        {k: 0 * v if case.zero_readout else 1 + 0.1 * v for k, v in params[-1].items()},
    )
    x, x_test, along_x = rng.normal(size=(3, case.num_samples, *net.input_shape))
    if case.duplicated:
        x[1], along_x[1] = x[0], along_x[0]
    x, x_test, along_x = map(jnp.asarray, (x, x_test, along_x))
    along = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
    cotangent = jnp.asarray(rng.normal(size=(case.num_samples, case.output_dim)))
    weigh = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
    size = cotangent.size
    weights = jnp.asarray(rng.normal(size=(size, size)))

    def along_three(steps):
        moved = jax.tree.map(lambda p, d: p + steps[0] * d, params, along)
        # Known not to be zero: half the program to compile.
        rho = case.damping * (1 + steps[2])
        damping = fisher.Damping(rho, zero=False) if case.damping else 0.0
        lin = ngd.networks.linearize(net, moved, x + steps[1] * along_x)
        at = ngd.networks.linearize(net, moved, x_test)
        gradient = approximation.natural_gradient(lin, cotangent, damping)
        terms = jax.tree.map(lambda g, w: jnp.sum(g * w), gradient, weigh)
        k = approximation.function_space_map(lin, damping, at)
        return jnp.stack([sum(jax.tree.leaves(terms)), jnp.sum(k * weights)])

    return along_three


def differences(f, step):
    """(2, 3): of the fourth order in the step."""
    columns = []
    for direction in np.eye(3):
        v = [np.asarray(f(jnp.asarray(s * step * direction))) for s in (-2, -1, 1, 2)]
        columns.append((8 * (v[2] - v[1]) - (v[3] - v[0])) / (12 * step))
    return np.stack(columns, axis=1)


#: Forward mode goes along all three directions at once, reverse mode from both numbers at once: no vmap to compile.
ALONG, WEIGHTS = np.array([1.0, -0.7, 0.4]), np.array([1.0, 0.6])


def check(case, approximation, rtol=1e-5):
    f = function(case, approximation)

    @jax.jit
    def compiled(steps):
        value, forward = jax.jvp(f, (steps,), (jnp.asarray(ALONG),))
        return value, forward, jax.grad(lambda s: f(s) @ jnp.asarray(WEIGHTS))(steps)

    value, forward, reverse = map(np.asarray, compiled(jnp.zeros(3)))
    wanted = differences(lambda steps: compiled(steps)[0], case.step)
    assert np.isfinite(wanted).all() and np.abs(wanted[:, :2]).max() > 1e-3
    scale = np.abs(wanted) + np.abs(value)[:, None]
    # Not `error > rtol`: NaN is a failure.
    error = np.abs(forward - wanted @ ALONG)
    assert (error <= rtol * (scale @ np.abs(ALONG))).all(), f"forward: {forward}, {wanted @ ALONG}"
    error = np.abs(reverse - WEIGHTS @ wanted)
    assert (error <= rtol * (WEIGHTS @ scale)).all(), f"reverse: {reverse}, {WEIGHTS @ wanted}"


@pytest.mark.parametrize("name", LARGE_LATER)
def test_derivatives(name):
    check(PLAIN, fisher.by_name(name))


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_at_duplicated_inputs(name):
    check(DUPLICATED, fisher.by_name(name))


# A factor of zeros has no eigenvectors to hold, and EKFAC no derivative by them.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "ekfac"])
def test_derivatives_at_a_readout_of_zeros(name):
    # pi^2 = (tr A)/(tr B) of the factored damping has no limit where B is zero.
    split = name in ("kfac", "kfac-tridiagonal")
    equal = {"damping_split": "equal"} if split else {}
    check(ZERO_READOUT, fisher.by_name(name, **equal))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["block-tridiagonal", "kfac", "kfac-tridiagonal", "unit-wise"])
@pytest.mark.parametrize("case", [TALL, RELU], ids=["tall", "relu"])
def test_derivatives_on_the_other_side_of_the_solves(case, name):
    check(case, fisher.by_name(name))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "kfac-tridiagonal"])
@pytest.mark.parametrize("case", [LIMIT, DUPLICATED_LIMIT], ids=["distinct", "duplicated"])
def test_derivatives_of_the_limit(case, name):
    check(case, fisher.by_name(name), rtol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        LARGE_LATER[NAMES.index(n)]
        for n in ("exact", "block-tridiagonal", "kfac-tridiagonal", "entry-wise")
    ],
)
def test_derivatives_under_cross_entropy(name):
    check(PLAIN, fisher.by_name(name, kind=fisher.TrueFisher("cross-entropy")))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["block-diagonal", "kfac"])
def test_derivatives_with_sampled_targets(name):
    # More samples than outputs: the root of Lambda is made square.
    kind = fisher.SampledFisher(jax.random.key(3), "cross-entropy", num_samples=4)
    check(PLAIN, fisher.by_name(name, kind=kind))


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_derivatives_by_conjugate_gradients(loss):
    solver = fisher.ConjugateGradients(tolerance=1e-13, rank=2)
    check(PLAIN, fisher.by_name("exact", kind=fisher.TrueFisher(loss), solver=solver))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["exact", "kfac", "unit-wise"])
def test_derivatives_of_convolutions(name):
    check(Case(convolution=True, num_samples=2), fisher.by_name(name))


@pytest.mark.parametrize("name", ["exact", "block-diagonal", "block-tridiagonal", "unit-wise"])
def test_the_derivative_by_a_damping_of_zero_is_one_sided(name):
    net = LIMIT.network()
    params = jax.jit(net.init)(jax.random.key(1))
    params = (*params[:-1], {k: 1 + 0.1 * v for k, v in params[-1].items()})
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)))
    lin = jax.jit(ngd.networks.linearize, static_argnums=0)(net, params, x)
    approximation = fisher.by_name(name)

    @jax.jit
    def trace(rho):
        return jnp.trace(approximation.function_space_map(lin, rho))

    h = 1e-8
    values = [float(trace(k * h)) for k in (0.0, 1.0, 2.0)]
    wanted = (4 * values[1] - 3 * values[0] - values[2]) / (2 * h)
    for mode in (jax.jacfwd, jax.jacrev):
        assert abs(float(mode(trace)(0.0)) - wanted) < 1e-3 * abs(wanted)


@pytest.mark.slow
def test_block_tridiagonal_at_two_layers_has_the_derivatives_of_exact():
    # Sigma is all ones: the maps are one.
    case = Case(hidden=(6,))
    found, wanted = (
        np.asarray(jax.jit(jax.jacrev(function(case, fisher.by_name(name))))(jnp.zeros(3)))
        for name in ("block-tridiagonal", "exact")
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-8)


def test_predictions_have_derivatives_where_the_map_is_isotropic():
    rng = np.random.default_rng(0)
    k, q, f, t = (jnp.asarray(rng.normal(size=s)) for s in ((4, 4), (3, 4), (4, 1), (4, 1)))
    along = k + k.T
    test = jnp.asarray(rng.normal(size=(3, 1)))

    def total(s):
        map = 2 * jnp.eye(4) + s * along
        found = ngd.dynamics.predict_from_maps(map, f, t, 0.3, 5, q, test)
        return jnp.sum(found.test_outputs**2) + jnp.sum(found.losses)

    compiled = jax.jit(total)
    values = [float(compiled(s)) for s in (-2e-3, -1e-3, 1e-3, 2e-3)]
    wanted = (8 * (values[2] - values[1]) - (values[3] - values[0])) / 12e-3
    for mode in (jax.jacfwd, jax.jacrev):
        assert abs(float(jax.jit(mode(total))(0.0)) - wanted) < 1e-6 * abs(wanted)

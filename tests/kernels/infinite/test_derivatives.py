"""Derivatives of the kernels in both inputs against differences of kernels written in NumPy, of extended precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from limit_kernels import reference

from ngd_theory.kernels import infinite
from ngd_theory.networks import mlp

#: Step of the differences and the order of its error, which `differences` takes out: the first at ReLU's angles of 0.
STEPS = {"relu": (1e-4, 1)}
SMOOTH = (4e-3, 2)
X = np.array([0.6, -0.8, 0.3])
OTHER = np.array([-0.2, 0.9, 0.5])
PAIRS = {
    "general": (X, OTHER),
    "equal": (X, X),
    "parallel": (X, 2 * X),
    "opposite": (X, -X),
    "zero rows": (0 * X, OTHER),
    "zero columns": (X, 0 * X),
    "zeros": (0 * X, 0 * X),
    # The covariance does not move along the first axis.
    "zero rows, columns with a zero": (0 * X, np.array([0.0, 1.0, -0.5])),
}
LINES = ("equal", "parallel", "opposite")


def differences(function, x, y, step, order):
    """Derivatives by x, by y and by both, (2, P, 3), (2, P, 3), (2, P, 3, 3)."""
    e = np.eye(3, dtype=np.longdouble)
    x, y = (v[:, None, None, :].astype(np.longdouble) for v in (x, y))
    rows, columns = e[:, None, :], e[None, :, :]

    def at(h):
        left = (function(x + h * rows, y) - function(x - h * rows, y))[..., 0] / (2 * h)
        right = (function(x, y + h * columns) - function(x, y - h * columns))[..., 0, :] / (2 * h)
        corners = [
            s * t * function(x + s * h * rows, y + t * h * columns)
            for s in (1, -1)
            for t in (1, -1)
        ]
        return left, right, sum(corners) / (4 * h * h)

    h, factor = np.longdouble(step), 2**order
    both = zip(at(h / 2), at(h), strict=True)
    return [((factor * half - whole) / (factor - 1)).astype(float) for half, whole in both]


def kernels(activation, depth, bias_std):
    net = mlp(3, [4] * (depth - 1), 1, activation, 2**0.5, bias_std)
    return [lambda x, y, k=k: k(net, x[None], y[None])[0, 0] for k in (infinite.nngp, infinite.ntk)]


def compare(found, wanted):
    """``found`` of NNGP and of NTK, each a list of arrays with the pairs first."""
    for kind, results in enumerate(found):
        for one, correct in zip(results, wanted, strict=True):
            np.testing.assert_allclose(one, correct[kind], atol=2e-6, rtol=2e-6)


def expected(activation, depth, bias_std):
    """The differences, NaN where the kernel has no derivative."""
    x, y = (np.stack(side) for side in zip(*PAIRS.values(), strict=True))
    steps = STEPS.get(activation, SMOOTH)
    found = differences(lambda a, b: reference(activation, depth, bias_std, a, b), x, y, *steps)
    if activation == "relu":
        left, right, mixed = found
        names = list(PAIRS)
        if bias_std:
            mixed[1, [names.index("equal"), names.index("zeros")]] = np.nan
        else:
            rows = [n for n, name in enumerate(names) if "zero rows" in name]
            columns = [names.index("zero columns")]
            left[:, rows], right[:, columns] = np.nan, np.nan
            mixed[:, [*rows, *columns, names.index("zeros")]] = np.nan
            mixed[1, [names.index(name) for name in LINES]] = np.nan
    return x, y, found


CASES = [("relu", 0.0), ("relu", 0.3), ("erf", 0.0), ("erf", 0.3), ("tanh", 0.0), ("gelu", 0.3)]


@pytest.mark.parametrize(("activation", "bias_std"), [*CASES, ("identity", 0.3)])
def test_first_and_mixed_derivatives_equal_differences(activation, bias_std):
    x, y, wanted = expected(activation, 3, bias_std)

    def derivatives(f, x, y):
        return f(x, y), *jax.grad(f, (0, 1))(x, y), jax.jacfwd(jax.grad(f), 1)(x, y)

    functions = kernels(activation, 3, bias_std)
    found = jax.jit(jax.vmap(lambda x, y: [derivatives(f, x, y) for f in functions]))(x, y)
    values = reference(activation, 3, bias_std, x, y).astype(float)
    np.testing.assert_allclose(np.stack([f[0] for f in found]), values, atol=1e-9)
    compare([f[1:] for f in found], wanted)


MODES = {
    "forward": lambda f: (jax.jacfwd(f), jax.jacfwd(f, 1), jax.jacfwd(jax.jacfwd(f), 1)),
    "reverse": lambda f: (jax.jacrev(f), jax.jacrev(f, 1), jax.jacrev(jax.jacrev(f), 1)),
    "reverse of forward": lambda f: (jax.jacfwd(f), jax.jacrev(f, 1), jax.jacrev(jax.jacfwd(f), 1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_all_modes_agree_with_differences(activation, mode):
    x, y, wanted = expected(activation, 2, 0.0)
    functions = [MODES[mode](f) for f in kernels(activation, 2, 0.0)]
    compare(jax.jit(jax.vmap(lambda x, y: [[d(x, y) for d in f] for f in functions]))(x, y), wanted)


def test_a_gram_matrix_is_smooth_on_its_diagonal_and_a_zero_sample_spoils_no_other():
    # Samples 0 and 1 are equal, sample 3 is zero.
    x = jnp.stack([X, X, OTHER, 0 * X])
    net = mlp(3, [4], 1, "relu", 2**0.5, 0.0)

    def gram(x):
        return infinite.ntk(net, x)

    # Theta(x, x) = 2 |x|^2 * 2/3 at depth 2: its Hessian is there though ReLU has a kink.
    np.testing.assert_allclose(jnp.diagonal(gram(x)), 4 / 3 * (x**2).sum(1), rtol=1e-12)
    first = {mode.__name__: jax.jit(mode(gram))(x) for mode in (jax.jacfwd, jax.jacrev)}
    second = jax.jit(jax.jacfwd(jax.jacrev(lambda x: jnp.diagonal(gram(x)))))(x[1:3])
    for n in range(2):
        np.testing.assert_allclose(second[n, n, :, n], 8 / 3 * np.eye(3), atol=1e-12)
    for n in range(4):
        for found in first.values():
            np.testing.assert_allclose(found[n, n, n], 8 / 3 * x[n], atol=1e-12)
            # Only Theta(0, x_n) by the zero sample itself has no derivative.
            undefined = np.zeros((4, 4, 4, 3), bool)
            undefined[3, :3, 3], undefined[:3, 3, 3] = True, True
            np.testing.assert_array_equal(np.isnan(found), undefined)


def test_on_a_line_relu_kernels_without_biases_have_all_derivatives():
    net = mlp(1, [4], 1, "relu", 1.0, 0.0)
    f = lambda x, y: infinite.ntk(net, x[None, None], y[None, None])[0, 0]  # noqa: E731
    mixed = jax.jit(jax.vmap(jax.jacfwd(jax.jacrev(f), 1)))(
        jnp.array([2.0, 2.0, 2.0]), jnp.array([2.0, 0.5, -1])
    )
    # Theta = x x' for equal signs and 0 for others.
    np.testing.assert_allclose(mixed, [1, 1, 0], atol=1e-12)

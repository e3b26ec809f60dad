"""The two solvers of coupled layers against one dense system, and which of them is taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense import layer_jacobians

import ngd_theory as ngd
from ngd_theory.fisher import as_damping, coupled, coupled_solvers, tridiagonal_coupling

N = 12


def kernels(depth, smallest=1.0, dtype=np.float64):
    """Positive definite kernels with eigenvalues from ``smallest`` to 4."""
    rng = np.random.default_rng(depth)
    bases = [np.linalg.qr(rng.normal(size=(N, N)))[0] for _ in range(depth)]
    return [((q * np.geomspace(smallest, 4, N)) @ q.T).astype(dtype) for q in bases]


def dense(coupling, thetas, rho):
    """``(Sigma (x) I) blockdiag(Theta_l) + rho`` in float64."""
    blocks = np.zeros((len(thetas) * N,) * 2)
    for i, theta in enumerate(thetas):
        blocks[i * N : (i + 1) * N, i * N : (i + 1) * N] = theta
    return np.kron(coupling, np.eye(N)) @ blocks + rho * np.eye(len(blocks))


def pivots(coupling, thetas, rho):
    order = coupled_solvers.pivot_order(coupling)
    return coupled_solvers.Pivots.of_kernels(
        coupling, [jnp.asarray(t) for t in thetas], jnp.asarray(rho, thetas[0].dtype), order
    )


@pytest.mark.parametrize("depth", [3, 4, 6, 7])
def test_pivots_have_the_signs_of_the_couplings_eigenvalues(depth):
    sigma = tridiagonal_coupling(depth)
    signs = [sign for _, sign in coupled_solvers.pivot_order(sigma)]
    assert sorted(signs) == sorted(np.sign(np.linalg.eigvalsh(sigma)))


@pytest.mark.parametrize(
    "coupling", [*map(tridiagonal_coupling, (2, 5, 8)), np.ones((3, 3)), np.eye(2)[::-1]], ids=len
)
def test_a_coupling_that_needs_exchanges_has_no_order(coupling):
    assert coupled_solvers.pivot_order(coupling) is None


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rho", [1e-6, 1e-2, 0.3])
@pytest.mark.parametrize("depth", [3, 4, 6, 7])
def test_pivots_solve_the_dense_system_and_its_transpose(depth, rho, dtype):
    sigma, thetas = tridiagonal_coupling(depth), kernels(depth, dtype=dtype)
    rhs = np.random.default_rng(0).normal(size=(depth, N, 3)).astype(dtype)
    system = dense(sigma, thetas, rho)
    solver = pivots(sigma, thetas, rho)
    assert solver.sound
    for found, matrix in ((solver.solve, system), (solver.solve_transposed, system.T)):
        expected = np.linalg.solve(matrix, rhs.reshape(-1, 3)).reshape(rhs.shape)
        error = np.abs(np.stack(found(list(jnp.asarray(rhs)))) - expected).max()
        assert error < 300 * np.finfo(dtype).eps * np.abs(expected).max()


@pytest.mark.parametrize(
    "what", ["singular kernel", "damping beside kernels", "large damping", "NaN", "zero kernel"]
)
def test_where_pivots_would_lose_digits_they_are_not_taken(what, monkeypatch):
    sigma, thetas, rho = tridiagonal_coupling(3), kernels(3), 1e-3
    if what == "singular kernel":
        thetas = kernels(3, smallest=1e-13)
    if what == "damping beside kernels":
        # The pivot 1 - 2 theta / (theta + rho) of the second layer is zero.
        thetas, rho = [np.eye(N)] * 3, 1.0
    if what == "large damping":
        rho = 100.0
    if what == "NaN":
        thetas[1][0, 0] = np.nan
    if what == "zero kernel":
        thetas[2] = np.zeros((N, N))
    assert not pivots(sigma, thetas, rho).sound
    monkeypatch.setattr(coupled_solvers, "PIVOTED", 1)
    cotangents = np.random.default_rng(1).normal(size=(N, 2))
    found = np.concatenate(
        coupled.coupled_solve(
            sigma, [jnp.asarray(t) for t in thetas], jnp.asarray(cotangents), as_damping(rho)
        )
    )
    if what == "NaN":
        assert np.isnan(found).all()
        return
    system = dense(sigma, thetas, rho)
    residual = np.abs(system @ found - np.tile(cotangents, (3, 1))).max()
    assert residual < 1e-9 * max(1, np.abs(system).max() * np.abs(found).max())


def test_each_of_a_batch_of_dampings_takes_its_own_solver(monkeypatch):
    monkeypatch.setattr(coupled_solvers, "PIVOTED", 1)
    sigma, thetas = tridiagonal_coupling(3), [jnp.asarray(t) for t in kernels(3)]
    cotangents = jnp.ones((N, 1))

    def solve(rho):
        return jnp.concatenate(coupled.coupled_solve(sigma, thetas, cotangents, as_damping(rho)))

    dampings = jnp.asarray([1e-3, 1.0, 50.0])
    for rho, found in zip(dampings, jax.vmap(solve)(dampings), strict=True):
        expected = np.linalg.solve(dense(sigma, thetas, float(rho)), np.ones((3 * N, 1)))
        np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("rho", [1e-5, 0.5])
def test_large_block_tridiagonal_systems_equal_the_definition(rho):
    """N C = 66: by pivots with the damping that is small beside the kernels, by eigenvalues with the other."""
    net = ngd.networks.mlp(40, [48, 48], 3, "tanh", bias_std=0.3)
    params = net.init(jax.random.key(0))
    x, v = (jax.random.normal(jax.random.key(s), (22, d)) for s, d in ((1, 40), (2, 3)))
    lin = ngd.networks.linearize(net, params, x)
    approximation = ngd.fisher.BlockTridiagonal()
    assert lin.outputs.size >= coupled_solvers.PIVOTED
    thetas = [np.asarray(ngd.kernels.layer_kernel(y)) / len(x) for y in lin.layers]
    assert bool(pivots(tridiagonal_coupling(3), thetas, rho).sound) == (rho < 0.1)
    jacobians = layer_jacobians(net, params, x)
    jacobian = np.hstack(jacobians)
    fisher = jacobian.T @ jacobian / len(x)
    edges = np.cumsum([0, *(j.shape[1] for j in jacobians)])
    fisher[edges[0] : edges[1], edges[2] :] = 0
    fisher[edges[2] :, edges[0] : edges[1]] = 0
    gradient = jacobian.T @ np.asarray(v).ravel() / len(x)
    expected = np.linalg.solve(fisher + rho * np.eye(len(fisher)), gradient)
    found = approximation.natural_gradient(lin, v, rho)
    image = jax.jvp(lambda p: net.apply(p, x), (params,), (found,))[1]
    np.testing.assert_allclose(np.ravel(image), jacobian @ expected, rtol=1e-8, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("rho", [1e-3, 1.0])
@pytest.mark.parametrize("mode", ["forward", "reverse", "forward over reverse"])
def test_derivatives_do_not_depend_on_the_solver(mode, rho, monkeypatch):
    sigma, thetas = tridiagonal_coupling(4), [jnp.asarray(t) for t in kernels(4)]
    change = jnp.asarray(np.random.default_rng(2).normal(size=(N, N)))
    cotangents = jnp.asarray(np.random.default_rng(3).normal(size=(N, 2)))

    def value(t):
        moved = [theta + t[i] * (change + change.T) for i, theta in enumerate(thetas)]
        found = coupled.coupled_solve(sigma, moved, cotangents * (1 + t[4]), as_damping(rho + t[5]))
        return sum(jnp.sum(jnp.sin(w)) for w in found)

    derivative = {
        "forward": jax.jacfwd(value),
        "reverse": jax.grad(value),
        "forward over reverse": jax.hessian(value),
    }[mode]
    found = {}
    for size in (1, 1000):
        monkeypatch.setattr(coupled_solvers, "PIVOTED", size)
        found[size] = derivative(jnp.zeros(6))
    np.testing.assert_allclose(found[1], found[1000], rtol=1e-8, atol=1e-9)

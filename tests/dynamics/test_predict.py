"""Function-space predictions: the closed form is the recursion, at every t."""

import inspect
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import APPROXIMATIONS, BY_NAME, Case, problem, relative_error
from dense import softmax_fisher
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

import ngd_theory as ngd
from ngd_theory.arguments import checked
from ngd_theory.errors import InputError, SingularKernelError

CASE = BY_NAME["L3 C3 gelu bias"]
STEPS = 12


def maps(name, damping, p):
    """K and Q of the package; tests/fisher/ compares them with the dense ones."""
    approximation = ngd.fisher.by_name(name)
    k = approximation.function_space_map(p.lin, damping)
    return np.asarray(k), np.asarray(approximation.function_space_map(p.lin, damping, p.at))


def iterate(k, q, f, f_test, y, step_size, num_steps):
    """``f <- f - eta K (f - y)``, one step after the other."""
    f, f_test, y = (np.asarray(v, float).ravel() for v in (f, f_test, y))
    train, test = [f], [f_test]
    for _ in range(num_steps):
        f, f_test = f - step_size * k @ (f - y), f_test - step_size * q @ (f - y)
        train.append(f)
        test.append(f_test)
    return np.stack(train), np.stack(test)


# eta times the largest eigenvalue of K: contracting, one step to zero, sign-flipping, diverging.
@pytest.mark.parametrize("rate", [0.5, 1.0, 1.7, 2.3])
@pytest.mark.parametrize("damping", [0.0, 1e-3, 0.3])
@pytest.mark.parametrize("name", APPROXIMATIONS)
def test_closed_form_is_the_recursion_at_every_step(name, damping, rate):
    p = problem(CASE)
    k, q = maps(name, damping, p)
    step_size = rate / np.abs(np.linalg.eigvalsh((k + k.T) / 2)).max()
    train, test = iterate(k, q, p.lin.outputs, p.at.outputs, p.targets, step_size, STEPS)
    found = ngd.dynamics.predict(
        ngd.fisher.by_name(name), p.lin, p.targets, step_size, STEPS, damping, at=p.at
    )
    for t in range(STEPS + 1):
        assert relative_error(found.outputs[t].ravel(), train[t]) < 1e-8, t
        assert relative_error(found.test_outputs[t].ravel(), test[t]) < 1e-8, t
    squares = np.sum((train - np.asarray(p.targets).ravel()) ** 2, axis=1)
    expected = squares / (2 * CASE.num_samples)
    # Losses near 0 are rounding.
    np.testing.assert_allclose(found.losses, expected, rtol=1e-7, atol=1e-14 * expected[0])
    assert not found.diverged
    assert found.num_steps == STEPS


def test_a_predictor_right_at_the_first_step_only_is_caught():
    p = problem(CASE)
    k, q = maps("exact", 0.3, p)
    step_size = 0.5 / np.linalg.eigvalsh(k).max()
    _, test = iterate(k, q, p.lin.outputs, p.at.outputs, p.targets, step_size, 3)
    f, change = np.asarray(p.at.outputs).ravel(), q @ np.asarray(p.residual).ravel()
    # -t eta Q r_0 in place of -Q (sum of powers) r_0.
    naive = [f - t * step_size * change for t in range(4)]
    assert relative_error(naive[1], test[1]) < 1e-10
    assert relative_error(naive[3], test[3]) > 0.01


def test_damped_exact_residual_decays_with_the_spectral_filter():
    # r_t = (I - eta Theta (Theta + rho)^-1)^t r_0, from the dense Theta.
    p = problem(CASE)
    rho, step_size = 0.05, 0.7
    j = p.dense.jacobian
    theta = j @ j.T / CASE.num_samples
    factor = np.eye(len(theta)) - step_size * np.linalg.solve(
        theta + rho * np.eye(len(theta)), theta
    )
    found = ngd.dynamics.predict(ngd.fisher.Exact(), p.lin, p.targets, step_size, 9, rho)
    for t in range(10):
        expected = np.linalg.matrix_power(factor, t) @ np.asarray(p.residual).ravel()
        assert relative_error((found.outputs[t] - p.targets).ravel(), expected) < 1e-9


def test_isotropic_loss_falls_as_the_square_of_one_minus_eta_alpha():
    p = problem(Case("L3 tanh wide", 8, (40, 40), 1, "tanh", 5, bias_std=0.3))
    for name in ("exact", "block-diagonal", "block-tridiagonal", "kfac"):
        approximation = ngd.fisher.by_name(name)
        best = ngd.theory.optimal_step_size(approximation, p.network, 5)
        for rate in (0.5, 1.5, 2.5):
            found = ngd.dynamics.predict(approximation, p.lin, p.targets, rate * best, 5, 0.0)
            expected = (1 - rate) ** (2 * np.arange(6)) * float(found.losses[0])
            np.testing.assert_allclose(found.losses, expected, rtol=1e-5)


def test_gradient_descent_reaches_kernel_regression_and_stays_there():
    p = problem(CASE)
    theta, cross = maps("identity", 0.0, p)
    eigenvalues = np.linalg.eigvalsh(theta)
    step_size = 1.0 / eigenvalues[-1]
    steps = 100_000
    found = ngd.dynamics.predict(
        ngd.fisher.Identity(), p.lin, p.targets, step_size, steps, 0.0, at=p.at
    )
    assert np.all(np.isfinite(found.outputs))
    assert np.all(np.diff(np.asarray(found.losses)) <= 1e-15)
    left = (1 - step_size * eigenvalues[0]) ** steps
    limit = np.asarray(p.at.outputs).ravel() - cross @ np.linalg.solve(
        theta, np.asarray(p.residual).ravel()
    )
    assert relative_error(found.test_outputs[-1].ravel(), limit) < 1e-8 + 100 * left


def test_a_direction_of_the_kernels_null_space_never_moves():
    # Depth 1, N > M_0: eigenvalues of Theta that are zero, or just below it by round-off.
    p = problem(BY_NAME["L1 C1 bias, N>M0"])
    found = ngd.dynamics.predict(ngd.fisher.Identity(), p.lin, p.targets, 0.5, 20_000, 0.0, at=p.at)
    assert np.all(np.isfinite(found.test_outputs))
    j = p.dense.jacobian
    left = np.asarray(p.residual).ravel()
    left = left - j @ np.linalg.lstsq(j, left, rcond=None)[0]
    assert relative_error((found.outputs[-1] - p.targets).ravel(), left) < 1e-7


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.one_of(st.floats(0, 1e-3), st.floats(1e-3, 3.0), st.sampled_from([0.0, 1.0, 2.0])),
        min_size=3,
        max_size=3,
    ),
    st.integers(0, 2**32 - 1),
)
def test_prediction_from_maps_is_the_recursion_for_any_spectrum(eigenvalues, seed):
    rng = np.random.default_rng(seed)
    u, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    k = u @ np.diag(eigenvalues) @ u.T
    k = (k + k.T) / 2
    q = rng.normal(size=(2, 3)) @ k  # as every Q, it has the null space of K
    f, y, f_test = (jnp.asarray(rng.normal(size=(n, 1))) for n in (3, 3, 2))
    train, test = iterate(k, q, f, f_test, y, 1.0, 8)
    found = ngd.dynamics.predict_from_maps(jnp.asarray(k), f, y, 1.0, 8, jnp.asarray(q), f_test)
    np.testing.assert_allclose(found.outputs.reshape(9, 3), train, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.test_outputs.reshape(9, 2), test, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["exact", "block-diagonal", "kfac", "entry-wise"])
def test_cross_entropy_prediction_is_the_dense_simulation(name):
    p = problem(Case("L3 C3 tanh bias", 6, (8, 9), 3, "tanh", 4, bias_std=0.3))
    step_size, rho, steps = 0.3, 1e-2, 4
    y = np.eye(3)[[0, 1, 2, 0]]
    f, f_test = np.asarray(p.lin.outputs), np.asarray(p.at.outputs)
    expected = [(f, f_test)]
    for _ in range(steps):
        # Lambda at the current outputs, J at the first.
        dense = p.dense.with_output_fisher(softmax_fisher(f))
        residual = (special.softmax(f, axis=1) - y).ravel()
        moved = dense.solution(name, rho) @ residual
        f = f - step_size * (p.dense.jacobian @ moved).reshape(f.shape)
        f_test = f_test - step_size * (p.jacobian_at @ moved).reshape(f_test.shape)
        expected.append((f, f_test))
    approximation = ngd.fisher.by_name(name, kind=ngd.fisher.TrueFisher("cross-entropy"))
    found = ngd.dynamics.predict(
        approximation, p.lin, jnp.asarray(y), step_size, steps, rho, at=p.at, loss="cross-entropy"
    )
    for t, (f, f_test) in enumerate(expected):
        assert relative_error(found.outputs[t], f) < 1e-8
        assert relative_error(found.test_outputs[t], f_test) < 1e-8
        loss = -np.mean(np.sum(y * special.log_softmax(f, axis=1), axis=1))
        assert float(found.losses[t]) == pytest.approx(loss, rel=1e-8)
    without = ngd.dynamics.predict(
        approximation, p.lin, jnp.asarray(y), step_size, steps, rho, loss="cross-entropy"
    )
    assert without.test_outputs is None
    np.testing.assert_allclose(without.outputs, found.outputs, atol=1e-12)


def test_no_step_is_the_initial_outputs():
    p = problem(CASE)
    found = ngd.dynamics.predict(ngd.fisher.Exact(), p.lin, p.targets, 1.0, 0, 0.0, at=p.at)
    assert found.num_steps == 0
    np.testing.assert_allclose(found.outputs[0], p.lin.outputs, atol=1e-13)
    np.testing.assert_allclose(found.test_outputs[0], p.at.outputs, atol=1e-13)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"targets": jnp.zeros((4, 2))}, r"targets have shape \(4, 2\); the outputs have \(4, 3\)"),
        (
            {"targets": jnp.zeros((4, 3)).at[2, 1].set(jnp.nan)},
            r"targets has a NaN or infinity at index \(2, 1\)",
        ),
        ({"step_size": 0.0}, "step_size is 0.0; it must be one positive, finite number"),
        ({"step_size": -0.5}, "step_size is -0.5"),
        ({"step_size": float("nan")}, "step_size is nan"),
        ({"num_steps": -1}, "num_steps is -1; it must be a whole number of at least 0"),
        ({"damping": -1e-3}, "damping is -0.001; it must be one finite number >= 0"),
        ({"loss": "hinge"}, "unknown loss 'hinge'"),
        (
            {"loss": "cross-entropy", "targets": jnp.eye(3)[jnp.arange(4) % 3] - 1 / 3},
            "row 0 of the targets is .*; it must be a distribution",
        ),
        (
            {"loss": "sigmoid-cross-entropy", "targets": jnp.full((4, 3), -1.0)},
            "numbers from 0 to 1",
        ),
        ({"damping": jnp.asarray(jnp.nan)}, "damping is nan"),
    ],
)
def test_bad_arguments_are_named(changed, message):
    p = problem(CASE)
    arguments = {"targets": p.targets, "step_size": 0.5, "num_steps": 2, "damping": 0.0, **changed}
    with pytest.raises(InputError, match=message):
        ngd.dynamics.predict(ngd.fisher.Exact(), p.lin, **arguments)


def test_a_prediction_can_be_traced_by_its_numbers():
    p = problem(CASE)

    @jax.jit
    def last(targets, step_size, damping):
        found = ngd.dynamics.predict(ngd.fisher.Exact(), p.lin, targets, step_size, 3, damping)
        return found.outputs[-1]

    expected = ngd.dynamics.predict(ngd.fisher.Exact(), p.lin, p.targets, 0.4, 3, 0.1).outputs[-1]
    assert relative_error(last(p.targets, 0.4, 0.1), expected) < 1e-12


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_a_solve_that_breaks_down_is_an_error_not_a_trajectory_of_nan(loss):
    p = problem(CASE)

    @ngd.fisher.approximation
    @dataclass(frozen=True)
    class Broken(ngd.fisher.Approximation):
        name = "broken"

        def precondition(self, lin, cotangent, damping):
            return lin.vjp(cotangent / 0)

    targets = jnp.eye(3)[jnp.arange(4) % 3]
    with pytest.raises(
        SingularKernelError, match=r"broken: the .* is not finite with damping 0\.1"
    ):
        ngd.dynamics.predict(Broken(), p.lin, targets, 0.1, 2, 0.1, loss=loss)


def test_a_simulation_looks_at_all_its_steps_and_at_the_test_outputs():
    # Looked at were the first two steps on the training set.
    p = problem(CASE)
    targets = jnp.eye(3)[jnp.arange(4) % 3]

    @ngd.fisher.approximation
    @dataclass(frozen=True)
    class Late(ngd.fisher.Approximation):
        name = "late"
        farthest: float

        def precondition(self, lin, cotangent, damping):
            far = jnp.max(jnp.abs(lin.outputs - p.lin.outputs)) > self.farthest
            return lin.vjp(jnp.where(far, jnp.nan, cotangent))

    def simulate(farthest, step_size=1e-3, at=None):
        return ngd.dynamics.predict(
            Late(farthest), p.lin, targets, step_size, 9, 0.1, at, "cross-entropy"
        )

    path = np.asarray(simulate(1e9).outputs)
    farthest = 1.5 * np.abs(path[2] - path[0]).max()
    with pytest.raises(SingularKernelError, match="late: the natural gradient is not finite"):
        simulate(farthest)
    at = replace(p.at, outputs=p.at.outputs.at[0, 0].set(jnp.nan))
    with pytest.raises(InputError, match=r"at.outputs has a NaN or infinity at index \(0, 0\)"):
        simulate(1e9, at=at)
    # Divergence is no solve's fault.
    assert not np.isfinite(simulate(np.inf, 1e308).outputs).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": jnp.eye(5)}, r"k has shape \(5, 5\); outputs of these numbers need \(12, 12\)"),
        ({"k": jnp.eye(12).at[0, 1].set(jnp.nan)}, r"k has a NaN or infinity at index \(0, 1\)"),
        ({"q": jnp.eye(12)}, "q and test_outputs belong together"),
        ({"q": jnp.ones((3, 9)), "test_outputs": jnp.ones((1, 3))}, r"q has shape .* \(3, 12\)"),
    ],
)
def test_maps_that_do_not_fit_the_outputs_are_refused(change, message):
    p = problem(CASE)
    arguments = {"k": jnp.eye(12), "outputs": p.lin.outputs, "targets": p.targets}
    with pytest.raises(InputError, match=message):
        checked(inspect.unwrap(ngd.dynamics.predict_from_maps))(
            **{**arguments, "step_size": 0.1, "num_steps": 1, **change}
        )


def test_single_precision_keeps_slow_modes_and_tiny_displacements():
    # One step along Q is exactly eta q r, however small eta lambda is; 1 - (1 - x) would have lost three digits.
    k, q = jnp.diag(jnp.array([2e-4, 1e-6, 1.0], "float32")), jnp.ones((1, 3), "float32")
    start, zero = jnp.ones((3, 1), "float32"), jnp.zeros((1, 1), "float32")
    path = ngd.dynamics.predict_from_maps(
        k, start, 0 * start, 1.0, 2, q=q, test_outputs=zero
    ).test_outputs.ravel()
    np.testing.assert_allclose(path, [0, -3, -3 - (1 - 2e-4) - (1 - 1e-6)], rtol=3e-7)


def test_distances_of_displacements_whose_squares_underflow():
    net = ngd.networks.mlp(3, [4], 2)
    x = jax.random.normal(jax.random.key(0), (4, 3), "float32")
    lin = ngd.networks.linearize(net, net.init(jax.random.key(1), "float32"), x)
    targets = jax.nn.one_hot(jnp.arange(4) % 2, 2, dtype="float32")
    found = [
        ngd.dynamics.predict(
            ngd.fisher.Identity(), lin, targets, step, 1, 1.0, loss="cross-entropy"
        ).parameter_distances[1]
        for step in (1.0, 1e-25)
    ]
    np.testing.assert_allclose(found[1] * jnp.float32(1e25), found[0], rtol=1e-5)


@pytest.mark.parametrize("num_steps", [10**12, 2**31, 10**30, 10**400])
def test_more_steps_than_memory_has_room_for_are_refused(num_steps):
    p = problem(CASE)
    exact, k = ngd.fisher.Exact(), jnp.eye(p.targets.size)
    soft = ngd.fisher.Exact(ngd.fisher.TrueFisher("cross-entropy"))
    shares = jnp.full_like(p.targets, 1 / p.targets.shape[1])
    common = (p.targets, 0.1, num_steps)
    calls = (
        lambda: ngd.dynamics.predict(exact, p.lin, *common, 0.1, at=p.at),
        lambda: ngd.dynamics.predict(
            soft, p.lin, shares, 0.1, num_steps, 0.1, None, "cross-entropy"
        ),
        lambda: ngd.dynamics.predict_from_maps(k, p.lin.outputs, *common),
        lambda: ngd.dynamics.predict_limit(exact, p.network, p.x, p.lin.outputs, *common, 0.1),
        lambda: ngd.dynamics.train(p.network, p.params, p.x, p.targets, exact, 0.1, num_steps, 0.1),
    )
    for call in calls:
        with pytest.raises(
            InputError, match=r"num_steps is .*; there is memory for the outputs of"
        ):
            call()


def test_the_outputs_of_all_steps_are_counted(monkeypatch):
    p = problem(CASE)
    bytes_of_a_step = 2 * 8 * (p.lin.outputs.size + p.at.outputs.size)
    memory = "ngd_theory.dynamics.checks.available_memory"
    monkeypatch.setattr(memory, lambda: 4 * bytes_of_a_step)
    predict = lambda steps: ngd.dynamics.predict(  # noqa: E731
        ngd.fisher.Exact(), p.lin, p.targets, 0.1, steps, 0.1, at=p.at
    )
    assert predict(3).num_steps == 3
    with pytest.raises(InputError, match=r"num_steps is 4; there is memory for the outputs of 3"):
        predict(4)
    monkeypatch.setattr(memory, lambda: None)
    assert predict(4).num_steps == 4

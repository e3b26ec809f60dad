"""Training of the real network against its prediction."""

import inspect
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import APPROXIMATIONS, BY_NAME, Case, problem, relative_error
from dense import flatten

import ngd_theory as ngd
from ngd_theory.arguments import checked
from ngd_theory.errors import InputError, SingularKernelError

ISOTROPIC = ("exact", "block-diagonal", "block-tridiagonal", "kfac", "unit-wise")
linearize = jax.jit(ngd.networks.linearize, static_argnums=0)


def make(width, num_samples=8, input_dim=16, depth=3, seed=0):
    rng = np.random.default_rng(seed)
    network = ngd.networks.mlp(input_dim, [width] * (depth - 1), 1)
    params = jax.jit(network.init)(jax.random.key(seed))
    x, x_test = (jnp.asarray(rng.normal(size=(n, input_dim))) for n in (num_samples, 5))
    y = jnp.asarray(rng.choice([-0.5, 0.5], size=(num_samples, 1)))
    return network, params, x, y, x_test


@pytest.mark.parametrize("name", APPROXIMATIONS)
@pytest.mark.parametrize("case", ["L1 C3, N<M0", "L1 C1 bias, N>M0"])
def test_a_linear_model_trains_exactly_as_predicted(case, name):
    p = problem(BY_NAME[case])
    approximation = ngd.fisher.by_name(name)
    arguments = approximation, 0.3, 6, 1e-3
    trained = ngd.dynamics.train(p.network, p.params, p.x, p.targets, *arguments, p.x_test)
    predicted = ngd.dynamics.predict(approximation, p.lin, p.targets, *arguments[1:], at=p.at)
    assert relative_error(trained.outputs, predicted.outputs) < 1e-9
    assert relative_error(trained.test_outputs, predicted.test_outputs) < 1e-9
    np.testing.assert_allclose(trained.losses, predicted.losses, rtol=1e-8, atol=1e-12)


def test_a_linear_model_trains_exactly_as_predicted_under_cross_entropy():
    p = problem(BY_NAME["L1 C3, N<M0"])
    approximation = ngd.fisher.Exact(ngd.fisher.TrueFisher("cross-entropy"))
    y = jnp.eye(3)[jnp.asarray([0, 1, 2, 0])]
    trained = ngd.dynamics.train(
        p.network, p.params, p.x, y, approximation, 0.3, 4, 1e-2, p.x_test, loss="cross-entropy"
    )
    predicted = ngd.dynamics.predict(
        approximation, p.lin, y, 0.3, 4, 1e-2, at=p.at, loss="cross-entropy"
    )
    assert relative_error(trained.outputs, predicted.outputs) < 1e-9
    assert relative_error(trained.test_outputs, predicted.test_outputs) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", ISOTROPIC)
def test_training_follows_the_prediction_more_closely_as_the_width_grows(name):
    approximation = ngd.fisher.by_name(name)
    gaps = []
    for width in (128, 1024):
        found = []
        for seed in range(1 if name == "unit-wise" and width == 1024 else 3):
            network, params, x, y, _ = make(width, seed=seed)
            step_size = ngd.theory.optimal_step_size(approximation, network, len(x))
            damping = approximation.matched_damping(1e-8)
            arguments = approximation, step_size, 3, damping
            trained = ngd.dynamics.train(network, params, x, y, *arguments)
            predicted = ngd.dynamics.predict(
                approximation, linearize(network, params, x), y, *arguments[1:]
            )
            gap = jnp.linalg.norm((trained.outputs - predicted.outputs)[..., 0], axis=1).max()
            found.append(float(gap / jnp.linalg.norm(trained.outputs[0] - y)))
        gaps.append(np.mean(found))
    # O(1/sqrt(M)): a factor 2.8.
    assert gaps[1] < gaps[0] / 2
    assert gaps[1] < 0.2


@pytest.mark.slow
def test_half_the_optimal_step_halves_the_residual_of_a_wide_network():
    network, params, x, y, _ = make(2048)
    step_size = 0.5 * ngd.theory.optimal_step_size(ngd.fisher.Exact(), network, len(x))
    found = ngd.dynamics.train(network, params, x, y, ngd.fisher.Exact(), step_size, 4, 1e-8)
    norms = np.linalg.norm(np.asarray(found.outputs - y)[..., 0], axis=1)
    np.testing.assert_allclose(norms[1:] / norms[:-1], 0.5, rtol=0.02)


@pytest.mark.slow
def test_isotropic_methods_share_the_training_curve_and_each_has_its_own_test_outputs():
    # Targets a hair from f_0 keep the network where it was linearised, so that what separates the
    # methods is their Q and not the width.
    network, params, x, y, x_test = make(64)
    lin, at = linearize(network, params, x), linearize(network, params, x_test)
    y = lin.outputs + 1e-6 * y
    trained, predicted = {}, {}
    for name in (*ISOTROPIC[:-1], "entry-wise", "identity"):
        approximation = ngd.fisher.by_name(name)
        k = approximation.function_space_map(lin, 0.0)
        step_size = 0.7 / float(jnp.linalg.eigvalsh((k + k.T) / 2)[-1])
        arguments = approximation, step_size, 5, 0.0
        trained[name] = ngd.dynamics.train(network, params, x, y, *arguments, x_test)
        predicted[name] = ngd.dynamics.predict(approximation, lin, y, *arguments[1:], at=at)

    def moved(trajectory):
        return np.asarray(trajectory.test_outputs[-1] - at.outputs).ravel()

    curves = [np.asarray(trained[name].losses) for name in ISOTROPIC[:-1]]
    for curve in curves:
        np.testing.assert_allclose(curve / curve[0], 0.3 ** (2 * np.arange(6)), rtol=1e-3)
    for name, one in trained.items():
        for other, prediction in predicted.items():
            error = relative_error(moved(one), moved(prediction))
            if name == other:
                assert error < 1e-4, name
            else:
                assert error > 0.02, (name, other)
    slow = np.asarray(trained["identity"].losses)
    assert slow[-1] / slow[0] > 0.05


def test_parameters_move_along_the_natural_gradient_and_the_given_ones_stay():
    p = problem(BY_NAME["L3 C3 gelu bias"])
    before = flatten(p.params).copy()
    found = ngd.dynamics.train(p.network, p.params, p.x, p.targets, ngd.fisher.KFAC(), 0.1, 1, 1e-2)
    np.testing.assert_array_equal(flatten(p.params), before)
    step = 0.1 * p.dense.solution("kfac", 1e-2) @ np.asarray(p.residual).ravel()
    assert relative_error(flatten(found.params), before - step) < 1e-10
    assert float(found.parameter_distances[0]) == 0
    assert float(found.parameter_distances[1]) == pytest.approx(np.linalg.norm(step))


def test_every_step_linearises_again():
    p = problem(BY_NAME["L3 C3 gelu bias"])
    arguments = ngd.fisher.Exact(), 0.5
    two = ngd.dynamics.train(p.network, p.params, p.x, p.targets, *arguments, 2, 1e-2)
    one = ngd.dynamics.train(p.network, p.params, p.x, p.targets, *arguments, 1, 1e-2)
    again = ngd.dynamics.train(p.network, one.params, p.x, p.targets, *arguments, 1, 1e-2)
    assert relative_error(two.outputs[-1], again.outputs[-1]) < 1e-10
    frozen = ngd.dynamics.predict(ngd.fisher.Exact(), p.lin, p.targets, 0.5, 2, 1e-2)
    assert relative_error(two.outputs[-1], frozen.outputs[-1]) > 1e-3


def test_progress_is_reported_at_every_step():
    p = problem(BY_NAME["L1 C3, N<M0"])
    seen = []
    found = ngd.dynamics.train(
        *(p.network, p.params, p.x, p.targets, ngd.fisher.Exact(), 0.5, 3, 0.0),
        on_step=lambda step, loss: seen.append((step, loss)),
    )
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    np.testing.assert_array_equal([loss for _, loss in seen], found.losses)
    assert found.test_outputs is None
    assert not found.diverged


def test_divergence_stops_training_and_keeps_what_was_seen():
    p = problem(BY_NAME["L1 C3, N<M0"])
    # eta alpha = 5: the loss grows by 16 a step, past 1e8 at step 7.
    found = ngd.dynamics.train(
        p.network, p.params, p.x, p.targets, ngd.fisher.Exact(), 5.0, 50, 0.0
    )
    assert found.diverged
    assert found.num_steps == 7
    ratios = np.asarray(found.losses[1:] / found.losses[:-1])
    np.testing.assert_allclose(ratios, 16, rtol=1e-6)
    # The parameters are those that showed it.
    assert relative_error(p.network.apply(found.params, p.x), found.outputs[-1]) < 1e-12
    # The prediction goes on.
    predicted = ngd.dynamics.predict(ngd.fisher.Exact(), p.lin, p.targets, 5.0, 50, 0.0)
    np.testing.assert_allclose(predicted.losses[:8], found.losses, rtol=1e-6)


def test_overflow_of_a_real_network_is_a_divergence():
    p = problem(BY_NAME["L5 C1 relu bias"])
    found = ngd.dynamics.train(
        p.network, p.params, p.x, p.targets, ngd.fisher.Identity(), 1e80, 50, 0.0
    )
    assert found.diverged
    assert found.num_steps < 50
    assert np.all(np.isfinite(found.outputs[0]))


@ngd.fisher.approximation
@dataclass(frozen=True)
class Broken(ngd.fisher.BlockDiagonal):
    """A solve that breaks down: when one does depends on the LAPACK at hand."""

    name = "broken"

    def precondition(self, lin, cotangent, damping):
        return jax.tree.map(lambda g: g * jnp.nan, lin.vjp(cotangent))


def test_a_broken_solve_is_a_named_error_that_says_why():
    p = problem(BY_NAME["L1 C3, N<M0"])
    x = p.x.at[2].set(p.x[0])
    with pytest.raises(SingularKernelError) as error:
        ngd.dynamics.train(p.network, p.params, x, p.targets, Broken(), 0.5, 2, 1e-8)
    message = str(error.value)
    assert "broken: the natural gradient is not finite at step 0 with damping 1e-08" in message
    assert "inputs 0 and 2 are equal" in message
    assert "smallest eigenvalue of Theta_1" in message
    assert "Raise the damping" in message


@ngd.fisher.approximation
@dataclass(frozen=True)
class BrokenLater(ngd.fisher.BlockDiagonal):
    """A solve that breaks down once all outputs are small."""

    name = "broken later"
    below: float = 0.0

    def precondition(self, lin, cotangent, damping):
        near = jnp.max(jnp.abs(lin.outputs)) < self.below
        return jax.tree.map(lambda g: jnp.where(near, jnp.nan, g), lin.vjp(cotangent))

    def breakdown(self, lin, cotangent, damping):
        return f"largest output {float(jnp.max(jnp.abs(lin.outputs))):.12f}"


def test_what_breaks_down_later_is_explained_at_the_parameters_of_its_step():
    p = problem(BY_NAME["L1 C3, N<M0"])
    targets = jnp.zeros_like(p.targets)
    sound = ngd.dynamics.train(
        p.network, p.params, p.x, targets, ngd.fisher.Identity(), 0.1, 6, 0.0
    )
    largest, step = np.abs(sound.outputs).max((1, 2)), 3
    assert np.all(np.diff(largest) < 0)
    # `BrokenLater` leaves out the 1/N of the gradient.
    broken = BrokenLater(below=float(largest[2:4].mean()))
    arguments = broken, 0.1 / len(p.x), 6, 1e-8
    told = []
    with pytest.raises(SingularKernelError) as error:
        ngd.dynamics.train(
            *(p.network, p.params, p.x, targets, *arguments), on_step=lambda *a: told.append(a)
        )
    assert f"not finite at step {step} " in str(error.value)
    assert f"largest output {largest[step]:.9f}" in str(error.value)
    assert [number for number, _ in told] == list(range(step + 1))
    np.testing.assert_allclose([loss for _, loss in told], sound.losses[: step + 1], rtol=1e-9)


def test_a_loss_that_is_infinite_at_once_is_a_divergence():
    p = problem(BY_NAME["L1 C3, N<M0"])
    found = ngd.dynamics.train(
        p.network, p.params, p.x, p.targets * 1e200, ngd.fisher.Identity(), 0.1, 5, 0.0
    )
    assert found.diverged and found.num_steps == 0
    assert relative_error(p.network.apply(found.params, p.x), found.outputs[0]) < 1e-12


def unchecked(function):
    """Without the annotations checked: users do not have the import hook."""
    return checked(inspect.unwrap(function))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {"x": p.x[:, :3]}, r"inputs have shape \(4, 3\); this network takes \(N, 5\)"),
        (lambda p: {"x": p.x.at[1, 2].set(jnp.inf)}, r"x has a NaN or infinity at index \(1, 2\)"),
        (lambda p: {"y": p.targets[:3]}, r"targets have shape \(3, 3\); the outputs have \(4, 3\)"),
        (lambda p: {"y": p.targets[:, 0]}, r"targets have shape \(4,\)"),
        (
            lambda p: {"y": p.targets.at[0, 0].set(jnp.nan)},
            r"targets has a NaN or infinity at index \(0, 0\)",
        ),
        (lambda p: {"x_test": p.x[:, :2]}, r"inputs have shape \(4, 2\)"),
        (lambda p: {"x_test": p.x.at[0, 0].set(jnp.nan)}, "x_test has a NaN"),
        (lambda p: {"step_size": 0.0}, "step_size is 0.0"),
        (lambda p: {"num_steps": 1.5}, "num_steps is 1.5; it must be a whole number"),
        (lambda p: {"num_steps": -2}, "num_steps is -2"),
        (lambda p: {"damping": -1.0}, "damping is -1.0; it must be one finite number >= 0"),
        (
            lambda p: {"loss": "zero-one"},
            "unknown loss 'zero-one'; choose one of: mse, cross-entropy",
        ),
        (lambda p: {"params": p.params + p.params}, "parameters of 2 layers for a network of 1"),
        (
            lambda p: {"params": jax.tree.map(lambda w: w.at[0, 1].set(jnp.nan), p.params)},
            r"params\[0\]\['weight'\] has a NaN or infinity at index \(0, 1\)",
        ),
        (lambda p: {"x": p.x.astype(int)}, "x is an array of int64"),
        (
            lambda p: {"y": p.targets + 1j},
            "y is an array of complex128|targets are an array of com",
        ),
        (lambda p: {"damping": jnp.asarray(-1.0)}, "damping is -1.0; it must be one finite"),
        (lambda p: {"damping": None}, "damping is None; it must be a number"),
        (lambda p: {"step_size": "1"}, "step_size is '1'; it must be a number"),
        (lambda p: {"approximation": "exact"}, "approximation is 'exact'; it must be of type Appr"),
        (
            # What data.load gives unless asked for one-hot targets: losses below zero.
            lambda p: {"loss": "cross-entropy", "y": jnp.eye(3)[jnp.arange(4) % 3] - 1 / 3},
            r"row 0 of the targets is \[ 0.667 -0.333 -0.333\]; it must be a distribution",
        ),
        (
            lambda p: {"loss": "sigmoid-cross-entropy", "y": jnp.full((4, 3), 1.5)},
            "row 0 of the targets is .*; it must be numbers from 0 to 1",
        ),
    ],
)
def test_bad_arguments_are_named(change, message):
    p = problem(BY_NAME["L1 C3, N<M0"])
    arguments = {
        "network": p.network,
        "params": p.params,
        "x": p.x,
        "y": p.targets,
        "approximation": ngd.fisher.Exact(),
        "step_size": 0.5,
        "num_steps": 2,
        "damping": 0.0,
        **change(p),
    }
    with pytest.raises(InputError, match=message):
        unchecked(ngd.dynamics.train)(**arguments)


def test_a_deep_network_with_singular_coupling_trains_at_damping_zero():
    case = Case("L2 tanh", 8, (64,), 1, "tanh", 5)
    p = problem(case)
    found = ngd.dynamics.train(
        p.network, p.params, p.x, p.lin.outputs + 0.01, ngd.fisher.BlockTridiagonal(), 1.0, 2, 0.0
    )
    assert float(found.losses[1] / found.losses[0]) < 1e-2


@pytest.mark.parametrize("name", ["exact", "kfac", "unit-wise"])
def test_a_run_compiles_its_step_once(name, caplog):
    net = ngd.networks.mlp(3, [7], 1)
    x, y = jnp.sin(jnp.arange(21.0)).reshape(7, 3), jnp.ones((7, 1))
    params = net.init(jax.random.key(3))
    approximation = ngd.fisher.by_name(name)

    def programs(*schedule):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level("WARNING"):
            ngd.dynamics.train(net, params, x, y, approximation, *schedule)
        return sum("Finished XLA compilation of jit(_step)" in m for m in caplog.messages)

    assert programs(0.01, 4, 1e-2) == 1
    # Neither more steps nor other numbers make another.
    assert programs(0.02, 6, 1e-3) == 0

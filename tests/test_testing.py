from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import ngd_theory as ngd
from ngd_theory import testing
from ngd_theory.dynamics import Trajectory
from ngd_theory.errors import InputError
from ngd_theory.pytrees import pytree


def trajectory(rate, steps=5):
    residuals = rate ** jnp.arange(steps + 1)
    return Trajectory(jnp.zeros((steps + 1, 1, 1)), None, residuals**2 / 2)


def frame(exponent, noise=0.05, seeds=6):
    rng = np.random.default_rng(0)
    rows = [
        {"seed": s, "width": w, "step": t, "gap": t * w**exponent * np.exp(noise * rng.normal())}
        for s in range(seeds)
        for w in (64, 256, 1024)
        for t in (0, 1)
    ]
    return pd.DataFrame(rows)


def test_a_multiple_of_the_identity_is_isotropic():
    testing.assert_isotropic(3 * jnp.eye(4))
    testing.assert_isotropic(jnp.diag(jnp.array([1.0, 1.1])), dispersion=0.1)


def test_a_spectrum_is_not_isotropic():
    with pytest.raises(
        AssertionError, match=r"(?s)measured dispersion: 0.5.*at most: +1e-06.*1 to 3"
    ):
        testing.assert_isotropic(jnp.diag(jnp.array([1.0, 3.0])))


@pytest.mark.parametrize(
    "check", [testing.assert_isotropic, partial(testing.assert_isotropy_constant, expected=1)]
)
def test_a_map_that_is_not_finite_is_named(check):
    with pytest.raises(AssertionError, match=r"NaN or infinity at \(0, 1\), 1 of them: .*damping"):
        check(jnp.array([[1.0, jnp.nan], [0.0, 1.0]]))


def test_the_isotropy_constant_is_compared_relatively():
    testing.assert_isotropy_constant(41.01 * jnp.eye(3), 41.0)
    with pytest.raises(AssertionError, match=r"(?s)measured: 42\n.*expected: 41 within 0.001"):
        testing.assert_isotropy_constant(42.0 * jnp.eye(3), 41.0)


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.2])
def test_the_convergence_rate_is_the_residuals(rate):
    testing.assert_convergence_rate(trajectory(rate), rate, tolerance=1e-6)
    with pytest.raises(AssertionError, match=r"(?s)measured: .*expected: .*\|\|r_t\|\|"):
        testing.assert_convergence_rate(trajectory(rate), rate + 0.1)


def test_a_gap_that_shrinks_fast_enough_passes():
    testing.assert_gap_shrinks(frame(-0.6), -0.5)


@pytest.mark.parametrize("exponent", [-0.4, 0.0])
def test_a_gap_that_shrinks_too_slowly_fails_with_the_interval(exponent):
    with pytest.raises(AssertionError, match=r"(?s)FAIL.*measured exponent: .*\[.*at most:  -0.5"):
        testing.assert_gap_shrinks(frame(exponent), -0.5)


def test_a_gap_that_too_few_seeds_measure_fails_as_inconclusive():
    with pytest.raises(AssertionError, match="INCONCLUSIVE"):
        testing.assert_gap_shrinks(frame(-0.6, seeds=2), -0.5)


def test_a_frame_of_something_else_is_refused():
    with pytest.raises(InputError, match="lacks the columns gap"):
        testing.assert_gap_shrinks(frame(-0.5).drop(columns="gap"), -0.5)
    two = pd.concat([frame(-0.6).assign(approximation=name) for name in ("exact", "kfac")])
    with pytest.raises(InputError, match="several approximations"):
        testing.assert_gap_shrinks(two, -0.5)


REFUSED = {
    "rectangular": (jnp.ones((2, 3)), "square"),
    "a vector": (jnp.ones(4), "square"),
    "empty": (jnp.ones((0, 0)), "one row at least"),
    "complex": (jnp.eye(3) * (1 + 0j), "real"),
    "truth values": (jnp.eye(3, dtype=bool), "real"),
    "a list": ([[1.0]], "not an array"),
    "nothing": (None, "not an array"),
    "a text": ("kfac", "not an array"),
}
FAILING = {
    "negative": (-np.diag(np.arange(1, 7.0)), "trace -21"),
    "zero": (np.zeros((3, 3)), "trace 0"),
    "traceless": (np.diag([1.0, -1.0]), "trace 0"),
    "infinite": (np.diag([1.0, np.inf]), r"infinity at \(1, 1\)"),
}
CHECKS = (testing.assert_isotropic, partial(testing.assert_isotropy_constant, expected=1.0))


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("case", [*REFUSED, *FAILING])
def test_what_is_no_map_or_contracts_nothing_passes_no_assertion(check, case):
    map_, words = (REFUSED | FAILING)[case]
    with pytest.raises(InputError if case in REFUSED else AssertionError, match=words):
        check(map_)


def test_maps_of_numpy_and_of_whole_numbers_are_maps():
    for map_ in (3 * np.eye(4), 3 * np.eye(4, dtype=np.float32), 3 * np.eye(4, dtype=int)):
        testing.assert_isotropic(map_)
        testing.assert_isotropy_constant(map_, 3.0)


NO_NUMBERS = [float("nan"), float("inf"), -1.0]


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_tolerances_and_expectations_are_numbers(value):
    rate = partial(testing.assert_convergence_rate, trajectory(0.5))
    calls = {
        "dispersion": lambda: testing.assert_isotropic(jnp.eye(2), dispersion=value),
        "rtol": lambda: testing.assert_isotropy_constant(jnp.eye(2), 1.0, rtol=value),
        "expected": lambda: testing.assert_isotropy_constant(jnp.eye(2), value),
        "expected ": lambda: rate(value),
        "tolerance": lambda: rate(0.5, tolerance=value),
        "floor": lambda: rate(0.5, floor=value),
    }
    for name, call in calls.items():
        with pytest.raises(InputError, match=f"{name.strip()} is {value}"):
            call()
    if not np.isfinite(value):
        with pytest.raises(InputError, match=f"exponent is {value}"):
            testing.assert_gap_shrinks(frame(-0.6), value)


@pytest.mark.parametrize("value", ["1", None, True, [1.0], 1j])
def test_numbers_of_another_type_are_refused(value):
    for call in (
        lambda: testing.assert_isotropic(jnp.eye(2), dispersion=value),
        lambda: testing.assert_isotropy_constant(jnp.eye(2), value),
        lambda: testing.assert_convergence_rate(trajectory(0.5), value),
        lambda: testing.assert_gap_shrinks(frame(-0.6), value),
    ):
        with pytest.raises(InputError, match="a number"):
            call()


def with_losses(losses):
    return Trajectory(jnp.zeros((1, 1, 1)), None, jnp.asarray(losses))


@pytest.mark.parametrize(
    ("losses", "error", "words"),
    [
        ([], InputError, "two floating ones"),
        ([1.0], InputError, "two floating ones"),
        ([[1.0, 0.5]], InputError, "two floating ones"),
        ([4, 2], InputError, "two floating ones"),
        ([1.0, -0.5], InputError, "not negative"),
        ([0.0, 0.0], InputError, "above zero"),
        ([1.0, float("nan"), 0.1], AssertionError, "nan at step 1"),
        ([1.0, 0.25, float("inf")], AssertionError, "inf at step 2"),
    ],
)
def test_losses_without_a_rate_pass_no_assertion(losses, error, words):
    with pytest.raises(error, match=words):
        testing.assert_convergence_rate(with_losses(losses), 0.5)


def test_a_rate_is_of_a_trajectory():
    with pytest.raises(InputError, match=r"trajectory is .*dynamics.train"):
        testing.assert_convergence_rate(jnp.ones(3), 0.5)


def test_rows_without_numbers_do_not_drop_out_of_a_gap():
    whole = frame(-0.6)
    with pytest.raises(InputError, match="no rows"):
        testing.assert_gap_shrinks(whole[:0], -0.5)
    with pytest.raises(InputError, match=r"pandas\.DataFrame"):
        testing.assert_gap_shrinks([1.0], -0.5)
    with pytest.raises(InputError, match="not numbers"):
        testing.assert_gap_shrinks(whole.assign(gap="0.5"), -0.5)
    with pytest.raises(InputError, match="lacks one of"):
        testing.assert_gap_shrinks(
            whole.assign(width=whole["width"].where(whole["seed"] > 0)), -0.5
        )
    for value, words in (
        (np.nan, "NaN in 18 rows"),
        (np.inf, "INCONCLUSIVE"),
        (0.0, "INCONCLUSIVE"),
    ):
        broken = whole.assign(gap=whole["gap"].where(whole["step"] == 0, value))
        with pytest.raises(AssertionError, match=words):
            testing.assert_gap_shrinks(broken, -0.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_map_as_large_as_its_type_holds_is_isotropic(dtype):
    large = dtype(0.9) * np.finfo(dtype).max
    testing.assert_isotropic(large * np.eye(4, dtype=dtype))
    testing.assert_isotropy_constant(large * np.eye(4, dtype=dtype), float(large))


FRAMES = {
    "over the column": (
        lambda f: f,
        {"over": "gap"},
        "they must be two columns, neither of them seed",
    ),
    "over seeds": (lambda f: f, {"over": "seed"}, "they must be two columns"),
    "seeds as the column": (lambda f: f, {"column": "seed"}, "they must be two columns"),
    "over cells": (lambda f: f.assign(cell=1), {"over": "cell"}, "neither of them cell or seed"),
    "two gaps": (lambda f: pd.concat([f, f[["gap"]]], axis=1), {}, "more than one column 'gap'"),
    "two seeds": (lambda f: pd.concat([f, f[["seed"]]], axis=1), {}, "more than one column 'seed'"),
    "seeds in lists": (lambda f: f.assign(seed=[[s] for s in f["seed"]]), {}, "'seed' has lists"),
    "truth values": (lambda f: f.assign(gap=f["gap"] > 0), {}, "entries of type bool, not numbers"),
    "a missing approximation": (
        *(lambda f: f.assign(approximation=[None, *["exact"] * (len(f) - 1)]), {}),
        "a row of the frame lacks one of approximation",
    ),
}


@pytest.mark.parametrize("case", FRAMES)
def test_columns_that_say_nothing_of_a_gap_are_refused(case):
    change, options, words = FRAMES[case]
    testing.assert_gap_shrinks(frame(-1).assign(approximation="exact", cell=0), -0.5)
    with pytest.raises(InputError, match=words):
        testing.assert_gap_shrinks(change(frame(-1)), -0.5, **options)


# --- limits of the lazy family -------------------------------------------------------------------


@pytree()
@dataclass(frozen=True)
class Wrong(ngd.fisher.BlockDiagonal):
    """A map that is 1 % larger than what its natural gradients do."""

    name = "wrong"

    def preconditioned_map(self, lin, damping, at):
        return 1.01 * super().preconditioned_map(lin, damping, at)


@pytest.fixture(scope="module")
def smooth():
    """Arguments of `ngd_theory.dynamics.train` up to the approximation, and those after it."""
    net = ngd.networks.mlp(10, [48, 48], 1, "tanh")
    params, x = net.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (6, 10))
    y = jax.random.normal(jax.random.key(2), (6, 1))
    return (net, params, x, y), (0.5 / 3, 3, 1e-8, x[:2] + 0.1)


def test_the_limit_and_the_order_of_a_right_map_hold(smooth):
    first, last = smooth
    testing.assert_limit(*first, ngd.fisher.BlockDiagonal(), *last)
    testing.assert_lazy_order(*first, ngd.fisher.BlockDiagonal(), *last)
    testing.assert_lazy_order(*first, ngd.fisher.BlockDiagonal(), *last, order=1, tolerance=0.02)


def test_those_of_a_wrong_map_do_not(smooth):
    first, last = smooth
    with pytest.raises(
        AssertionError,
        match=r"(?s)prediction of wrong at epsilon = 1e-06\n"
        r"  first off: +step 1 on the training set\n.*measured gap: +0.00[45].*at most: 0.0001",
    ):
        testing.assert_limit(*first, Wrong(), *last)
    with pytest.raises(
        AssertionError, match=r"(?s)prediction of wrong.*measured order.*least: 1 less 0.25.*gaps"
    ):
        testing.assert_lazy_order(*first, Wrong(), *last)
    testing.assert_limit(*first, Wrong(), *last, tolerance=0.02)


def test_the_network_as_it_is_is_not_in_the_limit(smooth):
    first, last = smooth
    with pytest.raises(AssertionError, match="at epsilon = 1\n"):
        testing.assert_limit(*first, ngd.fisher.BlockDiagonal(), *last, laziness=1.0)


def test_a_run_that_is_broken_off_is_not_in_the_limit(smooth):
    (net, params, x, y), (_, _, damping, _) = smooth
    how = (net, params, x, y, ngd.fisher.BlockDiagonal(), 50.0, 30, damping)
    with pytest.raises(AssertionError, match=r"gap: +inf"):
        testing.assert_limit(*how, tolerance=1e300)
    with pytest.raises(AssertionError, match="does not vanish"):
        testing.assert_lazy_order(*how)


@pytest.mark.slow
def test_a_kink_is_asked_for_half_an_order_and_another_loss_for_its_own_limit():
    net = ngd.networks.mlp(10, [48, 48], 2)
    params, x = net.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (6, 10))
    y = jnp.eye(2)[jnp.arange(6) % 2]
    exact = ngd.fisher.Exact(kind=ngd.fisher.TrueFisher("cross-entropy"))
    how = (net, params, x, y, exact, 0.2, 3, 1e-2, None, "cross-entropy")
    testing.assert_limit(*how)
    testing.assert_lazy_order(*how)
    with pytest.raises(AssertionError, match="least: 3 less"):
        testing.assert_lazy_order(*how, order=3)


@pytest.mark.parametrize(
    "check, wrong, words",
    [
        (testing.assert_limit, {"tolerance": np.nan}, "tolerance is nan"),
        (testing.assert_limit, {"laziness": 2.0}, "laziness is 2"),
        (testing.assert_lazy_order, {"laziness": (0.1, 0.1)}, "two different epsilons"),
        (testing.assert_lazy_order, {"order": -1.0}, "order is -1"),
        (testing.assert_lazy_order, {"tolerance": np.inf}, "tolerance is inf"),
    ],
)
def test_numbers_that_say_nothing_are_refused(smooth, check, wrong, words):
    first, last = smooth
    with pytest.raises(InputError, match=words):
        check(*first, ngd.fisher.Exact(), *last, **wrong)


def test_a_limit_without_a_step_shows_nothing(smooth):
    first, (step_size, _, *rest) = smooth
    for check in (testing.assert_limit, testing.assert_lazy_order):
        with pytest.raises(InputError, match="without a step"):
            check(*first, ngd.fisher.Exact(), step_size, 0, *rest)

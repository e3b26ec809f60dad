from functools import partial

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from ngd_theory import testing
from ngd_theory.dynamics import Trajectory
from ngd_theory.errors import InputError


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

"""Assertions for the tests of other projects: the message shows what was measured and what was expected."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ngd_theory.dynamics import Trajectory
from ngd_theory.errors import InputError
from ngd_theory.sweeps.statistics import Outcome, Rule, contraction_rate, judge, power_law
from ngd_theory.theory import isotropy


def assert_isotropic(map: Any, *, dispersion: float = 1e-6) -> None:
    """Assert that a function-space map is a multiple of the identity.

    Parameters
    ----------
    map : (NC, NC) array
    dispersion : float
        Largest ``||K - alpha I||_F / (alpha sqrt(NC))`` allowed.
    """
    __tracebackhide__ = True
    _assert_finite(map)
    found = isotropy(map)
    measured = float(found.dispersion)
    if not measured <= dispersion:
        raise AssertionError(
            f"the map is not isotropic\n  measured dispersion: {measured:.6g}\n"
            f"  expected at most:    {dispersion:.6g}\n  eigenvalues:         "
            f"{float(found.min_eigenvalue):.6g} to {float(found.max_eigenvalue):.6g}"
        )


def assert_isotropy_constant(map: Any, expected: float, *, rtol: float = 1e-3) -> None:
    """Assert that ``tr K/(NC)`` is ``expected`` to a relative ``rtol``.

    Parameters
    ----------
    map : (NC, NC) array
    expected : float
        alpha, for example from `ngd_theory.theory.isotropy_constant`.
    rtol : float
    """
    __tracebackhide__ = True
    _assert_finite(map)
    measured = float(isotropy(map).constant)
    if not abs(measured - expected) <= rtol * abs(expected):
        raise AssertionError(
            f"the isotropy constant is off\n  measured: {measured:.8g}\n"
            f"  expected: {expected:.8g} within {rtol:.3g} of it"
        )


def _assert_finite(map) -> None:
    __tracebackhide__ = True
    if not jnp.isfinite(map).all():
        where = np.argwhere(~np.isfinite(map))
        raise AssertionError(
            f"the map has a NaN or infinity at {tuple(where[0].tolist())}, {len(where)} of them: "
            "a solve broke down; raise the damping, use float64, or see ngd_theory.theory.check_conditions"
        )


def assert_convergence_rate(
    trajectory: Trajectory, expected: float, *, tolerance: float = 0.05, floor: float | None = None
) -> None:
    """Assert that the residual of an MSE trajectory shrinks by ``expected`` a step.

    Parameters
    ----------
    trajectory : Trajectory
        Under MSE, where ``||r_t||`` is the square root of the loss.
    expected : float
        ``abs(1 - eta alpha)`` for an isotropic map.
    tolerance : float
        Largest difference of the two.
    floor : float, optional
        Residual, relative to the first, below which nothing is fitted; see
        `ngd_theory.sweeps.contraction_rate`. By default 1,000 epsilons of the trajectory's precision.
    """
    __tracebackhide__ = True
    losses = np.asarray(trajectory.losses)
    floor = 1e3 * float(np.finfo(losses.dtype).eps) if floor is None else floor
    residuals = np.sqrt(losses)
    measured = contraction_rate(residuals, floor)
    if not abs(measured - expected) <= tolerance:
        shown = ", ".join(f"{r:.3g}" for r in residuals[:6] / residuals[0])
        raise AssertionError(
            f"the residual does not shrink at the expected rate\n  measured: {measured:.6g} a step\n"
            f"  expected: {expected:.6g} within {tolerance:.3g}\n  ||r_t||/||r_0||: {shown}"
            + (", ..." if len(residuals) > 6 else "")
        )


def assert_gap_shrinks(
    frame: Any, exponent: float, *, column: str = "gap", over: str = "width"
) -> None:
    """Assert that a column falls at least as fast as ``over ** exponent``.

    It does when the whole interval of the fitted exponent over seeds lies at or below ``exponent``
    (`ngd_theory.sweeps.judge`); an interval that reaches across fails too, and the message says so.

    Parameters
    ----------
    frame : pandas.DataFrame
        As `ngd_theory.sweeps.load` returns it, of one approximation: columns ``seed``, ``over`` and
        ``column``. Its largest value over the steps of a cell counts.
    exponent : float
        Such as -0.5.
    column, over : str
    """
    __tracebackhide__ = True
    missing = {"seed", over, column} - set(frame.columns)
    if missing:
        raise InputError(f"the frame lacks the columns {', '.join(sorted(missing))}")
    if "approximation" in frame and frame["approximation"].nunique() > 1:
        raise InputError("the frame holds several approximations: give the rows of one")
    keys = [*(["cell"] if "cell" in frame else []), "seed", over]
    peaks = frame.groupby(keys)[column].max().reset_index()
    measured = power_law(peaks[over], peaks[column], peaks["seed"])
    judgement = judge(measured, Rule(-np.inf, exponent))
    if judgement.outcome is not Outcome.PASS:
        raise AssertionError(
            f"{column} does not shrink with {over} as expected ({judgement.outcome}: {judgement.why})\n"
            f"  measured exponent: {measured}, {measured.num_seeds} seeds\n"
            f"  expected at most:  {exponent:g}"
        )

"""Assertions for the tests of other projects: the message shows what was measured and what was expected."""

from typing import Any

import numpy as np
from jaxtyping import Array, Float
from pandas.api.types import is_bool_dtype, is_complex_dtype, is_hashable, is_numeric_dtype

from ngd_theory import losses
from ngd_theory.arguments import checked, require_known
from ngd_theory.dynamics import Trajectory, predict, train
from ngd_theory.errors import InputError, shown
from ngd_theory.estimates import power_law
from ngd_theory.experiment.gaps import gaps
from ngd_theory.fisher import Approximation
from ngd_theory.networks import Network, linearize
from ngd_theory.sweeps.statistics import Outcome, Rule, contraction_rate, judge
from ngd_theory.theory import Isotropy
from ngd_theory.theory.isotropy import require_square, summarise


@checked
def assert_isotropic(map: Any, *, dispersion: float = 1e-6) -> None:
    """Assert that a function-space map is a positive multiple of the identity.

    Parameters
    ----------
    map : (NC, NC) array
    dispersion : float
        Largest ``||K - alpha I||_F / (alpha sqrt(NC))`` allowed.

    Raises
    ------
    AssertionError
        If it is not, has a NaN or infinity, or a trace that is not positive.
    InputError
        If ``map`` is not a square array of real numbers, or ``dispersion`` is not finite and at least 0.
    """
    __tracebackhide__ = True
    _require_number("dispersion", dispersion)
    found = _measured(map)
    measured = float(found.dispersion)
    if not measured <= dispersion:
        raise AssertionError(
            f"the map is not isotropic\n  measured dispersion: {measured:.6g}\n"
            f"  expected at most:    {dispersion:.6g}\n  eigenvalues:         "
            f"{float(found.min_eigenvalue):.6g} to {float(found.max_eigenvalue):.6g}"
        )


@checked
def assert_isotropy_constant(map: Any, expected: float, *, rtol: float = 1e-3) -> None:
    """Assert that ``tr K/(NC)`` is ``expected`` to a relative ``rtol``.

    Parameters
    ----------
    map : (NC, NC) array
    expected : float
        alpha > 0, for example from `ngd_theory.theory.isotropy_constant`.
    rtol : float

    Raises
    ------
    AssertionError
        If it is not, or ``map`` has a NaN or infinity, or a trace that is not positive.
    InputError
        If ``map`` is not a square array of real numbers, ``expected`` is not positive and finite, or ``rtol`` is not
        finite and at least 0.
    """
    __tracebackhide__ = True
    _require_number("expected", expected, positive=True)
    _require_number("rtol", rtol)
    measured = float(_measured(map).constant)
    if not abs(measured - expected) <= rtol * expected:
        raise AssertionError(
            f"the isotropy constant is off\n  measured: {measured:.8g}\n"
            f"  expected: {expected:.8g} within {rtol:.3g} of it"
        )


def _measured(map) -> Isotropy:
    """The isotropy of a map that is finite and has a positive trace."""
    __tracebackhide__ = True
    map = require_square(map)
    require_known("an assertion", map)
    values = np.asarray(map)
    if not np.isfinite(values).all():
        where = np.argwhere(~np.isfinite(values))
        raise AssertionError(
            f"the map has a NaN or infinity at {tuple(where[0].tolist())}, {len(where)} of them: "
            "a solve broke down; raise the damping, use float64, or see ngd_theory.theory.check_conditions"
        )
    found = summarise(map)
    if not found.constant > 0:
        raise AssertionError(
            f"the map has the trace {float(found.constant) * len(map):.3g}, which is not positive: it contracts no "
            "residual; see ngd_theory.theory.check_conditions"
        )
    return found


def _require_number(name: str, value: float, *, positive: bool = False) -> None:
    if not ((value > 0 if positive else value >= 0) and value < np.inf):
        raise InputError(
            f"{name} is {value}; it must be finite and {'positive' if positive else 'at least 0'}"
        )


@checked
def assert_convergence_rate(
    trajectory: Trajectory, expected: float, *, tolerance: float = 0.05, floor: float | None = None
) -> None:
    """Assert that the residual of an MSE trajectory shrinks by the factor ``expected`` in each step.

    Parameters
    ----------
    trajectory : Trajectory
        Under MSE, where ``||r_t||`` is the square root of the loss.
    expected : float
        ``abs(1 - eta alpha)`` for an isotropic map.
    tolerance : float
        Largest difference between the two factors.
    floor : float, optional
        Nothing is fitted below this residual, relative to the first; see
        `ngd_theory.sweeps.contraction_rate`. By default 1,000 epsilons of the trajectory's precision.

    Raises
    ------
    AssertionError
        If it does not, or a loss is not finite.
    InputError
        If there are fewer than two losses, the first one is 0, one is negative (not MSE), an argument is negative or
        not finite, or ``floor`` is 1 or more.
    """
    __tracebackhide__ = True
    for name, value in (("expected", expected), ("tolerance", tolerance), ("floor", floor)):
        if value is not None:
            _require_number(name, value)
    if floor is not None and not floor < 1:
        raise InputError(f"floor is {floor}; it must be below 1, the first residual")
    residuals = np.sqrt(_losses(trajectory))
    floor = 1e3 * float(np.finfo(residuals.dtype).eps) if floor is None else floor
    measured = contraction_rate(residuals, floor)
    if not abs(measured - expected) <= tolerance:
        first = ", ".join(f"{r:.3g}" for r in residuals[:6] / residuals[0])
        raise AssertionError(
            f"the residual does not shrink at the expected rate\n  measured: {measured:.6g} a step\n"
            f"  expected: {expected:.6g} within {tolerance:.3g}\n  ||r_t||/||r_0||: {first}"
            + (", ..." if len(residuals) > 6 else "")
        )


def _losses(trajectory: Trajectory) -> np.ndarray:
    """Losses of an MSE trajectory, checked so that it has a rate."""
    __tracebackhide__ = True
    require_known("an assertion", trajectory.losses)
    losses = np.asarray(trajectory.losses)
    if losses.ndim != 1 or len(losses) < 2 or not np.issubdtype(losses.dtype, np.floating):
        raise InputError(
            f"the trajectory's losses are {shown(losses)}; a rate takes two floating ones at least, one a step"
        )
    if not np.isfinite(losses).all():
        step = int(np.argmin(np.isfinite(losses)))
        raise AssertionError(
            f"the loss is {losses[step]} at step {step}: training broke down or diverged; take a smaller step or a "
            "larger damping"
        )
    if (losses < 0).any():
        raise InputError(
            f"the trajectory has the loss {losses.min():.3g}: losses under MSE are not negative"
        )
    return losses


@checked
def assert_limit(
    network: Network,
    params: Any,
    x: Float[Array, "N *S"],
    y: Float[Array, "N C"],
    approximation: Approximation,
    step_size: float,
    num_steps: int,
    damping: Any,
    x_test: Any = None,
    loss: Any = "mse",
    *,
    laziness: float = 1e-6,
    tolerance: float = 1e-4,
) -> None:
    """Assert that training at a small epsilon follows what the function-space maps predict, at every step.

    It compares `ngd_theory.dynamics.train` with ``laziness`` and `ngd_theory.dynamics.predict`, which agree as
    epsilon -> 0 at any width (docs/theory.md, section 8). A wrong scale, factor or test map of an approximation shows.

    Parameters
    ----------
    network, params, approximation, step_size, num_steps, damping, loss
        As `ngd_theory.dynamics.train` takes them.
    x : (N, *input_shape)
    y : (N, C)
    x_test : (N', *input_shape), optional
    laziness : float
        epsilon.
    tolerance : float
        Largest gap over all steps, relative to ``||f_0 - y||`` (another loss: to the predicted distance). On the test
        set it is per sample.

    Raises
    ------
    AssertionError
        If a gap is larger, not a number, or training was broken off.
    InputError
        As `ngd_theory.dynamics.train`, and if ``tolerance`` is not finite and at least 0.
    SingularKernelError
        Where a solve breaks down.
    """
    __tracebackhide__ = True
    _require_number("tolerance", tolerance)
    how = (network, params, x, y, approximation, step_size, num_steps, damping, x_test, loss)
    (found,) = _lazy_gaps(*how, laziness=(laziness,))
    for set_name, off in found.items():
        if not np.max(off) <= tolerance:
            step = int(np.argmax(off > tolerance))
            raise AssertionError(
                f"training does not follow the prediction of {approximation.name} at epsilon = {laziness:g}\n"
                f"  first off:        step {step} on the {set_name} set\n"
                f"  measured gap:     {off[step]:.6g}\n  expected at most: {tolerance:.6g}\n"
                f"  gaps:             {', '.join(f'{gap:.2g}' for gap in off[:6])}"
                + (", ..." if len(off) > 6 else "")
            )


@checked
def assert_lazy_order(
    network: Network,
    params: Any,
    x: Float[Array, "N *S"],
    y: Float[Array, "N C"],
    approximation: Approximation,
    step_size: float,
    num_steps: int,
    damping: Any,
    x_test: Any = None,
    loss: Any = "mse",
    *,
    laziness: tuple[float, float] = (1e-2, 1e-4),
    order: float | None = None,
    tolerance: float = 0.25,
) -> None:
    """Assert that the gap between training and prediction vanishes with epsilon at the expected order.

    An error anywhere leaves a gap of order 0 (docs/theory.md, section 8).

    Parameters
    ----------
    network, params, approximation, step_size, num_steps, damping, loss
        As `ngd_theory.dynamics.train` takes them.
    x : (N, *input_shape)
    y : (N, C)
    x_test : (N', *input_shape), optional
    laziness : (float, float)
        The two epsilons; rounding must not show at the smaller one.
    order : float, optional
        Expected; 1 if ``network.smooth``, else 1/2.
    tolerance : float
        The slope of log(gap) over log(epsilon) may be this much below ``order``. A larger slope is no fault.

    Raises
    ------
    AssertionError
        If it is not, or a run was broken off or is not a number.
    InputError
        As `ngd_theory.dynamics.train`; if ``laziness`` is not two different epsilons, or ``order`` or ``tolerance`` is
        not finite and at least 0.
    SingularKernelError
        Where a solve breaks down.
    """
    __tracebackhide__ = True
    _require_number("tolerance", tolerance)
    order = (1.0 if network.smooth else 0.5) if order is None else order
    _require_number("order", order)
    if len(laziness) != 2 or laziness[0] == laziness[1]:
        raise InputError(f"laziness is {shown(laziness)}; it must be two different epsilons")
    far, near = sorted(laziness, reverse=True)
    how = (network, params, x, y, approximation, step_size, num_steps, damping, x_test, loss)
    runs = _lazy_gaps(*how, laziness=(far, near))
    found = [max(float(np.max(off)) for off in sets.values()) for sets in runs]
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = float(np.diff(np.log(found))[0] / np.log(near / far))
    if not (np.isfinite(found).all() and (found[1] == 0 or slope >= order - tolerance)):
        raise AssertionError(
            f"the gap to the prediction of {approximation.name} does not vanish with epsilon as expected\n"
            f"  measured order:    {slope:.3g}\n  expected at least: {order:g} less {tolerance:g}\n"
            f"  gaps:              {found[0]:.3g} at epsilon = {far:g}, {found[1]:.3g} at {near:g}"
        )


def _lazy_gaps(
    network, params, x, y, approximation, step_size, num_steps, damping, x_test, loss, *, laziness
) -> list[dict[str, np.ndarray]]:
    """For each epsilon, relative gaps of every step by set; infinite after training was broken off."""
    if not num_steps > 0:
        raise InputError(f"num_steps is {num_steps}; without a step there is no gap to judge")
    how = (step_size, num_steps, damping)
    lin = linearize(network, params, x)
    at = None if x_test is None else linearize(network, params, x_test)
    predicted = predict(approximation, lin, y, *how, at, loss)
    outputs = np.asarray(predicted.outputs)
    mse = losses.by_name(loss) == losses.MSE
    scale = float(np.linalg.norm(outputs[0] - (np.asarray(y) if mse else outputs[-1])))
    found = []
    for each in laziness:
        run = train(network, params, x, y, approximation, *how, x_test, loss, laziness=each)
        pairs: dict[str, Any] = {"training": (run.outputs, predicted.outputs, scale)}
        if x_test is not None:
            share = (len(x_test) / len(x)) ** 0.5
            pairs["test"] = (run.test_outputs, predicted.test_outputs, scale * share)
        missing = np.full(predicted.num_steps - run.num_steps + run.diverged, np.inf)
        found.append({name: np.append(gaps(*pair), missing) for name, pair in pairs.items()})
    return found


@checked
def assert_gap_shrinks(
    frame: Any, exponent: float, *, column: str = "gap", over: str = "width"
) -> None:
    """Assert that a column falls at least as fast as ``over ** exponent``.

    The whole interval of the fitted exponent over seeds must lie at or below ``exponent`` (`ngd_theory.sweeps.judge`).
    An interval that reaches across ``exponent`` fails too, and the message says so.

    Parameters
    ----------
    frame : pandas.DataFrame
        As `ngd_theory.sweeps.load` returns it, for one approximation, with columns ``seed``, ``over`` and ``column``.
        The largest value over the steps of a cell counts.
    exponent : float
        Such as -0.5.
    column, over : str

    Raises
    ------
    AssertionError
        If it does not, or the column has a NaN.
    InputError
        If the frame lacks one of these columns, has one twice or with entries that are missing or not numbers, has no
        rows or several approximations, or if ``exponent`` is not finite.
    """
    __tracebackhide__ = True
    if not (hasattr(frame, "columns") and hasattr(frame, "groupby")):
        raise InputError(f"frame is {shown(frame)}; it must be a pandas.DataFrame: ngd.sweeps.load")
    if not np.isfinite(exponent):
        raise InputError(f"exponent is {exponent}; it must be finite")
    missing = {"seed", over, column} - set(frame.columns)
    if missing:
        raise InputError(f"the frame lacks the columns {', '.join(sorted(missing))}")
    names = [name for name in ("approximation", "cell") if name in frame] + ["seed", over]
    keys = [name for name in names if name != "approximation"]
    twice = [name for name in (*names, column) if (frame.columns == name).sum() > 1]
    if twice:
        raise InputError(f"the frame has more than one column {twice[0]!r}")
    if len({*names, column}) <= len(names):
        raise InputError(
            f"column is {column!r} and over {over!r}; they must be two columns, neither of them "
            f"{' or '.join(names[:-1])}"
        )
    if len(frame) == 0:
        raise InputError("the frame has no rows")
    for name in (over, column):
        kind = frame[name].dtype
        if not is_numeric_dtype(kind) or is_complex_dtype(kind) or is_bool_dtype(kind):
            raise InputError(f"the column {name!r} has entries of type {kind}, not numbers")
    for name in names:
        if not frame[name].map(is_hashable).all():
            raise InputError(
                f"the column {name!r} has lists or arrays as entries, not single values"
            )
    # pandas leaves rows with a NaN out of groups and of their maxima.
    if frame[names].isna().any().any():
        raise InputError(f"a row of the frame lacks one of {', '.join(names)}")
    if "approximation" in frame and frame["approximation"].nunique() > 1:
        raise InputError("the frame holds several approximations: give the rows of one")
    if frame[column].isna().any():
        raise AssertionError(
            f"{column} has a NaN in {int(frame[column].isna().sum())} rows of the frame"
        )
    peaks = frame.groupby(keys)[column].max().reset_index()
    measured = power_law(peaks[over], peaks[column], peaks["seed"])
    outcome, why = judge(measured, Rule(-np.inf, exponent))
    if outcome is not Outcome.PASS:
        raise AssertionError(
            f"{column} does not shrink with {over} as expected ({outcome}: {why})\n"
            f"  measured exponent: {measured}, {measured.num_seeds} seeds\n"
            f"  expected at most:  {exponent:g}"
        )

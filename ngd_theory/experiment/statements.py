"""The statements of the theory, each with its check; tolerances are derived, not tuned."""

from collections.abc import Mapping
from math import ceil

import numpy as np

from ngd_theory.experiment.claim import (
    WEAKEST,
    NotApplicableError,
    UndecidedError,
    Verdict,
    claim,
    verdict,
)
from ngd_theory.experiment.damped import no_reference
from ngd_theory.experiment.evidence import (
    EDGE_SCALE,
    EDGE_STEPS,
    ROUNDINGS,
    Evidence,
    LazyRun,
)
from ngd_theory.experiment.gaps import residual_ratios, sup_gap
from ngd_theory.experiment.premises import (
    at,
    need_conditions,
    need_isotropy,
    need_lazy_prediction,
    need_lazy_runs,
    need_lazy_solves,
    need_mse,
    need_plain_steps,
    need_training_regime,
)

#: An isotropic sum over random units disperses by about 1/sqrt(units). Above this many times it is anisotropic.
ANISOTROPY_FACTOR = 2.0
#: Allowed below the expected slope of 1 or 1/2; a wrong prediction has slope 0.
ORDER_TOLERANCE = 0.25
#: Two predictions that differ by less than this share of their travel count as the same.
SAME_PREDICTION = 1e-3
#: A few roundings of a product of two numbers.
PRODUCT_TOLERANCE = 1e-12


def _stated_constant(evidence: Evidence) -> float | None:
    """Alpha as the paper states it, for a dense network of full ranks; None if it states none.

    It does not use `Approximation.layer_constants`, from which the step sizes come.
    """
    if evidence.network.layer_sizes[0].unknown is not None:
        return None
    n, depth = evidence.batch_size or evidence.num_samples, evidence.network.depth
    hidden = evidence.network.layer_sizes[:-1]
    active = sum(s.active_fraction * s.num_units for s in hidden)
    stated = {
        "exact": 1,
        "block-diagonal": depth,
        "block-tridiagonal": ceil(depth / 3),
        "kfac": n * (depth - 1) + 1,
        "unit-wise": active / evidence.network.output_dim + 1,
    }
    sizes = evidence.network.layer_sizes
    dense = all(s.positions == 1 for s in sizes)
    # The paper's inputs and features have rank N.
    full = evidence.name not in ("kfac", "unit-wise") or all(s.num_inputs >= n for s in sizes)
    return stated.get(evidence.name) if dense and full else None


def _isotropic(evidence: Evidence) -> bool:
    return evidence.constant is not None and not evidence.approximation.trace_only


def _has_constant(evidence: Evidence) -> bool:
    return evidence.constant is not None


def _not_anisotropic(evidence: Evidence) -> bool:
    return evidence.constant is not None or not evidence.never_isotropic


def _anisotropic(evidence: Evidence) -> bool:
    return evidence.never_isotropic


def _everything(evidence: Evidence) -> bool:
    return True


@claim(
    "isotropy",
    "K = alpha I: the natural gradient is isotropic in function space",
    "Karakida & Osawa 2020; docs/theory.md, section 3",
    _not_anisotropic,
)
def isotropy(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """The dispersion of K is below what damping, round-off and (unit-wise) the number of units allow.

    Exact, block-wise and K-FAC maps are isotropic at any width that meets the rank conditions, so only
    `Evidence.map_tolerance` is allowed. The unit-wise map is a sum over random units whose dispersion
    has the expectation `unit_wise_dispersion` ~ M^(-1/2): `Evidence.dispersion_bound` is four sigma above it.
    The claim does not apply to an approximation with no constant, or with a constant of the trace alone (EKFAC): of its
    dispersion the theory says nothing.
    """
    if evidence.approximation.trace_only:
        raise NotApplicableError(
            f"the theory states the trace of K alone for {evidence.name}: how far K is from a multiple of I "
            f"depends on the data ({float(evidence.isotropy.dispersion):.3g} here)"
        )
    if evidence.constant is None:
        raise NotApplicableError(
            f"the theory states nothing of {evidence.name} here from sizes, neither a constant nor a spectrum: there "
            "is nothing to judge (Approximation.layer_constants and requirements say what it states)"
        )
    need_isotropy(evidence)
    measured = float(evidence.judged_isotropy.dispersion)
    tolerance = evidence.dispersion_bound() + evidence.map_tolerance()
    return verdict(
        measured <= tolerance,
        measured,
        0.0,
        tolerance,
        tolerance,
        f"dispersion of K{_at_damping(evidence)}{_of_ranks(evidence) if evidence.approximation.asymptotic else ''}",
    )


def _of_ranks(evidence: Evidence) -> str:
    """Words that say that alpha follows from measured ranks; empty if it was predicted."""
    if evidence.constant_from == "sizes":
        return ""
    return "; alpha follows from the ranks measured, so that this tests the solve and no prediction"


def _at_damping(evidence: Evidence) -> str:
    """Words for the damping at which a map was judged; empty if it is the damping of the training."""
    return f" at rho = {evidence.judged_damping:g}" if evidence.undamped is not None else ""


@claim(
    "constant",
    "tr K/(NC) is the predicted isotropy constant alpha",
    "Karakida & Osawa 2020; docs/theory.md, section 3",
    _has_constant,
)
def constant(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """Measured alpha is within the tolerance of the map and the spread over initialisations.

    The spread is `Evidence.constant_spread`, which is 0 except for unit-wise.
    """
    need_isotropy(evidence)
    assert evidence.constant is not None
    measured = float(evidence.judged_isotropy.constant)
    power = evidence.map_tolerance() + evidence.constant_spread()
    tolerance = power * evidence.constant
    return verdict(
        abs(measured - evidence.constant) <= tolerance,
        measured,
        evidence.constant,
        tolerance,
        power,
        f"alpha = tr K/(NC){_at_damping(evidence)}{_of_ranks(evidence)}",
    )


@claim(
    "step-scale",
    "the step size is the step scale over alpha: 1, L, ceil(L/3), N(L-1) + 1, gamma sum(M)/C + 1",
    "Karakida & Osawa 2020; docs/theory.md, section 3",
    lambda evidence: _isotropic(evidence) and _stated_constant(evidence) is not None,
)
def step_scale(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """The step size times the paper's alpha is the step scale that was asked for, to rounding.

    Conditions of full rank must hold: alpha of lower ranks is not the paper's.
    """
    stated = _stated_constant(evidence)
    assert stated is not None
    if evidence.broken_premises:
        raise NotApplicableError(next(iter(evidence.broken_premises.values())))
    need_conditions(evidence)
    measured, predicted = evidence.step_size * stated, evidence.step_scale
    tolerance = PRODUCT_TOLERANCE * predicted
    return verdict(
        abs(measured - predicted) <= tolerance,
        measured,
        predicted,
        tolerance,
        PRODUCT_TOLERANCE,
        "eta alpha",
    )


@claim(
    "damped-map",
    "K at a damping as large as its eigenvalues is what dense algebra makes of the definition of G",
    "docs/theory.md, sections 3, 6 and 7",
    _everything,
)
def damped_map(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """`DampedMap.error` is below the square root of the machine epsilon: so damped, no solve loses more digits.

    At so large a rho K is far from alpha I, so that a misplaced damping or a wrong scale of a factor shows.
    """
    if why := no_reference(evidence.name, evidence.network, evidence.loss):
        raise NotApplicableError(why)
    if evidence.damped is None:
        raise UndecidedError("no map at a large damping was compared")
    measured, tolerance = evidence.damped.error, evidence.epsilon**0.5
    why = f"||K - K'||/||K'||, K' by dense algebra, {len(evidence.damped.measured)} rows"
    return verdict(measured <= tolerance, measured, 0.0, tolerance, tolerance, why)


@claim(
    "contraction",
    "the residual shrinks as (1 - eta alpha)^t, whatever the NTK's spectrum",
    "Karakida & Osawa 2020; docs/theory.md, section 2",
    _isotropic,
)
def contraction(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """``sup_t abs(||r_t||/||r_0|| - abs(1 - eta alpha)^t)`` of the laziest run.

    The tolerance is `Evidence.lazy_tolerance`, plus the error of the map times its effect on a power of the rate.
    """
    run = evidence.laziest
    need_plain_steps(evidence)
    need_training_regime(evidence, run.laziness)
    need_mse(evidence)
    need_isotropy(evidence)
    measured = evidence.residual_ratios(run)
    predicted = np.abs(1 - evidence.step_scale) ** np.arange(len(measured))
    worst = int(np.argmax(np.abs(measured - predicted)))
    change = _rate_change(evidence)
    # The second-order change of a power of the rate is at most the square of the error.
    map_error = np.maximum(change, evidence.map_error()) * evidence.map_error()
    tolerance = float(evidence.lazy_tolerance(run) + map_error)
    return verdict(
        bool(np.max(np.abs(measured - predicted)) <= tolerance),
        float(measured[worst]),
        float(predicted[worst]),
        tolerance,
        tolerance / change,
        f"||r_t||/||r_0|| where it is furthest off, t = {worst}{at(run.laziness)}",
    )


def _rate_change(evidence: Evidence) -> float:
    """``max_t t s abs(1 - s)^(t - 1)``: effect of a relative error of alpha on ``(1 - s)^t``, s = eta alpha."""
    t = np.arange(1, evidence.prediction.num_steps + 1)
    s = evidence.step_scale
    return float(np.max(t * s * np.abs(1 - s) ** (t - 1), initial=0.0))


def _limit_tolerance(evidence: Evidence, run: LazyRun, reach: float) -> float:
    """`Evidence.lazy_tolerance` of a run whose outputs travel ``reach`` residuals: gaps grow as the square of it."""
    return evidence.lazy_tolerance(run) * max(1.0, reach / evidence.travel()) ** 2


@claim(
    "one-step",
    "at eta = 1/alpha one step reaches zero training loss",
    "Karakida & Osawa 2020; docs/theory.md, section 2",
    _isotropic,
)
def one_step(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """The loss after one step, over the initial loss, is below the square of the residual's tolerance.

    This tolerance is `Evidence.lazy_tolerance`, for a run as long as the residual, plus the error of the map.
    """
    need_plain_steps(evidence)
    need_mse(evidence)
    need_isotropy(evidence)
    run = evidence.first_step
    if run is None:
        raise NotApplicableError("no step of 1/alpha was made")
    travel = 1.0
    need_lazy_prediction(evidence, run.laziness, travel)
    measured = float(evidence.residual_ratios(run, 1)[1] ** 2)
    root = _limit_tolerance(evidence, run, travel) + evidence.map_error()
    why = f"loss after one step / initial{at(run.laziness)}"
    return verdict(measured <= root**2, measured, 0.0, root**2, root, why)


@claim(
    "divergence-edge",
    "beyond eta = 2/alpha a small residual grows, by abs(1 - eta alpha) a step",
    "docs/theory.md, section 2",
    _isotropic,
)
def divergence_edge(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """The residual grows in each step at eta = 2.5/alpha, by a factor of 1.5 within the tolerance.

    The outputs of this run travel ``1 + 1.5^T`` residuals, so its premises are checked for this length. The error of
    the map enters times 2.5.
    """
    need_plain_steps(evidence)
    need_mse(evidence)
    need_isotropy(evidence)
    run = evidence.beyond_edge
    if run is None:
        raise NotApplicableError("no run beyond the edge was made")
    predicted = abs(1 - EDGE_SCALE)
    travel = 1 + predicted**EDGE_STEPS
    need_lazy_prediction(evidence, run.laziness, travel)
    need_lazy_solves(evidence, run.laziness, travel)
    margin = EDGE_SCALE * evidence.map_error()
    if not margin < EDGE_SCALE - 2:
        raise NotApplicableError(
            f"K may be {evidence.map_error():.2g} alpha off at this damping and width, so that "
            f"{EDGE_SCALE}/alpha need not lie beyond the edge"
        )
    measured = float(evidence.residual_ratios(run, EDGE_STEPS)[-1] ** (1 / EDGE_STEPS))
    tolerance = margin + _limit_tolerance(evidence, run, travel)
    return verdict(
        measured > 1 and abs(measured - predicted) <= tolerance,
        measured,
        predicted,
        tolerance,
        tolerance / EDGE_SCALE,
        f"growth of ||r|| a step at eta = {EDGE_SCALE}/alpha{at(run.laziness)}",
    )


@claim(
    "gd-slower",
    "gradient descent follows the NTK's spectrum and is slower than every isotropic method",
    "Karakida & Osawa 2020; docs/theory.md, section 2",
    lambda evidence: evidence.name == "identity",
)
def gd_slower(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """GD's final ``||r_T||/||r_0||`` is its eigenbasis prediction, and above every isotropic method's.

    The tolerance is `Evidence.lazy_tolerance`. The claim applies only if the predictions say that GD is slower: beyond
    eta alpha = 1 an isotropic method may be slower.
    """
    run = evidence.laziest
    need_plain_steps(evidence)
    need_training_regime(evidence, run.laziness)
    need_mse(evidence)
    measured = float(evidence.residual_ratios(run)[-1])
    predicted = float(residual_ratios(evidence.prediction, evidence.targets)[-1])
    tolerance = evidence.lazy_tolerance(run)
    rivals = [e for e in others.values() if _is_isotropic(e)]
    if not rivals:
        raise NotApplicableError("no isotropic method was run, in its regime, to compare with")
    expected = max(float(abs(1 - e.step_scale) ** e.prediction.num_steps) for e in rivals)
    if not predicted - expected > SAME_PREDICTION:
        raise NotApplicableError(
            f"at step scale {evidence.step_scale:g} theory leaves {expected:.2g} of an isotropic method's "
            f"residual and {predicted:.2g} of gradient descent's"
        )
    slowest = max(float(e.residual_ratios(e.laziest)[-1]) for e in rivals)
    return verdict(
        abs(measured - predicted) <= tolerance and measured > slowest,
        measured,
        predicted,
        tolerance,
        evidence.smallest_error(tolerance) / predicted,
        f"||r_T||/||r_0|| of GD, NTK condition number {evidence.ntk_condition:.3g}; slowest isotropic "
        f"method {slowest:.2g}",
    )


def _is_isotropic(evidence: Evidence) -> bool:
    """Whether the evidence is good enough to say that the method contracts as an isotropic one."""
    if not _isotropic(evidence) or not evidence.map_error() <= WEAKEST:
        return False
    try:
        need_isotropy(evidence)
        need_lazy_prediction(evidence, evidence.laziest.laziness)
    except NotApplicableError:
        return False
    return True


@claim(
    "step-map",
    "a natural-gradient step moves the outputs by K r, and the test outputs by Q r",
    "docs/theory.md, section 1",
    _everything,
)
def step_map(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """`Evidence.step_error` is below the square root of the machine epsilon plus what the solves lose.

    K and Q are made from the factors of a linearisation. The derivative along the natural gradient comes from automatic
    differentiation of the network, so that a wrong factor, block or scale shows. A solve loses as many digits as its
    system's condition number has. If K is far larger across r than along r (cross-entropy: 1/rho), K r loses more.
    """
    if evidence.step_error is None:
        raise UndecidedError("no step was compared with the map")
    condition = float(np.maximum(evidence.ntk_condition, evidence.solve_condition))
    lost = condition + ROUNDINGS * evidence.step_amplification
    tolerance = evidence.epsilon**0.5 + evidence.epsilon * lost
    why = "||J u - K r|| / ||K r|| of the natural gradient u of r, and the same with Q: the larger"
    measured = evidence.step_error
    return verdict(measured <= tolerance, measured, 0.0, tolerance, tolerance, why)


@claim(
    "lazy-limit",
    "as epsilon -> 0, training of the rescaled network is as predicted, at any width",
    "Chizat, Oyallon & Bach 2019; docs/theory.md, section 8",
    _everything,
)
def lazy_limit(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """Largest relative gap over all steps, on both sets, of the laziest run.

    The tolerance is `Evidence.lazy_tolerance`. The prediction uses the measured K and Q, so it includes damping and
    dispersion: only rounding and the rest of the width's effect are allowed. Runs at larger epsilon must be complete.
    """
    runs = need_lazy_runs(evidence)
    run = runs[-1]
    need_training_regime(evidence, run.laziness)
    gaps = [evidence.lazy_gap(each) for each in runs]
    measured = gaps[-1] if np.isfinite(gaps).all() else np.inf
    tolerance = evidence.lazy_tolerance(run)
    why = f"largest relative gap on both sets{at(run.laziness)}"
    return verdict(measured <= tolerance, measured, 0.0, tolerance, _notices(evidence, run), why)


def _notices(evidence: Evidence, run: LazyRun) -> float:
    """Power of a gap: the smallest error that fails, over the travel of the outputs."""
    return evidence.smallest_error(evidence.lazy_tolerance(run)) / evidence.travel()


@claim(
    "lazy-order",
    "that gap to the prediction vanishes with epsilon, to first order (ReLU: at least half)",
    "docs/theory.md, section 8",
    _everything,
)
def lazy_order(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """Slope of log(gap) over log(epsilon), from the largest epsilon to the smallest where rounding does not show.

    An error anywhere leaves a gap of slope 0. With a smooth activation ``g = g_1 epsilon (1 + c epsilon)``, where c can
    be some tens for unit-wise steps. With a kink, g falls as epsilon^(1/2) to epsilon^1: it depends on how many units
    change sides, and these are few and random. So the slope goes to an epsilon where no unit does, or else to the
    smallest (`Evidence.switch_gap`). The slope may be a quarter too small in both cases. A higher order is no fault.
    The power is the constant gap that would make the slope too small.
    """
    runs = need_lazy_runs(evidence)
    need_training_regime(evidence, runs[-1].laziness)
    if len(runs) < 2:
        raise NotApplicableError("a slope takes two epsilons at least")
    least = evidence.order - ORDER_TOLERANCE
    if not np.isfinite([evidence.lazy_gap(run) for run in runs]).all():
        why = "a run was broken off, or has outputs that are no numbers"
        return verdict(False, np.inf, evidence.order, ORDER_TOLERANCE, np.inf, why)
    found = evidence.gap_order()
    if found is None:
        raise NotApplicableError("the gap is round-off at every epsilon: training is linear here")
    if found.at_least and not found.slope >= least:
        raise UndecidedError(f"only at epsilon = {found.far:g} is the gap more than round-off")
    # (g_far + e)/(g_near + e) = ratio^least
    fall, (far, near) = (found.far / found.near) ** least, found.gaps
    floor = (far - fall * near) / (fall - 1)
    why = f"slope of log(gap) over log(epsilon), {found.far:g} to {found.near:g}, at least that less the tolerance"
    power = floor / evidence.travel()
    return verdict(found.slope >= least, found.slope, evidence.order, ORDER_TOLERANCE, power, why)


@claim(
    "finite-width-gap",
    "the trained network follows the function-space prediction up to O(1/sqrt(M))",
    "Karakida & Osawa 2020; Lee et al. 2019; docs/theory.md, section 4",
    _everything,
)
def finite_width_gap(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """``sup_t ||f_t - f_t^predicted||_F`` over `Evidence.scale`, on the training set or the test set, at epsilon = 1.

    A gap above `Evidence.finite_width_tolerance` fails. A gap below it passes if it is at most a tenth of the travel of
    the outputs; between the two this width cannot decide. The prediction uses the measured K, so it includes damping
    and dispersion. A unit-wise gap above the bound is not judged: such steps change K by more than the Jacobian changes
    ([KO]: as rho^-6). The claim does not apply to a network with a scaled-down readout (``parameterization = "mup"``),
    whose features move at every width.
    """
    if evidence.network.readout_scale != 1:
        raise NotApplicableError(
            'stated of parameterization = "ntk": here the features move at every width, so that training does not come '
            "to follow the prediction as M grows (that it does as epsilon -> 0 is judged)"
        )
    need_training_regime(evidence)
    measured = evidence.lazy_gap(evidence.plain)
    travel = evidence.travel()
    bound, share = evidence.finite_width_tolerance() / travel, measured / travel
    if evidence.approximation.asymptotic and bound < share < np.inf:
        raise UndecidedError(
            f"{evidence.name} steps at a small damping change K by more than the Jacobian changes: the gap is "
            f"{share:.2g} of the travel at this width; raise the damping or widen the network"
        )
    power = bound if WEAKEST < share <= bound else min(bound, WEAKEST)
    correction = evidence.correction
    first = "" if correction is None else f"; g_1 = {correction:.2g} by small epsilon"
    why = f"relative sup gap on both sets, {share:.2g} of the travel{first}"
    return verdict(share <= power, measured, 0.0, power * travel, power, why)


@claim(
    "lazy-parameters",
    "as epsilon -> 0 the parameters move as far as the linearised network's",
    "Chizat, Oyallon & Bach 2019; docs/theory.md, sections 4 and 8",
    _everything,
)
def lazy_parameters(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """``||theta_T - theta_0||/epsilon`` of the laziest run is as predicted, within `Evidence.distance_tolerance`."""
    run = need_lazy_runs(evidence)[-1]
    need_training_regime(evidence, run.laziness)
    if not 0 < evidence.predicted_distance < np.inf:
        raise NotApplicableError("no distance is predicted")
    distances = run.training.parameter_distances
    error, tolerance = evidence.distance_error(run), evidence.distance_tolerance(run)
    predicted = evidence.predicted_distance
    return verdict(
        error <= tolerance,
        np.inf if distances is None or not np.isfinite(error) else float(distances[-1]),
        predicted,
        tolerance * predicted,
        evidence.smallest_error(tolerance),
        f"||theta_T - theta_0||/epsilon{at(run.laziness)}",
    )


@claim(
    "distinct-minima",
    "test predictions follow the method's own Q, not another method's",
    "Karakida & Osawa 2020; docs/theory.md, section 4",
    _everything,
)
def distinct_minima(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """Final test outputs are nearer to the method's own prediction than to any other method's.

    Distances are root mean squares over samples, relative to that of f_0 - y on the training set. The distance to the
    own prediction may not exceed `Evidence.lazy_tolerance`. Methods whose predictions agree to 1e-3 of their travel
    have the same minimum and are no rivals. If the own distance is within the tolerance and another prediction is not
    further away, this width cannot tell them apart: the claim is undecided.
    """
    run = evidence.laziest
    need_training_regime(evidence, run.laziness)
    if run.training.test_outputs is None:
        raise NotApplicableError("no test set")
    rivals = {
        name: e.prediction.test_outputs[-1]
        for name, e in others.items()
        if name != evidence.name and e.prediction.test_outputs is not None
    }
    if not rivals:
        raise NotApplicableError("no other approximation was run")
    assert evidence.prediction.test_outputs is not None
    final = np.asarray(run.training.test_outputs[-1])
    predicted = np.asarray(evidence.prediction.test_outputs[-1])
    scale = evidence.test_scale
    whole = run.training.num_steps == evidence.prediction.num_steps and not run.training.diverged
    own = sup_gap([final], [predicted], scale) if whole else np.inf
    apart = {name: sup_gap([predicted], [f], scale) for name, f in rivals.items()}
    apart = {n: d for n, d in apart.items() if not d <= SAME_PREDICTION * evidence.travel()}
    if not apart:
        raise NotApplicableError("every other approximation has the same minimum")
    tolerance = evidence.lazy_tolerance(run)
    way = sup_gap([predicted], [np.asarray(evidence.prediction.test_outputs[0])], scale)
    distances = {name: sup_gap([final], [rivals[name]], scale) for name in apart}
    nearest = min(distances, key=lambda name: distances[name])
    if own <= tolerance and not min(apart[nearest], distances[nearest]) > own:
        raise UndecidedError(
            f"at this width the test predictions of {evidence.name} and {nearest} cannot be told apart "
            f"(own gap {own:.2g}, they differ by {apart[nearest]:.2g})"
        )
    return verdict(
        own <= tolerance,
        own,
        0.0,
        tolerance,
        evidence.smallest_error(tolerance) / max(way, np.finfo(float).tiny),
        f"gap of the final test outputs to the own Q{at(run.laziness)}; nearest other, {nearest}, at "
        f"{distances[nearest]:.2g}",
    )


@claim(
    "infinite-width",
    "this width's prediction is the infinitely wide network's, up to what its kernel is off",
    "Jacot et al. 2018; docs/theory.md, sections 4 and 5",
    lambda evidence: evidence.limit is not None and evidence.kernel_distance is not None,
)
def infinite_width(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """Largest relative distance of the two predictions from the same f_0, on both sets.

    The kernels differ by ``d = ||Theta - Theta_inf||/||Theta_inf||`` ~ M^(-1/2), as measured on the training set. The
    tolerance estimates the effect: outputs of gradient descent differ by ``t s d``, those of a preconditioner by
    ``kappa(Theta) d``.
    """
    need_mse(evidence)
    need_training_regime(evidence)
    assert evidence.limit is not None and evidence.kernel_distance is not None
    measured = evidence.gap_of(evidence.limit)
    steps = evidence.prediction.num_steps * evidence.step_scale
    amplification = steps if evidence.name == "identity" else evidence.ntk_condition
    tolerance = amplification * evidence.kernel_distance
    why = f"largest relative distance of the two; kernels differ by {evidence.kernel_distance:.2g}"
    return verdict(
        measured <= tolerance, measured, 0.0, tolerance, tolerance / evidence.travel(), why
    )


@claim(
    "anisotropic",
    "K is not isotropic: its dispersion does not vanish with the width",
    "Karakida & Osawa 2020; docs/theory.md, section 3",
    _anisotropic,
)
def anisotropic(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """Dispersion above 2/sqrt(hidden units).

    A map that becomes isotropic as the width grows is a sum over units and disperses by about
    1/sqrt(sum M), as the unit-wise one does (`unit_wise_dispersion`). The power is this floor: a dispersion below it
    would have failed.
    """
    if evidence.num_samples * evidence.network.output_dim < 10:
        raise NotApplicableError("K has fewer than ten rows, too few to speak of a spectrum")
    units = sum(s.num_units for s in evidence.network.layer_sizes[:-1])
    if not units:
        raise NotApplicableError("a linear model has no width to grow")
    if not evidence.ntk_condition >= 2:
        raise NotApplicableError(
            f"the NTK itself is nearly a multiple of I (condition number {evidence.ntk_condition:.2g})"
        )
    floor = ANISOTROPY_FACTOR / units**0.5
    measured = float(evidence.isotropy.dispersion)
    why = f"dispersion of K, above {ANISOTROPY_FACTOR:g}/sqrt(units)"
    return verdict(measured > floor, measured, floor, 0.0, floor, why)

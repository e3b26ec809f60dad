"""The statements of the theory, each with its check; tolerances are derived, not tuned."""

from collections.abc import Mapping

import numpy as np

from ngd_theory.experiment.claim import NotApplicableError, Verdict, claim, verdict
from ngd_theory.experiment.evidence import (
    EDGE_SCALE,
    EDGE_STEPS,
    ROUNDINGS,
    Evidence,
    LazyRun,
    residual_ratios,
    sup_gap,
)
from ngd_theory.theory import unit_wise_dispersion

#: Travel of the outputs, in machine epsilons, below which a run shows nothing.
NO_MOTION = 1e6
#: Share of alpha that damping and round-off may take before a statement about alpha says nothing.
MAP_TOLERANCE_LIMIT = 0.5
#: An isotropic sum over random units disperses by about 1/sqrt(units); this many times it is no such sum.
ANISOTROPY_FACTOR = 3.0
#: Above this floor a network is too narrow to tell.
ANISOTROPY_LIMIT = 0.2
#: Of a slope that is at least 1/2 or 1, where what is wrong has 0.
ORDER_TOLERANCE = 0.25
#: Predictions of two methods nearer than this share of what they travel are the same.
SAME_PREDICTION = 1e-3


def _isotropic(evidence: Evidence) -> bool:
    return evidence.constant is not None


def _not_anisotropic(evidence: Evidence) -> bool:
    return evidence.constant is not None or not evidence.never_isotropic


def _anisotropic(evidence: Evidence) -> bool:
    return evidence.never_isotropic


def _everything(evidence: Evidence) -> bool:
    return True


def _need_mse(evidence: Evidence) -> None:
    if evidence.loss != "mse":
        raise NotApplicableError("stated for the MSE loss, where the Fisher of the outputs is I")


def _need_conditions(evidence: Evidence) -> None:
    broken = [c.why for c in evidence.conditions if c.blocking and not c.holds]
    if broken:
        raise NotApplicableError(broken[0])


def _need_stable_step(evidence: Evidence) -> None:
    if evidence.loss != "mse":
        values = np.asarray(evidence.prediction.losses)
        if not values[-1] <= values[0]:
            raise NotApplicableError(
                f"the loss of the linearised network itself grows from {values[0]:.2g} to {values[-1]:.2g}: "
                "lower the step scale or raise the damping"
            )
        return
    rates = evidence.step_size * evidence.spectrum
    if not (rates.max() < 2 and rates.min() >= -evidence.map_tolerance()):
        raise NotApplicableError(
            f"eta K has eigenvalues from {rates.min():.2g} to {rates.max():.2g}; the linearised network "
            "itself contracts only between 0 and 2"
        )


def _need_width(evidence: Evidence, laziness: float = 1.0) -> None:
    limit = evidence.width_ratio() * laziness**evidence.order
    if not limit < 1:
        raise NotApplicableError(
            f"(sqrt(NC) + L)/sqrt(M) = {evidence.width_ratio():.2g}{_at(laziness)}: finite-width effects are as large "
            "as what is predicted; widen the network or use fewer samples"
        )


def _need_lazy_prediction(evidence: Evidence, laziness: float = 1.0) -> None:
    """What the width does falls with epsilon: at a small one nearly every network may be judged."""
    _need_width(evidence, laziness)
    share = laziness**evidence.order
    if evidence.prediction.num_steps < 1:
        raise NotApplicableError("no step was made")
    travel = evidence.travel()
    if not travel > NO_MOTION * evidence.epsilon:
        raise NotApplicableError(
            f"the outputs are predicted to move by {travel:.1g} of the residual, which is round-off: raise "
            "the step scale or the number of steps"
        )
    if not evidence.width_ratio() * share * travel < 1:
        raise NotApplicableError(
            f"the outputs are predicted to travel {travel:.2g} times the residual, too far for the width "
            f"((sqrt(NC) + L)/sqrt(M) = {evidence.width_ratio():.2g}{_at(laziness)}): lower the step scale or widen"
        )
    _need_lazy_displacement(evidence, evidence.displacement, laziness)


def _need_lazy_displacement(evidence: Evidence, displacement: float, laziness: float) -> None:
    if not displacement * laziness**evidence.order < 1:
        raise NotApplicableError(
            f"the linearised network itself changes a layer by {displacement:.2g} of what its "
            f"random weights are{_at(laziness)}, out of the lazy regime: raise the damping or the width"
        )


def _need_training_regime(evidence: Evidence, laziness: float = 1.0) -> None:
    _need_stable_step(evidence)
    _need_lazy_prediction(evidence, laziness)


def _need_power(tolerance: float, effect: float, what: str) -> None:
    if not tolerance < effect:
        raise NotApplicableError(
            f"the tolerance of this width and damping, {tolerance:.2g}, is no smaller than {what}, "
            f"{effect:.2g}: nothing could fail; widen the network, or lower the damping or the "
            "step scale"
        )


def _need_isotropy(evidence: Evidence) -> None:
    _need_mse(evidence)
    _need_conditions(evidence)
    if not evidence.map_tolerance() < MAP_TOLERANCE_LIMIT:
        raise NotApplicableError(
            f"damping {evidence.damping:g} may take {evidence.map_tolerance():.2g} of alpha: lower it"
        )


@claim(
    "isotropy",
    "K = alpha I: the natural gradient is isotropic in function space",
    "Karakida & Osawa 2020; docs/theory.md, section 3",
    _not_anisotropic,
)
def isotropy(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """Dispersion of K below what damping, round-off and, unit-wise, the number of units allow.

    Exact, block-wise and K-FAC maps are isotropic at any width that meets the rank conditions, so only
    `Evidence.map_tolerance` is allowed. The unit-wise map is a sum over random units whose dispersion
    has the expectation `unit_wise_dispersion` ~ M^(-1/2): twice it is allowed (with 1/sqrt(sum M) in
    place of a zero expectation). Of an approximation without a constant that is not said to be anisotropic the theory
    says nothing.
    """
    if evidence.constant is None:
        raise NotApplicableError(
            f"the theory states nothing of {evidence.name} here, neither a constant nor a spectrum: there is nothing "
            "to judge (Approximation.layer_constants and requirements say what it states)"
        )
    _need_isotropy(evidence)
    measured = float(evidence.isotropy.dispersion)
    predicted, tolerance = _map_expectation(evidence)
    _need_power(
        predicted + tolerance, MAP_TOLERANCE_LIMIT, "the dispersion of a map with a spectrum"
    )
    return verdict(
        measured <= predicted + tolerance, measured, predicted, tolerance, "dispersion of K"
    )


def _is_isotropic(evidence: Evidence) -> bool:
    if evidence.constant is None:
        return False
    try:
        _need_isotropy(evidence)
        _need_lazy_prediction(evidence, evidence.laziest.laziness)
    except NotApplicableError:
        return False
    return True


def _map_expectation(evidence: Evidence) -> tuple[float, float]:
    tolerance = evidence.map_tolerance()
    if not evidence.approximation.asymptotic:
        return 0.0, tolerance
    expected = unit_wise_dispersion(evidence.network)
    units = _hidden_units(evidence)
    return expected, tolerance + (max(expected, units**-0.5) if units else 0.0)


def _hidden_units(evidence: Evidence) -> int:
    return sum(s.num_units for s in evidence.network.layer_sizes[:-1])


@claim(
    "constant",
    "tr K/(NC) is the predicted isotropy constant alpha",
    "Karakida & Osawa 2020; docs/theory.md, section 3",
    _isotropic,
)
def constant(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """Measured alpha within the tolerance of the map; unit-wise within three standard deviations.

    Unit-wise alpha counts active (unit, sample) pairs over C: a sum over sum(M) independent units of
    Bernoulli(gamma) shares, whose relative standard deviation is at most ``sqrt(C/(gamma sum M))``.
    """
    _need_isotropy(evidence)
    assert evidence.constant is not None
    measured = float(evidence.isotropy.constant)
    tolerance = evidence.map_tolerance()
    if evidence.approximation.asymptotic:
        hidden = evidence.network.layer_sizes[:-1]
        active = sum(s.active_fraction * s.num_units for s in hidden)
        tolerance += 3 * (evidence.network.output_dim / active) ** 0.5 if active else 0.0
    _need_power(tolerance, MAP_TOLERANCE_LIMIT, "half of alpha")
    tolerance *= evidence.constant
    return verdict(
        abs(measured - evidence.constant) <= tolerance,
        measured,
        evidence.constant,
        tolerance,
        "alpha = tr K/(NC)",
    )


@claim(
    "contraction",
    "the residual shrinks as (1 - eta alpha)^t, whatever the NTK's spectrum",
    "Karakida & Osawa 2020; docs/theory.md, section 2",
    _isotropic,
)
def contraction(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """``sup_t abs(||r_t||/||r_0|| - abs(1 - eta alpha)^t)`` within `Evidence.finite_width_tolerance`.

    Of the run with the smallest epsilon. The error of the map itself (damping; unit-wise, its dispersion) adds to it,
    times what it does to a power of the rate.
    """
    run = evidence.laziest
    _need_training_regime(evidence, run.laziness)
    _need_isotropy(evidence)
    measured = evidence.residual_ratios(run)
    predicted = np.abs(1 - evidence.step_scale) ** np.arange(len(measured))
    worst = int(np.argmax(np.abs(measured - predicted)))
    map_error = _rate_amplification(evidence) * _map_error(evidence)
    tolerance = evidence.finite_width_tolerance(run.laziness) + map_error
    _need_power(tolerance, float(np.max(np.abs(1 - predicted))), "the contraction predicted")
    return verdict(
        bool(np.max(np.abs(measured - predicted)) <= tolerance),
        float(measured[worst]),
        float(predicted[worst]),
        tolerance,
        f"||r_t||/||r_0|| where it is furthest off, t = {worst}{_at(run.laziness)}",
    )


def _at(laziness: float) -> str:
    return f", at epsilon = {laziness:g}" if laziness < 1 else ""


def _rate_amplification(evidence: Evidence) -> float:
    """``max_t t s abs(1 - s)^(t - 1)``, at least 1: what an error of alpha does to ``(1 - s)^t``, s = eta alpha."""
    t = np.arange(1, evidence.prediction.num_steps + 1)
    s = evidence.step_scale
    return float(np.max(t * s * np.abs(1 - s) ** (t - 1), initial=1.0))


def _map_error(evidence: Evidence) -> float:
    """How far one step of K may be from alpha: expectation and tolerance of its dispersion."""
    return sum(_map_expectation(evidence))


@claim(
    "one-step",
    "at eta = 1/alpha one step reaches zero training loss",
    "Karakida & Osawa 2020; docs/theory.md, section 2",
    _isotropic,
)
def one_step(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """Loss after one step, over the initial one, below the square of the residual's tolerance.

    That is `Evidence.finite_width_tolerance` and the error of the map itself, as in `contraction`.
    """
    if not abs(evidence.step_scale - 1) <= 1e-12:
        raise NotApplicableError(f"the step scale is {evidence.step_scale:g}, not 1")
    run = evidence.laziest
    _need_isotropy(evidence)
    _need_lazy_prediction(evidence, run.laziness)
    measured = float(evidence.residual_ratios(run)[1] ** 2)
    tolerance = (evidence.finite_width_tolerance(run.laziness) + _map_error(evidence)) ** 2
    _need_power(tolerance, 1.0, "the initial loss")
    why = f"loss after one step / initial{_at(run.laziness)}"
    return verdict(measured <= tolerance, measured, 0.0, tolerance, why)


@claim(
    "divergence-edge",
    "beyond eta = 2/alpha a small residual grows, by abs(1 - eta alpha) a step",
    "docs/theory.md, section 2",
    _isotropic,
)
def divergence_edge(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """Growth a step of a residual of epsilon ||r_0|| at eta = 2.5/alpha: above 1, and 1.5 to tolerance.

    Such a run travels 2.5 epsilon of the residual, so that the Jacobian changes by that share (to the power
    `Evidence.order`) of what it does along a step of 1/alpha, and adds 2.5 times as much to the growth; the map's own
    error enters times 2.5.
    """
    _need_isotropy(evidence)
    run = evidence.beyond_edge
    if run is None:
        raise NotApplicableError("no run beyond the edge was made")
    _need_width(evidence, run.laziness)
    margin = EDGE_SCALE * _map_error(evidence)
    if not margin < EDGE_SCALE - 2:
        raise NotApplicableError(
            f"K may be {_map_error(evidence):.2g} alpha off at this damping and width, so that "
            f"{EDGE_SCALE}/alpha need not lie beyond the edge"
        )
    measured = float(evidence.residual_ratios(run, EDGE_STEPS)[-1] ** (1 / EDGE_STEPS))
    predicted = abs(1 - EDGE_SCALE)
    share = run.laziness**evidence.order
    displacement = evidence.displacement / max(evidence.travel(), 1e-300)
    _need_lazy_displacement(evidence, displacement, run.laziness)
    full_step = max(evidence.width_ratio(), displacement)
    tolerance = EDGE_SCALE**2 * share * full_step + margin + evidence.round_off(run.laziness)
    _need_power(tolerance, predicted - 1, "the growth predicted")
    return verdict(
        measured > 1 and abs(measured - predicted) <= tolerance,
        measured,
        predicted,
        tolerance,
        f"growth of ||r|| a step at eta = {EDGE_SCALE}/alpha, and above 1",
    )


@claim(
    "gd-slower",
    "gradient descent follows the NTK's spectrum and is slower than every isotropic method",
    "Karakida & Osawa 2020; docs/theory.md, section 2",
    lambda evidence: evidence.name == "identity",
)
def gd_slower(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """GD's final ``||r_T||/||r_0||`` is its eigenbasis prediction, and above every isotropic method's.

    Asked only where the predictions say so: beyond eta alpha = 1 an isotropic method may be the slower.
    """
    run = evidence.laziest
    _need_training_regime(evidence, run.laziness)
    _need_mse(evidence)
    measured = float(evidence.residual_ratios(run)[-1])
    predicted = float(residual_ratios(evidence.prediction, evidence.targets)[-1])
    tolerance = evidence.finite_width_tolerance(run.laziness)
    rivals = [e for e in others.values() if _is_isotropic(e)]
    if not rivals:
        raise NotApplicableError("no isotropic method was run, in its regime, to compare with")
    expected = max(
        (float(abs(1 - e.step_scale) ** e.prediction.num_steps) for e in rivals), default=0.0
    )
    if not predicted - expected > SAME_PREDICTION:
        raise NotApplicableError(
            f"at step scale {evidence.step_scale:g} theory leaves {expected:.2g} of an isotropic method's "
            f"residual and {predicted:.2g} of gradient descent's"
        )
    slowest = max(float(e.residual_ratios(e.laziest)[-1]) for e in rivals)
    if not predicted - expected > tolerance:
        raise NotApplicableError(
            f"the lead that theory gives the isotropic methods, {predicted - expected:.2g}, is within the "
            f"finite-width effect, {tolerance:.2g}: widen the network"
        )
    return verdict(
        abs(measured - predicted) <= tolerance and measured > slowest,
        measured,
        predicted,
        tolerance,
        f"||r_T||/||r_0|| of GD, NTK condition number {evidence.ntk_condition:.3g}; slowest isotropic "
        f"method {slowest:.2g}",
    )


@claim(
    "step-map",
    "a natural-gradient step moves the outputs by K r, and the test outputs by Q r",
    "docs/theory.md, section 1",
    _everything,
)
def step_map(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """`Evidence.step_error` below half of the digits and what the solves lose of the others.

    K and Q are made of a linearisation's factors. The derivative along the natural gradient is the network's own, by
    automatic differentiation: a wrong factor, block or scale in one of them shows. A solve loses as many digits as its
    system's condition has, and where K is far larger across than along r (cross-entropy: 1/rho) K r loses more.
    """
    if evidence.step_error is None:
        raise NotApplicableError("no step was compared with the map")
    lost = evidence.ntk_condition + ROUNDINGS * evidence.step_amplification
    tolerance = evidence.epsilon**0.5 + evidence.epsilon * lost
    _need_power(tolerance, 0.01, "a hundredth of K r")
    why = "||J u - K r|| / ||K r|| of the natural gradient u of r, and the same with Q: the larger"
    return verdict(evidence.step_error <= tolerance, evidence.step_error, 0.0, tolerance, why)


@claim(
    "lazy-limit",
    "as epsilon -> 0, training towards f_0 + epsilon (y - f_0) is as predicted, at any width",
    "Chizat, Oyallon & Bach 2019; docs/theory.md, section 8",
    _everything,
)
def lazy_limit(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """Largest relative gap over all steps, on both sets, of the laziest run.

    Within `Evidence.lazy_tolerance`. The prediction uses the measured K and Q, so damping and dispersion are inside it:
    only rounding and the rest of the width's effect are allowed. Runs at larger epsilon must be whole too.
    """
    _need_mse(evidence)
    runs = _lazy_runs(evidence)
    run = runs[-1]
    _need_training_regime(evidence, run.laziness)
    gaps = [evidence.lazy_gap(each) for each in runs]
    measured = gaps[-1] if np.isfinite(gaps).all() else np.inf
    tolerance = evidence.lazy_tolerance(run.laziness)
    _need_power(tolerance, evidence.travel(), "what the outputs travel")
    why = f"largest relative gap on both sets{_at(run.laziness)}"
    return verdict(measured <= tolerance, measured, 0.0, tolerance, why)


@claim(
    "lazy-order",
    "that gap to the prediction vanishes with epsilon, to first order (ReLU: at least half)",
    "docs/theory.md, section 8",
    _everything,
)
def lazy_order(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """Slope of log(gap) over log(epsilon), from the largest epsilon to the smallest where rounding does not show.

    What is wrong anywhere keeps a gap, of slope 0. With a smooth activation ``g = g_1 epsilon (1 + c epsilon)``, where
    c can be some tens for unit-wise steps. With a kink, g falls as epsilon^(1/2) to epsilon^1 by how many units change
    sides, few and by chance. A quarter is allowed for both. A higher order is no fault.
    """
    _need_mse(evidence)
    runs = _lazy_runs(evidence)
    _need_training_regime(evidence, runs[0].laziness)
    if len(runs) < 2:
        raise NotApplicableError("a slope takes two epsilons at least")
    shares = [run.laziness for run in runs]
    gaps = [evidence.lazy_gap(run) for run in runs]
    if not np.isfinite(gaps).all():
        why = "a run was broken off, or has outputs that are no numbers"
        return verdict(False, np.inf, evidence.order, ORDER_TOLERANCE, why)
    # Ten times what rounding may do, so that it changes no slope.
    floors = [10 * evidence.round_off(share) for share in shares]
    seen = [i for i in range(len(runs)) if not gaps[i] <= floors[i]]
    if not seen:
        raise NotApplicableError("the gap is round-off at every epsilon: training is linear here")
    far, near = seen[0], seen[-1]
    bounded = far == near < len(runs) - 1
    if bounded:
        # The next gap is at most its floor, and the slope at least what is found.
        near += 1
        gaps[near] = floors[near]
    elif far == near:
        # The gap grows as epsilon falls: the one before is at most its floor.
        far -= 1
        gaps[far] = floors[far]
    slope = float(np.log(gaps[far] / gaps[near]) / np.log(shares[far] / shares[near]))
    holds = slope >= evidence.order - ORDER_TOLERANCE
    if bounded and not holds:
        raise NotApplicableError(
            f"only at epsilon = {shares[far]:g} is the gap more than round-off"
        )
    why = f"slope of log(gap) over log(epsilon), {shares[far]:g} to {shares[near]:g}, at least that less the tolerance"
    return verdict(holds, slope, evidence.order, ORDER_TOLERANCE, why)


def _lazy_runs(evidence: Evidence) -> list[LazyRun]:
    """From the largest epsilon to the smallest."""
    if not evidence.lazy:
        raise NotApplicableError("no run at an epsilon below 1 was made")
    return sorted(evidence.lazy, key=lambda run: -run.laziness)


@claim(
    "finite-width-gap",
    "the trained network follows the function-space prediction up to O(1/sqrt(M))",
    "Karakida & Osawa 2020; Lee et al. 2019; docs/theory.md, section 4",
    _everything,
)
def finite_width_gap(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """``sup_t ||f_t - f_t^predicted||_F`` over `Evidence.scale`, on the training set or the test set.

    Within `Evidence.finite_width_tolerance`. The prediction uses the measured K, so damping and
    dispersion are inside it.
    """
    _need_training_regime(evidence)
    measured = evidence.lazy_gap(LazyRun(1.0, evidence.training))
    tolerance = evidence.finite_width_tolerance()
    return verdict(measured <= tolerance, measured, 0.0, tolerance, "relative sup gap on both sets")


@claim(
    "lazy-parameters",
    "parameters move little against their norm",
    "Lee et al. 2019; Karakida & Osawa 2020; docs/theory.md, section 4",
    _everything,
)
def lazy_parameters(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """``||theta_T - theta_0||/||theta_0||`` at most `Evidence.jacobian_change`, which is O(1/sqrt(M)).

    Theory: a change of O(sqrt(NC)) against O(sqrt(M)) a layer (see `Evidence.width_ratio`). The
    prediction shown is the linearised network's; for unit-wise it depends on directions that only the
    damping bounds, so that it is no sharper test.
    """
    _need_training_regime(evidence)
    assert evidence.training.parameter_distances is not None
    measured = float(evidence.training.parameter_distances[-1]) / evidence.parameter_norm
    predicted = evidence.predicted_distance / evidence.parameter_norm
    if evidence.network.depth == 1:
        raise NotApplicableError("a linear model has no lazy limit")
    limit = evidence.jacobian_change()
    return verdict(
        measured <= limit,
        measured,
        predicted,
        limit,
        "||theta_T - theta_0||/||theta_0||, at most the tolerance",
    )


@claim(
    "distinct-minima",
    "test predictions follow the method's own Q, not another method's",
    "Karakida & Osawa 2020; docs/theory.md, section 4",
    _everything,
)
def distinct_minima(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """Final test outputs nearer to the own prediction than to any other method's.

    Distances are root mean squares over samples, relative to that of f_0 - y on the training set. The
    own one may not exceed `Evidence.finite_width_tolerance`. Methods whose predictions agree to 1e-3 of
    what they travel have the same minimum and are no rivals; where another is no
    further than the own gap, which is within the tolerance, this width cannot tell them apart and the
    claim does not apply.
    """
    run = evidence.laziest
    _need_training_regime(evidence, run.laziness)
    _need_mse(evidence)
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
    # Back to epsilon = 1.
    first = np.asarray(run.training.test_outputs[0])
    final = first + (np.asarray(run.training.test_outputs[-1]) - first) / run.laziness
    residual = np.asarray(evidence.training.outputs[0]) - evidence.targets
    scale = float(np.linalg.norm(residual)) * (len(final) / len(residual)) ** 0.5
    predicted = np.asarray(evidence.prediction.test_outputs[-1])
    whole = run.training.num_steps == evidence.prediction.num_steps and not run.training.diverged
    own = sup_gap([final], [predicted], scale) if whole else np.inf
    apart = {name: sup_gap([predicted], [f], scale) for name, f in rivals.items()}
    apart = {n: d for n, d in apart.items() if not d <= SAME_PREDICTION * evidence.travel()}
    if not apart:
        raise NotApplicableError("every other approximation has the same minimum")
    tolerance = evidence.lazy_tolerance(run.laziness)
    _need_power(tolerance, evidence.travel(), "what the outputs travel")
    distances = {name: sup_gap([final], [rivals[name]], scale) for name in apart}
    nearest = min(distances, key=lambda name: distances[name])
    if own <= tolerance and min(apart[nearest], distances[nearest]) <= own:
        raise NotApplicableError(
            f"at this width the test predictions of {evidence.name} and {nearest} cannot be told apart "
            f"(own gap {own:.2g}, they differ by {apart[nearest]:.2g})"
        )
    return verdict(
        own <= tolerance and own < distances[nearest],
        own,
        0.0,
        min(tolerance, distances[nearest]),
        f"gap of the final test outputs to the own Q{_at(run.laziness)}; nearest other, {nearest}, at "
        f"{distances[nearest]:.2g}",
    )


@claim(
    "anisotropic",
    "K is not isotropic: its dispersion does not vanish with the width",
    "Karakida & Osawa 2020; docs/theory.md, section 3",
    _anisotropic,
)
def anisotropic(evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
    """Dispersion above 3/sqrt(hidden units).

    A map that becomes isotropic as the width grows is a sum over units and disperses by about
    1/sqrt(sum M), as the unit-wise one does (`unit_wise_dispersion`).
    """
    if evidence.num_samples * evidence.network.output_dim < 10:
        raise NotApplicableError("K has fewer than ten rows, too few to speak of a spectrum")
    units = _hidden_units(evidence)
    if not units:
        raise NotApplicableError("a linear model has no width to grow")
    floor = ANISOTROPY_FACTOR / units**0.5
    if not floor <= ANISOTROPY_LIMIT:
        raise NotApplicableError(
            f"a sum over {units} units may disperse by {floor:.2g} and still become isotropic: widen"
        )
    if not evidence.ntk_condition >= 2:
        raise NotApplicableError(
            f"the NTK itself is nearly a multiple of I (condition number {evidence.ntk_condition:.2g})"
        )
    measured = float(evidence.isotropy.dispersion)
    return verdict(
        measured > floor,
        measured,
        floor,
        0.0,
        f"dispersion of K, above {ANISOTROPY_FACTOR:g}/sqrt(units)",
    )

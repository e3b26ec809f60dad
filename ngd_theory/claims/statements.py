"""The statements of the theory, each with its check; tolerances are derived, not tuned."""

from collections.abc import Mapping

import numpy as np

from ngd_theory.claims.claim import Finding, NotApplicableError, claim
from ngd_theory.claims.evidence import Evidence, residual_ratios, sup_gap
from ngd_theory.theory import unit_wise_dispersion

#: Step size of the run beyond the edge of stability, times alpha: |1 - 2.5| = 1.5 a step.
EDGE_SCALE = 2.5
#: Residual of that run over the initial one: the edge is that of the linear dynamics, near a minimum.
EDGE_RESIDUAL = 0.01
#: Share of alpha that damping and round-off may take before a statement about alpha says nothing.
MAP_TOLERANCE_LIMIT = 0.5
#: Dispersion below which a map would no longer count as anisotropic.
ANISOTROPY_FLOOR = 0.3


def _isotropic(evidence: Evidence) -> bool:
    return evidence.constant is not None


def _anisotropic(evidence: Evidence) -> bool:
    return evidence.constant is None


def _everything(evidence: Evidence) -> bool:
    return True


def edge_targets(outputs, targets):
    """Targets that leave a residual of `EDGE_RESIDUAL` times the one to ``targets``."""
    return outputs - EDGE_RESIDUAL * (outputs - targets)


def _need_mse(evidence: Evidence) -> None:
    if evidence.loss != "mse":
        raise NotApplicableError("stated for the MSE loss, where the Fisher of the outputs is I")


def _need_conditions(evidence: Evidence) -> None:
    broken = [c.why for c in evidence.conditions if not c.holds]
    if broken:
        raise NotApplicableError(broken[0])


def _need_stable_step(evidence: Evidence) -> None:
    if evidence.loss != "mse":
        return
    rates = evidence.step_size * evidence.spectrum
    if rates.max() >= 2 or rates.min() < -evidence.map_tolerance():
        raise NotApplicableError(
            f"eta K has eigenvalues from {rates.min():.2g} to {rates.max():.2g}; the linearised network "
            "itself contracts only between 0 and 2"
        )


def _need_lazy_prediction(evidence: Evidence) -> None:
    limit = evidence.width_ratio()
    if limit >= 1:
        raise NotApplicableError(
            f"(sqrt(NC) + L)/sqrt(M) = {limit:.2g}: finite-width effects are as large as what is "
            "predicted; widen the network or use fewer samples"
        )
    if evidence.predicted_distance is None or evidence.network.depth == 1:
        return
    movement = evidence.predicted_distance / evidence.parameter_norm
    if not movement <= limit:
        raise NotApplicableError(
            f"the linearised network itself moves {movement:.2g} of its norm, out of the lazy regime "
            f"((sqrt(NC) + L)/sqrt(M) = {limit:.2g}): raise the damping or the width"
        )


def _need_training_regime(evidence: Evidence) -> None:
    _need_stable_step(evidence)
    _need_lazy_prediction(evidence)


def _need_isotropy(evidence: Evidence) -> None:
    _need_mse(evidence)
    _need_conditions(evidence)
    if evidence.map_tolerance() >= MAP_TOLERANCE_LIMIT:
        raise NotApplicableError(
            f"damping {evidence.damping:g} may take {evidence.map_tolerance():.2g} of alpha: lower it"
        )


@claim(
    "isotropy",
    "K = alpha I: the natural gradient is isotropic in function space",
    "Karakida & Osawa 2020; docs/theory.md, section 3",
    _isotropic,
)
def isotropy(evidence: Evidence, others: Mapping[str, Evidence]) -> Finding:
    """Dispersion of K below what damping, round-off and, unit-wise, the number of units allow.

    Exact, block-wise and K-FAC maps are isotropic at any width that meets the rank conditions, so only
    `Evidence.map_tolerance` is allowed. The unit-wise map is a sum over random units whose dispersion
    has the expectation `unit_wise_dispersion` ~ M^(-1/2): twice it is allowed (with 1/sqrt(sum M) in
    place of a zero expectation).
    """
    _need_isotropy(evidence)
    measured = float(evidence.isotropy.dispersion)
    predicted, tolerance = _map_expectation(evidence)
    return Finding(
        measured <= predicted + tolerance, measured, predicted, tolerance, "dispersion of K"
    )


def _is_isotropic(evidence: Evidence) -> bool:
    if evidence.constant is None:
        return False
    try:
        _need_isotropy(evidence)
        _need_lazy_prediction(evidence)
    except NotApplicableError:
        return False
    return True


def _map_expectation(evidence: Evidence) -> tuple[float, float]:
    tolerance = evidence.map_tolerance()
    if not evidence.approximation.asymptotic:
        return 0.0, tolerance
    expected = unit_wise_dispersion(evidence.network)
    units = sum(s.num_units for s in evidence.network.layer_sizes[:-1])
    return expected, tolerance + max(expected, max(units, 1) ** -0.5)


@claim(
    "constant",
    "tr K/(NC) is the predicted isotropy constant alpha",
    "Karakida & Osawa 2020; docs/theory.md, section 3",
    _isotropic,
)
def constant(evidence: Evidence, others: Mapping[str, Evidence]) -> Finding:
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
        tolerance += 3 * (evidence.network.output_dim / max(active, 1)) ** 0.5
    tolerance *= evidence.constant
    return Finding(
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
def contraction(evidence: Evidence, others: Mapping[str, Evidence]) -> Finding:
    """``sup_t abs(||r_t||/||r_0|| - abs(1 - eta alpha)^t)`` within the finite-width (sqrt(NC) + L)/sqrt(M)."""
    _need_training_regime(evidence)
    _need_isotropy(evidence)
    measured = evidence.residual_ratios
    predicted = np.abs(1 - evidence.step_scale) ** np.arange(len(measured))
    worst = int(np.argmax(np.abs(measured - predicted)))
    tolerance = evidence.finite_width_tolerance() + _map_error(evidence)
    return Finding(
        bool(np.max(np.abs(measured - predicted)) <= tolerance),
        float(measured[worst]),
        float(predicted[worst]),
        tolerance,
        f"||r_t||/||r_0|| where it is furthest off, t = {worst}",
    )


def _map_error(evidence: Evidence) -> float:
    """How far one step of K may be from alpha: expectation and tolerance of its dispersion."""
    return sum(_map_expectation(evidence))


@claim(
    "one-step",
    "at eta = 1/alpha one step reaches zero training loss",
    "Karakida & Osawa 2020; docs/theory.md, section 2",
    _isotropic,
)
def one_step(evidence: Evidence, others: Mapping[str, Evidence]) -> Finding:
    """Loss after one step below ``((sqrt(NC) + L)/sqrt(M))^2`` of the initial loss: the square of the residual's."""
    _need_isotropy(evidence)
    _need_lazy_prediction(evidence)
    if abs(evidence.step_scale - 1) > 1e-12:
        raise NotApplicableError(f"the step scale is {evidence.step_scale:g}, not 1")
    if evidence.training.num_steps < 1:
        raise NotApplicableError("no step was made")
    measured = float(evidence.residual_ratios[1] ** 2)
    tolerance = (evidence.finite_width_tolerance() + _map_error(evidence)) ** 2
    return Finding(measured <= tolerance, measured, 0.0, tolerance, "loss after one step / initial")


@claim(
    "divergence-edge",
    "beyond eta = 2/alpha a small residual grows, by abs(1 - eta alpha) a step",
    "docs/theory.md, section 2",
    _isotropic,
)
def divergence_edge(evidence: Evidence, others: Mapping[str, Evidence]) -> Finding:
    """Growth a step of a residual of 0.01 ||r_0|| at eta = 2.5/alpha: above 1, and 1.5 to tolerance.

    The nonlinear part of a step is quadratic in it, so its share of the residual is the finite-width
    (sqrt(NC) + L)/sqrt(M) times 2.5^2 (step) times 0.01 (residual); the map's own error enters times 2.5.
    """
    _need_isotropy(evidence)
    _need_lazy_prediction(evidence)
    if evidence.beyond_edge is None:
        raise NotApplicableError("no run beyond the edge was made")
    run = evidence.beyond_edge
    margin = EDGE_SCALE * _map_error(evidence)
    if margin >= EDGE_SCALE - 2:
        raise NotApplicableError(
            f"K may be {_map_error(evidence):.2g} alpha off at this damping and width, so that "
            f"{EDGE_SCALE}/alpha need not lie beyond the edge"
        )
    targets = edge_targets(np.asarray(run.outputs[0]), evidence.targets)
    measured = float(residual_ratios(run, targets)[-1] ** (1 / run.num_steps))
    predicted = abs(1 - EDGE_SCALE)
    nonlinear = EDGE_SCALE**2 * EDGE_RESIDUAL * evidence.width_ratio()
    tolerance = nonlinear + margin
    return Finding(
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
def gd_slower(evidence: Evidence, others: Mapping[str, Evidence]) -> Finding:
    """GD's final ``||r_T||/||r_0||`` is its eigenbasis prediction, and above every isotropic method's."""
    _need_training_regime(evidence)
    _need_mse(evidence)
    if evidence.training.num_steps < 1:
        raise NotApplicableError("no step was made")
    measured = float(evidence.residual_ratios[-1])
    predicted = float(residual_ratios(evidence.prediction, evidence.targets)[-1])
    tolerance = evidence.finite_width_tolerance()
    slowest = max(
        (float(e.residual_ratios[-1]) for e in others.values() if _is_isotropic(e)), default=0.0
    )
    return Finding(
        abs(measured - predicted) <= tolerance and measured > slowest,
        measured,
        predicted,
        tolerance,
        f"||r_T||/||r_0|| of GD, NTK condition number {evidence.ntk_condition:.3g}; slowest isotropic "
        f"method {slowest:.2g}",
    )


@claim(
    "finite-width-gap",
    "the trained network follows the function-space prediction up to O(1/sqrt(M))",
    "Karakida & Osawa 2020; Lee et al. 2019; docs/theory.md, section 4",
    _everything,
)
def finite_width_gap(evidence: Evidence, others: Mapping[str, Evidence]) -> Finding:
    """``sup_t ||f_t - f_t^predicted||_F / ||f_0 - y||_F`` on the training set within (sqrt(NC) + L)/sqrt(M).

    The prediction uses the measured K, so damping and dispersion are inside it. Under cross-entropy,
    where the targets are at infinity, the scale is the distance that the prediction travels.
    """
    _need_training_regime(evidence)
    start = np.asarray(evidence.training.outputs[0])
    if evidence.loss == "mse":
        scale = float(np.linalg.norm(start - evidence.targets))
    else:
        predicted = np.asarray(evidence.prediction.outputs)
        scale = sup_gap(predicted, np.broadcast_to(start, predicted.shape), 1.0)
    measured = sup_gap(evidence.training.outputs, evidence.prediction.outputs, scale)
    tolerance = evidence.finite_width_tolerance()
    return Finding(measured <= tolerance, measured, 0.0, tolerance, "relative sup gap")


@claim(
    "lazy-parameters",
    "parameters move little against their norm",
    "Lee et al. 2019; Karakida & Osawa 2020; docs/theory.md, section 4",
    _everything,
)
def lazy_parameters(evidence: Evidence, others: Mapping[str, Evidence]) -> Finding:
    """``||theta_T - theta_0||/||theta_0||`` at most (sqrt(NC) + L)/sqrt(M).

    Theory: a change of O(sqrt(NC)) against O(sqrt(M)) a layer (see `Evidence.width_ratio`). The
    prediction shown is the linearised network's; for unit-wise it depends on directions that only the
    damping bounds, so that it is no sharper test.
    """
    _need_training_regime(evidence)
    if evidence.training.num_steps < 1 or evidence.predicted_distance is None:
        raise NotApplicableError("no step was made")
    assert evidence.training.parameter_distances is not None
    measured = float(evidence.training.parameter_distances[-1]) / evidence.parameter_norm
    predicted = evidence.predicted_distance / evidence.parameter_norm
    if evidence.network.depth == 1:
        raise NotApplicableError("a linear model has no lazy limit")
    limit = evidence.finite_width_tolerance()
    return Finding(
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
def distinct_minima(evidence: Evidence, others: Mapping[str, Evidence]) -> Finding:
    """Final test outputs nearer to the own prediction than to any other method's.

    Distances are root mean squares over samples, relative to that of f_0 - y on the training set. The
    own one may not exceed the
    finite-width (sqrt(NC) + L)/sqrt(M); where another prediction is nearer while the own is within that tolerance,
    this width cannot tell them apart and the claim does not apply.
    """
    _need_training_regime(evidence)
    _need_mse(evidence)
    if evidence.training.test_outputs is None:
        raise NotApplicableError("no test set")
    rivals = {
        name: e.prediction.test_outputs[-1]
        for name, e in others.items()
        if name != evidence.name and e.prediction.test_outputs is not None
    }
    if not rivals:
        raise NotApplicableError("no other approximation was run")
    assert evidence.prediction.test_outputs is not None
    final = np.asarray(evidence.training.test_outputs[-1])
    residual = np.asarray(evidence.training.outputs[0]) - evidence.targets
    scale = float(np.linalg.norm(residual)) * (len(final) / len(residual)) ** 0.5
    own = sup_gap([final], evidence.prediction.test_outputs[-1:], scale)
    distances = {name: sup_gap([final], [f], scale) for name, f in rivals.items()}
    nearest = min(distances, key=lambda name: distances[name])
    tolerance = evidence.finite_width_tolerance()
    if distances[nearest] <= own <= tolerance:
        raise NotApplicableError(
            f"at this width the test predictions of {evidence.name} and {nearest} cannot be told apart "
            f"(own gap {own:.2g}, other's {distances[nearest]:.2g})"
        )
    return Finding(
        own <= tolerance and own < distances[nearest],
        own,
        0.0,
        min(tolerance, distances[nearest]),
        f"gap of the final test outputs to the own Q; nearest other, {nearest}, at "
        f"{distances[nearest]:.2g}",
    )


@claim(
    "anisotropic",
    "K is not isotropic: its dispersion does not vanish with the width",
    "Karakida & Osawa 2020; docs/theory.md, section 3",
    _anisotropic,
)
def anisotropic(evidence: Evidence, others: Mapping[str, Evidence]) -> Finding:
    """Dispersion above 0.3, well below the 0.47 to 0.66 seen for entry-wise from M = 64 to 1024."""
    if evidence.num_samples * evidence.network.output_dim < 10:
        raise NotApplicableError("K has fewer than ten rows, too few to speak of a spectrum")
    measured = float(evidence.isotropy.dispersion)
    return Finding(
        measured > ANISOTROPY_FLOOR,
        measured,
        ANISOTROPY_FLOOR,
        0.0,
        f"dispersion of K, above {ANISOTROPY_FLOOR}",
    )

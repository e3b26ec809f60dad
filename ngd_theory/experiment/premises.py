"""Premises of the claims. Each function raises an error with the reason if its premise does not hold."""

import numpy as np

from ngd_theory.experiment.claim import NotApplicableError, UndecidedError
from ngd_theory.experiment.evidence import Evidence, LazyRun

#: Travel of the outputs, in machine epsilons, below which a run shows nothing.
NO_MOTION = 1e6
#: Share of alpha that damping and round-off may change. Above it, statements about alpha do not apply.
MAP_TOLERANCE_LIMIT = 0.5


def need_mse(evidence: Evidence) -> None:
    """Require the MSE loss, for statements about contraction and for closed forms."""
    if evidence.loss != "mse":
        raise NotApplicableError("stated for the MSE loss, where the Fisher of the outputs is I")


def need_plain_steps(evidence: Evidence) -> None:
    """Require plain steps, for statements about powers of ``1 - eta K``."""
    if evidence.scheme:
        raise NotApplicableError(
            f"stated for plain steps on the full batch, not for {evidence.scheme}"
        )


def need_conditions(evidence: Evidence) -> None:
    """Require the conditions of isotropy, except those that the solves remedy."""
    if evidence.conditions is None:
        raise UndecidedError("the conditions of isotropy were not checked")
    broken = [c.why for c in evidence.conditions if c.blocking and not c.holds]
    if broken:
        raise NotApplicableError(broken[0])


def need_isotropy(evidence: Evidence) -> None:
    """Require the conditions of isotropy, and a damping that changes alpha by less than `MAP_TOLERANCE_LIMIT`."""
    need_conditions(evidence)
    if evidence.approximation.asymptotic and evidence.damping > 0 and evidence.damping_bias is None:
        raise UndecidedError("no bound is known here on what damping takes of K")
    if not evidence.map_tolerance() < MAP_TOLERANCE_LIMIT:
        damping = evidence.damping if evidence.undamped is None else evidence.judged_damping
        raise NotApplicableError(
            f"damping {damping:g} may take {evidence.map_tolerance():.2g} of alpha: lower it"
        )


def need_training_regime(evidence: Evidence, laziness: float = 1.0) -> None:
    """Require a stable step size, `need_lazy_prediction` and, below epsilon = 1, `need_lazy_solves`."""
    _need_stable_step(evidence)
    need_lazy_prediction(evidence, laziness)
    if laziness < 1:
        need_lazy_solves(evidence, laziness)


def need_lazy_prediction(
    evidence: Evidence, laziness: float = 1.0, residuals: float | None = None
) -> None:
    """Require outputs that move, but not too far for the width.

    ``residuals`` says how far a run with its own step size goes (`Evidence.way`). The effect of the width falls with
    epsilon: at a small epsilon nearly every network can be judged.
    """
    need_width(evidence, laziness)
    share = laziness**evidence.order
    if evidence.prediction.num_steps < 1:
        raise NotApplicableError("no step was made")
    travel, displacement = evidence.way(residuals)
    mend = "lower the step scale or widen" if residuals is None else "lower --laziness or widen"
    if not travel > NO_MOTION * evidence.epsilon:
        raise NotApplicableError(
            f"the outputs are predicted to move by {travel:.1g} of the residual, which is round-off: raise "
            "the step scale or the number of steps"
        )
    if not evidence.width_ratio() * share * travel < 1:
        raise NotApplicableError(
            f"the outputs are predicted to travel {travel:.2g} times the residual, too far for the width "
            f"((sqrt(NC) + L)/sqrt(M) = {evidence.width_ratio():.2g}{at(laziness)}): {mend}"
        )
    if not displacement * share < 1:
        raise NotApplicableError(
            f"the linearised network itself changes a layer by {displacement:.2g} of what its "
            f"random weights are{at(laziness)}, out of the lazy regime: raise the damping or the width"
        )


def need_lazy_solves(evidence: Evidence, laziness: float, residuals: float | None = None) -> None:
    """Require an epsilon at which training changes the solved systems by less than their smallest eigenvalue."""
    change = laziness * evidence.jacobian_change(residuals) * evidence.solve_condition
    if not change < 1:
        raise NotApplicableError(
            f"{evidence.name} solves systems of condition {evidence.solve_condition:.1g}, which training changes by "
            f"{change:.2g} of their smallest eigenvalue{at(laziness)}: raise the damping or lower --laziness"
        )


def need_width(evidence: Evidence, laziness: float = 1.0) -> None:
    """Require a width whose effect is smaller than the prediction."""
    limit = evidence.width_ratio() * laziness**evidence.order
    if not limit < 1:
        raise NotApplicableError(
            f"(sqrt(NC) + L)/sqrt(M) = {evidence.width_ratio():.2g}{at(laziness)}: finite-width effects are as large "
            "as what is predicted; widen the network or use fewer samples"
        )


def need_lazy_runs(evidence: Evidence) -> list[LazyRun]:
    """Runs at epsilons below 1, from the largest epsilon to the smallest; there must be one."""
    if not evidence.lazy:
        raise UndecidedError("no run at an epsilon below 1 was made")
    return sorted(evidence.lazy, key=lambda run: -run.laziness)


def _need_stable_step(evidence: Evidence) -> None:
    if evidence.loss != "mse" or evidence.scheme:
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


def at(laziness: float) -> str:
    """The epsilon of a run in words; empty for the network itself."""
    return f", at epsilon = {laziness:g}" if laziness < 1 else ""

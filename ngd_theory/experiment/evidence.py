"""What an experiment measured, as the claims and the tables read it."""

from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np

from ngd_theory import losses
from ngd_theory.dynamics import Trajectory, lazy_targets
from ngd_theory.fisher import Approximation
from ngd_theory.networks import Network
from ngd_theory.theory import Condition, Isotropy
from ngd_theory.theory.conditions import NEVER_ISOTROPIC

#: Step size of the run beyond the edge of stability, times alpha: |1 - 2.5| = 1.5 a step; and its steps.
EDGE_SCALE, EDGE_STEPS = 2.5, 3
#: Of a gap at one epsilon, what may be allowed at the next.
LARGEST_SHARE = 0.2
#: Roundings of a forward pass, and of a step, that outputs carry at most.
ROUNDINGS = 100


@dataclass(frozen=True)
class LazyRun:
    """Training towards ``f_0 + epsilon (y - f_0)``, epsilon = ``laziness`` (docs/theory.md, section 8)."""

    laziness: float
    training: Trajectory


@dataclass(frozen=True)
class LayerEvidence:
    """One layer's share K_l of a map that is a sum over layers.

    Attributes
    ----------
    layer : int
        From 1.
    place : {"first", "hidden", "output"}
        Hidden: the layers between the first and the last.
    positions : int
        T.
    input_rank, sensitivity_rank : int
        Of the (N T, P) matrix a and the (N C T, M) matrix delta, as measured.
    full_rank : bool
        Whether both ranks are those of independent rows.
    isotropy : Isotropy
        Of K_l.
    constant : float or None
        Predicted alpha_l.
    """

    layer: int
    place: str
    positions: int
    input_rank: int
    sensitivity_rank: int
    full_rank: bool
    isotropy: Isotropy
    constant: float | None


@dataclass(frozen=True)
class Evidence:
    """One approximation's maps, predictions and measured training on one network.

    Which parts are measured is asked for (`ngd_theory.experiment.pipeline.PARTS`). What was not is None, infinite or
    empty, and a run that was not made has its start alone.

    Attributes
    ----------
    approximation : Approximation
    network : Network
    num_samples : int
        N.
    loss : str
    damping : float
        rho, as this approximation was given it.
    step_scale : float
        eta alpha (eta lambda_max(K) where there is no alpha).
    step_size : float
        eta.
    constant : float or None
        Predicted alpha.
    isotropy : Isotropy
        Of the measured train map K; under another Fisher of the outputs, Lambda, see `pipeline.judged_map`.
    spectrum : (NC,) array
        Eigenvalues of K.
    damping_bias : float or None
        See `Approximation.damping_bias`.
    conditions : tuple of Condition
    targets : (N, C) array
    prediction, training : Trajectory
        Function space and parameter space, the same step size.
    beyond_edge : LazyRun or None
        Training at ``EDGE_SCALE / alpha``, where alpha is predicted: the edge is that of the linear dynamics.
    predicted_distance : float
        ``||theta_T - theta_0||`` of the linearised network.
    parameter_norm : float
        ``||theta_0||``.
    displacement : float
        Largest over layers of the operator norm of the linearised network's parameter change, over the
        root of the layer's width: how much a step changes the features that follow the layer and the
        sensitivities before it, against what its random weights do to them.
    ntk_condition : float
        ``lambda_max(Theta)/lambda_min(Theta)``, the smallest not below round-off.
    epsilon : float
        Machine epsilon of the run's precision.
    seconds : float
        Wall time of this approximation, compilation included.
    limit : Trajectory or None
        Prediction of the infinitely wide network from the same outputs, where it was asked for.
    map : (NC, NC) array or None
        What ``isotropy`` is of.
    test_targets : (N', C) array or None
    ntk_ends : (float, float)
        Smallest and largest eigenvalue of Theta at initialisation.
    kernel_drift, kernel_distance : float or None
        Relative distance of Theta at initialisation from the trained one, and from the infinite width's.
    layers : tuple of LayerEvidence
    broken_premises : dict of str to str
        See `Approximation.broken_premises`.
    lazy : tuple of LazyRun
        The same training towards targets nearer and nearer to f_0.
    step_error : float or None
        ``||J u - K r|| / ||K r||`` of the natural gradient u of the residual r, where J u is the derivative of the
        network itself along u; or the same with Q, on the test set, if that is larger.
    step_amplification : float
        ``||K|| ||r|| / ||K r||``, or the same with Q: how much more rounding weighs in K r than in K.
    """

    approximation: Approximation
    network: Network
    num_samples: int
    loss: str
    damping: float
    step_scale: float
    step_size: float
    constant: float | None
    isotropy: Isotropy
    spectrum: np.ndarray
    damping_bias: float | None
    conditions: tuple[Condition, ...]
    targets: np.ndarray
    prediction: Trajectory
    training: Trajectory
    beyond_edge: LazyRun | None
    predicted_distance: float
    parameter_norm: float
    displacement: float
    ntk_condition: float
    epsilon: float
    seconds: float
    limit: Trajectory | None = None
    map: np.ndarray | None = None
    test_targets: np.ndarray | None = None
    ntk_ends: tuple[float, float] = (np.nan, np.nan)
    kernel_drift: float | None = None
    kernel_distance: float | None = None
    layers: tuple[LayerEvidence, ...] = ()
    broken_premises: dict[str, str] = field(default_factory=dict)
    lazy: tuple[LazyRun, ...] = ()
    step_error: float | None = None
    step_amplification: float = 1.0

    @property
    def name(self) -> str:
        """The approximation's public name."""
        return self.approximation.name

    #: Of the row of the whole network, beside those of `layers`.
    layer, place, positions, input_rank, sensitivity_rank = 0, "network", None, None, None

    @property
    def full_rank(self) -> bool | None:
        """Whether all layers but the last are; None where they were not measured."""
        return all(layer.full_rank for layer in self.layers[:-1]) if self.layers else None

    @property
    def never_isotropic(self) -> bool:
        """Whether the theory says that K is anisotropic at every width; with no constant either it says nothing."""
        return NEVER_ISOTROPIC in self.approximation.requirements

    @property
    def laziest(self) -> LazyRun:
        """The run with the smallest epsilon: `training` itself where no other was made."""
        return min(self.lazy, key=lambda run: run.laziness, default=LazyRun(1.0, self.training))

    @property
    def order(self) -> float:
        """Least power of epsilon that relative gaps fall with: 1, or 1/2 while units with a kink change sides."""
        maps = [function for block in self.network.blocks for function in block.after]
        return 1.0 if all(getattr(function, "smooth", False) for function in maps) else 0.5

    def residual_ratios(self, run: LazyRun, num_steps: int | None = None) -> np.ndarray:
        """Measured ``||r_t|| / ||r_0||`` for t = 0, 1, ... (MSE).

        The steps that a run does not have of ``num_steps``, those of the prediction if left out, are infinite.
        """
        steps = self.prediction.num_steps if num_steps is None else num_steps
        start = np.asarray(run.training.outputs[0])
        found = residual_ratios(run.training, lazy_targets(start, self.targets, run.laziness))
        missing = max(steps + 1 - len(found), int(run.training.diverged))
        return np.append(found, np.full(missing, np.inf))

    def lazy_gap(self, run: LazyRun) -> float:
        """Largest of `gaps` of a run, on both sets, over ``epsilon scale``: all relative as at epsilon = 1.

        Infinite for a run that does not have the steps of the prediction.
        """
        if run.training.diverged or run.training.num_steps != self.prediction.num_steps:
            return np.inf
        pairs = [(run.training.outputs, self.prediction.outputs, self.scale)]
        left, right = run.training.test_outputs, self.prediction.test_outputs
        if left is not None and right is not None:
            pairs.append((left, right, self.test_scale))
        return max(
            sup_gap(left, lazy_targets(right[0], right, run.laziness), run.laziness * scale)
            for left, right, scale in pairs
        )

    def round_off(self, laziness: float) -> float:
        """What rounding adds to a relative gap: that of the outputs, over ``epsilon scale``, and that of the solves.

        Outputs lose ``ROUNDINGS`` machine epsilons a step, of their own size (on the set where it is larger) and that
        of the targets.
        """
        sizes = [np.linalg.norm(self.training.outputs[0])]
        if (test := self.training.test_outputs) is not None:
            sizes.append(np.linalg.norm(test[0]) * (self.num_samples / test.shape[1]) ** 0.5)
        size = np.max(sizes) + np.linalg.norm(self.targets)
        steps = max(1, self.prediction.num_steps)
        size_of_map = self.num_samples * self.network.output_dim
        rounding = ROUNDINGS * steps * self.epsilon * float(size) / (laziness * self.scale)
        return rounding + size_of_map * self.epsilon * self.ntk_condition

    def losses(self, of: str, split: str = "training") -> np.ndarray | None:
        """Loss after every step; infinite where it is beyond the range of its floats.

        Parameters
        ----------
        of : {"training", "prediction", "limit"}
        split : {"training", "test"}

        Returns
        -------
        (T + 1,) array or None
            None for a run that was not asked for, and without a test set.
        """
        run: Trajectory | None = getattr(self, of)
        if run is None:
            return None
        values = np.asarray(run.losses)
        if split == "test":
            if run.test_outputs is None:
                return None
            objective, targets = losses.by_name(self.loss), jnp.asarray(self.test_targets)
            outputs = (jnp.asarray(f) for f in run.test_outputs)
            values = np.array([float(objective.value(f, targets)) for f in outputs])
        return np.where(np.isnan(values), np.inf, values)

    def gaps(self, of: str = "prediction", split: str = "training") -> np.ndarray | None:
        """``||f_t - f_t^predicted||_F`` over `scale` at every step; on the test set a root mean square as well.

        Parameters and None are those of `losses`.
        """
        predicted: Trajectory | None = getattr(self, of)
        if predicted is None:
            return None
        if split == "training":
            return gaps(self.training.outputs, predicted.outputs, self.scale)
        left, right = self.training.test_outputs, predicted.test_outputs
        if left is None or right is None:
            return None
        return gaps(left, right, self.test_scale)

    def width_ratio(self) -> float:
        """``(sqrt(N C) + L) / sqrt(M)``, M the narrowest hidden width: the size of a finite-width effect.

        A minimum-norm step that moves NC outputs by O(1) each in its own direction moves a layer's
        weights by O(sqrt(NC)) in norm, against the O(sqrt(M)) spectral norm of its random weights:
        features, sensitivities and so K change by the ratio. What the outputs move in common moves each
        of the L layers by O(1) in one direction, and these add. For a linear model (L = 1), which has
        no such effect, its round-off.
        """
        widths = [s.num_units for s in self.network.layer_sizes[:-1]]
        if not widths:
            return 1e3 * self.epsilon * self.ntk_condition
        outputs = self.num_samples * self.network.output_dim
        return (outputs**0.5 + self.network.depth) / min(widths) ** 0.5

    @property
    def scale(self) -> float:
        """``||f_0 - y||``; under cross-entropy, where targets are at infinity, the predicted distance."""
        start = np.asarray(self.training.outputs[0])
        if self.loss == "mse":
            return float(np.linalg.norm(start - self.targets))
        return _reach(self.prediction.outputs)

    @property
    def test_scale(self) -> float:
        """`scale` for as many samples as the test set has."""
        assert self.training.test_outputs is not None
        return self.scale * (self.training.test_outputs.shape[1] / self.num_samples) ** 0.5

    def travel(self) -> float:
        """``sup_t ||f_t - f_0||`` of the prediction over `scale`, on the training or the test set.

        On the test set, norms are root mean squares over samples times sqrt(N).
        """
        reach = _reach(self.prediction.outputs)
        if (test := self.prediction.test_outputs) is not None:
            reach = max(reach, _reach(test) * (self.num_samples / test.shape[1]) ** 0.5)
        return reach / self.scale if self.scale > 0 else np.inf

    def jacobian_change(self) -> float:
        """Relative change of the Jacobian that a finite width allows along the predicted path.

        `width_ratio` is that of a minimum-norm step of length 1 and proportional to the length. A method
        that takes longer ways through parameter space is allowed its own `displacement`; both are
        O(1/sqrt(M)).
        """
        # Not Python's max, which may pass over NaN.
        allowed = self.width_ratio() * np.maximum(1.0, self.travel())
        return float(np.maximum(allowed, self.displacement))

    def finite_width_tolerance(self, laziness: float = 1.0) -> float:
        """`jacobian_change` times `travel`: what the change of K adds to outputs that travel so far.

        At a smaller epsilon the change of K is smaller by epsilon to the power `order`.
        """
        allowed = self.jacobian_change() * self.travel() * laziness**self.order
        return allowed + (self.round_off(laziness) if laziness < 1 else 0.0)

    def lazy_tolerance(self, laziness: float) -> float:
        """`finite_width_tolerance`, or twice the gap at the next larger epsilon times the ratio to the power `order`.

        Unit-wise steps at a small damping change K by more than the Jacobian changes ([KO]: as rho^-6). A gap that
        does not vanish with epsilon may be measured so too, as long as it is allowed a small share of itself only.
        """
        derived = self.finite_width_tolerance(laziness)
        runs = [run for run in (*self.lazy, LazyRun(1.0, self.training)) if run.laziness > laziness]
        if not runs:
            return derived
        run = min(runs, key=lambda run: run.laziness)
        share = 2 * (laziness / run.laziness) ** self.order
        measured = share * self.lazy_gap(run) + self.round_off(laziness)
        return (
            max(derived, measured) if share <= LARGEST_SHARE and np.isfinite(measured) else derived
        )

    def map_tolerance(self) -> float:
        """Relative error of K that damping and round-off allow: ``2 bias(rho) + NC eps kappa(Theta)``.

        ``bias(rho)`` bounds ``||K(rho) - K(0)||/alpha`` to first order; a solve loses eps kappa, and an
        N C-sized one has NC times as many roundings.
        """
        size = self.num_samples * self.network.output_dim
        bias = 0.0 if self.damping_bias is None else self.damping_bias
        return 2 * bias + size * self.epsilon * self.ntk_condition


def residual_ratios(trajectory: Trajectory, targets) -> np.ndarray:
    """``||f_t - y|| / ||f_0 - y||`` along a trajectory; infinite where it is not a number."""
    norms = _norms(np.asarray(trajectory.outputs) - np.asarray(targets))
    with np.errstate(divide="ignore", invalid="ignore"):
        return _numbers(norms / norms[0])


def gaps(left, right, scale: float) -> np.ndarray:
    """``||left_t - right_t||_F / scale`` at every step that both have; what is not a number is infinite."""
    length = min(len(left), len(right))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        difference = np.asarray(left)[:length] - np.asarray(right)[:length]
        return _numbers(_norms(difference) / np.float64(scale))


def sup_gap(left, right, scale: float) -> float:
    """The largest of `gaps`."""
    return float(np.max(gaps(left, right, scale)))


def _reach(outputs) -> float:
    outputs = np.asarray(outputs)
    return float(np.max(_norms(outputs - outputs[0])))


def _norms(steps: np.ndarray) -> np.ndarray:
    """Norm of every step; infinite where one is not a number or beyond the range of its floats."""
    with np.errstate(over="ignore", invalid="ignore"):
        return _numbers(np.linalg.norm(steps.reshape(len(steps), -1), axis=1))


def _numbers(values: np.ndarray) -> np.ndarray:
    """What is not a number is no agreement: infinite."""
    return np.where(np.isnan(values), np.inf, values)

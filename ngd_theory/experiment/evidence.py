"""What an experiment measured, as the claims and the tables read it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.special import gammaincinv, stdtrit

from ngd_theory import losses
from ngd_theory.dynamics import Trajectory
from ngd_theory.experiment.damped import DampedMap
from ngd_theory.experiment.gaps import gaps, reach, residual_ratios, sup_gap
from ngd_theory.experiment.generalisation import Generalisation
from ngd_theory.fisher import Approximation
from ngd_theory.networks import LayerSize, Network
from ngd_theory.theory import Condition, FeatureChanges, Isotropy
from ngd_theory.theory.conditions import NEVER_ISOTROPIC
from ngd_theory.theory.constants import dispersion_of_units

#: Run beyond the edge of stability: eta alpha, with a growth of |1 - 2.5| = 1.5 in each step, and number of steps.
EDGE_SCALE, EDGE_STEPS = 2.5, 3
#: Largest tolerance at one epsilon, as a share of the gap at the next larger epsilon.
LARGEST_SHARE = 0.2
#: Rounding error of the outputs after a forward pass and a step, in machine epsilons.
ROUNDINGS = 100
#: A gap counts as seen only above this many times the expected rounding.
ROUNDING_MARGIN = 10
#: Probability that a normal variable is less than four standard deviations above its mean.
FOUR_SIGMA_PROBABILITY = 0.99996833


@dataclass(frozen=True)
class LazyRun:
    """Training of the network rescaled by one epsilon, ``laziness``; 1 is the network itself.

    Outputs are those of the rescaled network. At every epsilon they start at f_0 and are trained towards y
    (docs/theory.md, section 8).
    """

    laziness: float
    training: Trajectory
    #: Number of (unit, sample) pairs on both sets whose pre-activation changed sign. Only units with a kink count.
    switched: int = 0


@dataclass(frozen=True)
class LazyGap:
    """The gap of the network rescaled by one epsilon.

    Attributes
    ----------
    epsilon : float
        1 is the network itself.
    gap : float
        The largest over all steps and both sets, relative to `Evidence.scale`; infinite for an incomplete run.
    rounding : float
        `Evidence.rounding_floor`: a gap below it shows nothing.
    """

    epsilon: float
    gap: float
    rounding: float


@dataclass(frozen=True)
class GapOrder:
    """How a gap falls with epsilon.

    Attributes
    ----------
    slope : float
        Slope of log(gap) over log(epsilon).
    far, near : float
        The two epsilons of the slope, the larger one first.
    at_least : bool
        Whether rounding and switches can explain the gap at ``near``. Then ``slope`` is a lower bound.
    gaps : tuple of float
        The gaps at ``far`` and ``near``, or upper bounds of them.
    """

    slope: float
    far: float
    near: float
    at_least: bool
    gaps: tuple[float, float]


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
    layer_name : str
    constant_from : {"sizes", "ranks"}
        Whether ``constant`` follows from sizes, as the theory predicts it, or from measured ranks.
    """

    layer: int
    place: str
    positions: int
    input_rank: int
    sensitivity_rank: int
    full_rank: bool
    isotropy: Isotropy
    constant: float | None
    layer_name: str = ""
    constant_from: str = "sizes"


@dataclass(frozen=True)
class Evidence:
    """One approximation's maps, predictions and measured training on one network.

    The caller chooses the parts to measure (`ngd_theory.experiment.pipeline.PARTS`). A part that was not measured is
    None, infinite or empty. A run that was not made has only its start.

    Attributes
    ----------
    approximation : Approximation
    network : Network
    num_samples : int
        N.
    loss : str
    damping : float
        rho, as it was given to this approximation.
    step_scale : float
        eta alpha (eta lambda_max(K) if there is no alpha).
    step_size : float
        eta.
    constant : float or None
        Predicted alpha.
    isotropy : Isotropy
        Of the measured train map K. If the Fisher of the outputs, Lambda, is not I, see `spectra.judged_map`.
    spectrum : (NC,) array
        Eigenvalues of K.
    damping_bias : float or None
        See `Approximation.damping_bias`. It is that of the map of ``undamped``, if that is measured.
    conditions : tuple of Condition or None
    targets : (N, C) array
    prediction, training : Trajectory
        Runs in function space and in parameter space, with the same step size.
    first_step, beyond_edge : LazyRun or None
        One step at ``1/alpha``, and `EDGE_STEPS` steps at ``EDGE_SCALE/alpha``; None if no alpha is predicted. Both are
        made at the smallest epsilon, as the statements are about the linear dynamics.
    predicted_distance : float
        ``||theta_T - theta_0||`` of the linearised network.
    parameter_norm : float
        ``||theta_0||``.
    displacement : float
        Operator norm of a layer's parameter change in the linearised network, divided by the root of its width; the
        largest over layers. It says how much the change affects the features after the layer and the sensitivities
        before it, relative to the effect of the random weights.
    ntk_condition : float
        ``lambda_max(Theta)/lambda_min(Theta)``, where lambda_min is at least round-off.
    epsilon : float
        Machine epsilon of the run's precision.
    seconds : float
        Wall time of this approximation, compilation included.
    limit : Trajectory or None
        Prediction of the infinitely wide network from the same outputs, if it was asked for.
    map : (NC, NC) array or None
        The map that ``isotropy`` describes.
    test_targets : (N', C) array or None
    ntk_ends : (float, float)
        Smallest and largest eigenvalue of Theta at initialisation.
    feature_changes : FeatureChanges or None
        Changes in every layer on the training set, from the start to the last step.
    kernel_drift, kernel_distance : float or None
        Relative distance of the initial Theta to the trained one, and to that of infinite width.
    layers : tuple of LayerEvidence
    broken_premises : dict of str to str
        See `Approximation.broken_premises`.
    lazy : tuple of LazyRun
        The same training at epsilons below 1.
    step_error : float or None
        ``||J u - K r|| / ||K r||``, where u is the natural gradient of the residual r, and J u is the derivative of the
        network itself along u. Or the same with Q on the test set, if that is larger.
    step_amplification : float
        ``||K|| ||r|| / ||K r||``, or the same with Q, if larger: how much K r amplifies rounding errors of K.
    maps : (array, array or None)
        K and Q, from which ``prediction`` was made (MSE).
    active_shares : (sum of M,) array or None
        Share of the samples on which each hidden unit is active; None if positions share weights.
    undamped : Isotropy or None
        Of K at a far smaller damping, for an approximation that is isotropic only in the limit of many units. There a
        unit's block is 1/M of its layer's, so that even a small damping changes it much.
    damping_shift : float
        ``||K(rho) - K||/||K||``, where K is the map of ``undamped`` and K(rho) the one used in training.
    solve_condition, map_condition : float
        See `Approximation.solve_condition`, at the damping of the training and at that of ``undamped``.
    output_spread : float
        Dispersion of a unit-wise K that is due to several outputs, whose sensitivities are not orthogonal.
    judged_damping : float
        Damping of the map of ``undamped``; rho if there is none.
    measured_sizes : tuple of LayerSize
        Sizes with measured ranks, if the theory does not know the ranks of the network; else empty.
    damped : DampedMap or None
        K on a few samples at a large damping, and the same by dense algebra.
    scheme : str
        Mini-batches and momentum of training and prediction, in words; empty for plain steps on the full batch.
    batch_size : int or None
        B, if there is a scheme.
    whitened_contraction : float or None
        Factor by which a predicted step multiplies ``|Theta^(-1/2) r|``, as a geometric mean.
    batch_bound : float or None
        Upper bound of that factor in quadratic mean, for steps of exact on independent batches.
    generalisation : Generalisation or None
        Risk of the converged network over label noise and targets.
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
    conditions: tuple[Condition, ...] | None
    targets: np.ndarray
    prediction: Trajectory
    training: Trajectory
    first_step: LazyRun | None
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
    feature_changes: FeatureChanges | None = None
    layers: tuple[LayerEvidence, ...] = ()
    broken_premises: dict[str, str] = field(default_factory=dict)
    lazy: tuple[LazyRun, ...] = ()
    step_error: float | None = None
    step_amplification: float = np.inf
    maps: tuple[Any, Any] = (None, None)
    active_shares: np.ndarray | None = None
    damped: DampedMap | None = None
    undamped: Isotropy | None = None
    damping_shift: float = np.inf
    output_spread: float = 0.0
    judged_damping: float = 0.0
    solve_condition: float = np.inf
    map_condition: float = np.inf
    measured_sizes: tuple[LayerSize, ...] = ()
    scheme: str = ""
    batch_size: int | None = None
    whitened_contraction: float | None = None
    batch_bound: float | None = None
    generalisation: Generalisation | None = None

    @property
    def sizes(self) -> tuple[LayerSize, ...]:
        """Sizes of the layers, with ranks that the theory knows beforehand or, if it knows none, with measured ones."""
        return self.measured_sizes or self.network.layer_sizes

    @property
    def constant_from(self) -> str:
        """Where alpha comes from: "sizes", before anything is drawn, or measured "ranks"."""
        return "ranks" if self.measured_sizes else "sizes"

    @property
    def name(self) -> str:
        """The approximation's public name."""
        return self.approximation.name

    #: Columns of the row of the whole network, beside the rows of `layers`.
    layer, place, positions, input_rank, sensitivity_rank = 0, "network", None, None, None
    layer_name = ""

    @property
    def full_rank(self) -> bool | None:
        """Whether all layers but the last have full rank; None if they were not measured."""
        return all(layer.full_rank for layer in self.layers[:-1]) if self.layers else None

    @property
    def never_isotropic(self) -> bool:
        """Whether the theory says that K is anisotropic at every width. If not, and without alpha, it says nothing."""
        return NEVER_ISOTROPIC in self.approximation.requirements

    @property
    def laziest(self) -> LazyRun:
        """The run with the smallest epsilon: `training` itself if no other was made."""
        return min(self.lazy, key=lambda run: run.laziness, default=LazyRun(1.0, self.training))

    @property
    def order(self) -> float:
        """Least power of epsilon with which relative gaps fall: 1, or 1/2 while units with a kink change sides."""
        return 1.0 if self.network.smooth else 0.5

    def residual_ratios(self, run: LazyRun, num_steps: int | None = None) -> np.ndarray:
        """Measured ``||r_t|| / ||r_0||`` for t = 0, 1, ... (MSE).

        Steps that the run does not have are infinite, up to ``num_steps`` (by default, those of the prediction).
        """
        steps = self.prediction.num_steps if num_steps is None else num_steps
        found = residual_ratios(run.training, self.targets)
        missing = max(steps + 1 - len(found), int(run.training.diverged))
        return np.append(found, np.full(missing, np.inf))

    @property
    def plain(self) -> LazyRun:
        """The network as it is: epsilon = 1."""
        return LazyRun(1.0, self.training)

    def gap_of(self, trajectory: Trajectory) -> float:
        """Largest of `gaps` of a trajectory over all steps and both sets.

        Infinite if it diverged or does not have the sets and the steps of the prediction.
        """
        if trajectory.diverged:
            return np.inf
        pairs: list[tuple[Any, Any, float]] = [
            (trajectory.outputs, self.prediction.outputs, self.scale)
        ]
        if trajectory.test_outputs is not None or self.prediction.test_outputs is not None:
            pairs.append((trajectory.test_outputs, self.prediction.test_outputs, self.test_scale))
        if any(a is None or b is None or np.shape(a) != np.shape(b) for a, b, _ in pairs):
            return np.inf
        return max(sup_gap(*pair) for pair in pairs)

    def lazy_gap(self, run: LazyRun) -> float:
        """`gap_of` a run."""
        return self.gap_of(run.training)

    @property
    def lazy_gaps(self) -> tuple[LazyGap, ...]:
        """The gap of every run of the lazy family, from the smallest epsilon to the network itself."""
        runs = sorted((*self.lazy, self.plain), key=lambda run: run.laziness)
        return tuple(
            LazyGap(run.laziness, self.lazy_gap(run), self.rounding_floor(run.laziness))
            for run in runs
        )

    def distance_error(self, run: LazyRun) -> float:
        """``abs(||theta_T - theta_0|| / predicted - 1)``; infinite for an incomplete run."""
        distances = run.training.parameter_distances
        if distances is None or len(distances) != self.prediction.num_steps + 1:
            return np.inf
        error = abs(float(distances[-1]) / self.predicted_distance - 1)
        return error if np.isfinite(error) and not run.training.diverged else np.inf

    @property
    def correction(self) -> float | None:
        """``g_1``: the gap over epsilon at the smallest epsilon where rounding does not show; None if it always does.

        With a smooth activation it is the first-order correction of a finite width. It predicts the gap at
        epsilon = 1 if higher orders are small.
        """
        runs = sorted(self.lazy, key=lambda run: run.laziness)
        seen = (run for run in runs if self.lazy_gap(run) > self.rounding_floor(run.laziness))
        run = next(seen, None)
        return None if run is None else self.lazy_gap(run) / run.laziness

    def gap_order(self) -> GapOrder | None:
        """Order of the gap in epsilon; None if rounding hides all gaps, or a run is missing or incomplete.

        The slope goes from the largest epsilon with a visible gap to the smallest. With a kink, it goes to the smallest
        one where no unit changes sides, if there is one.
        """
        runs = sorted(self.lazy, key=lambda run: -run.laziness)
        gaps = [self.lazy_gap(run) for run in runs]
        floors = [self.rounding_floor(run.laziness) for run in runs]
        seen = [i for i in range(len(runs)) if not gaps[i] <= floors[i]]
        if len(runs) < 2 or not seen or not np.isfinite(gaps).all():
            return None
        last, far = len(runs) - 1, seen[0]
        if far == last:
            # Only the smallest epsilon has a visible gap: the gap before it is at most its rounding floor.
            far -= 1
            gaps[far] = floors[far]
        near = max((i for i in seen if i > far and not runs[i].switched), default=last)
        unseen = floors[near] + self.switch_gap(runs[near])
        at_least = bool(gaps[near] <= unseen)
        if at_least:
            gaps[near] = unseen
        ends = runs[far].laziness, runs[near].laziness
        slope = float(np.log(gaps[far] / gaps[near]) / np.log(ends[0] / ends[1]))
        return GapOrder(slope, *ends, at_least, (gaps[far], gaps[near]))

    def rounding_floor(self, laziness: float) -> float:
        """`round_off` with a margin: gaps below it show nothing."""
        return ROUNDING_MARGIN * self.round_off(laziness)

    def round_off(self, laziness: float) -> float:
        """What rounding adds to a relative gap: that of the outputs, over ``epsilon scale``, and that of the solves.

        In each step, outputs lose `ROUNDINGS` machine epsilons of their own size (on the set where it is larger) plus
        the size of the targets. If K is far larger across r than along r, K r loses more.
        """
        sizes = [np.linalg.norm(np.asarray(self.training.outputs)[0])]
        if (test := self.training.test_outputs) is not None:
            sizes.append(
                np.linalg.norm(np.asarray(test)[0]) * (self.num_samples / test.shape[1]) ** 0.5
            )
        size = np.max(sizes) + np.linalg.norm(self.targets)
        steps = max(1, self.prediction.num_steps)
        size_of_map = self.num_samples * self.network.output_dim
        rounding = ROUNDINGS * steps * self.epsilon * float(size) / (laziness * self.scale)
        lost = size_of_map * self._condition + ROUNDINGS * self.step_amplification
        return rounding + lost * self.epsilon

    def losses(self, of: str, split: str = "training") -> np.ndarray | None:
        """Loss after every step; infinite where it is beyond the range of its floats.

        Parameters
        ----------
        of : {"training", "prediction", "limit"}
        split : {"training", "test"}

        Returns
        -------
        (T + 1,) array or None
            None for a run that was not asked for, and for the test set if there is none.
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
        """``||f_t - f_t^predicted||_F`` over `scale` at every step; on the test set over `test_scale`.

        The parameters, and the cases of None, are those of `losses`.
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

        A minimum-norm step that moves NC outputs by O(1), each in its own direction, moves a layer's weights by
        O(sqrt(NC)) in norm. Its random weights have a spectral norm of O(sqrt(M)). Features, sensitivities and so K
        change by the ratio. A common movement of the outputs moves each of the L layers by O(1) in one direction, and
        these add. If the readout is scaled down, weights go further by the same factor (`Network.readout_scale`). A
        linear model (L = 1) has no such effect: the result is its round-off.
        """
        widths = [s.num_units for s in self.network.layer_sizes[:-1]]
        if not widths:
            return 1e3 * self.epsilon * self.ntk_condition
        outputs = self.num_samples * self.network.output_dim
        ratio = (outputs**0.5 + self.network.depth) / min(widths) ** 0.5
        return ratio / self.network.readout_scale

    @property
    def scale(self) -> float:
        """``||f_0 - y||``; under cross-entropy, whose targets are at infinity, the distance that is predicted."""
        start = np.asarray(self.training.outputs)[0]
        if self.loss == "mse":
            return float(np.linalg.norm(start - self.targets))
        return reach(self.prediction.outputs)

    @property
    def test_scale(self) -> float:
        """`scale` for as many samples as the test set has; infinite without one."""
        test = self.prediction.test_outputs
        return np.inf if test is None else self.scale * (test.shape[1] / self.num_samples) ** 0.5

    def travel(self) -> float:
        """``sup_t ||f_t - f_0||`` of the prediction over `scale`: the larger one of the training and the test set.

        On the test set, norms are root mean squares over samples times sqrt(N).
        """
        way = self.training_travel() * self.scale
        if (test := self.prediction.test_outputs) is not None:
            way = max(way, reach(test) * (self.num_samples / test.shape[1]) ** 0.5)
        return way / self.scale if self.scale > 0 else np.inf

    def training_travel(self) -> float:
        """`travel` on the training set alone."""
        return reach(self.prediction.outputs) / self.scale if self.scale > 0 else np.inf

    def way(self, residuals: float | None = None) -> tuple[float, float]:
        """How far the outputs of a run travel, and its `displacement`.

        Parameters
        ----------
        residuals : float, optional
            How far the outputs of a run with another step size travel on the training set, over `scale`, where
            ``K = alpha I``. All such runs go along one line in outputs and in parameters, so both lengths are
            proportional. By default, the run is the prediction.
        """
        if residuals is None:
            return self.travel(), self.displacement
        own = self.training_travel()
        return residuals, (self.displacement * residuals / own if own > 0 else np.inf)

    def jacobian_change(self, residuals: float | None = None) -> float:
        """Relative change of the Jacobian that a finite width allows along the predicted path, or another (`way`).

        `width_ratio` is the change for a minimum-norm step of length 1; it is proportional to the length. A method that
        goes further in parameter space is allowed its own `displacement`. Both are O(1/sqrt(M)).
        """
        # Not Python's max, which may skip NaN.
        travel, displacement = self.way(residuals)
        allowed = self.width_ratio() * np.maximum(1.0, travel)
        return float(np.maximum(allowed, displacement))

    def finite_width_tolerance(self, laziness: float = 1.0) -> float:
        """`jacobian_change` times `travel`: what the change of K adds to outputs that travel so far.

        At a smaller epsilon the change of K is smaller by epsilon to the power `order`.
        """
        allowed = self.jacobian_change() * self.travel() * laziness**self.order
        return allowed + (self.round_off(laziness) if laziness < 1 else 0.0)

    def lazy_tolerance(self, run: LazyRun) -> float:
        """Tolerance of `lazy_gap`: twice the gap at the next larger epsilon times (ratio of epsilons)^`order`.

        Rounding and switches are added. A gap of the stated order falls at least by this ratio; the factor 2 covers
        higher orders. The gap of a wrong prediction does not fall.
        """
        rounding = self.rounding_floor(run.laziness)
        return self._allowed(
            run, self.lazy_gap, rounding, self.finite_width_tolerance(run.laziness)
        )

    def distance_tolerance(self, run: LazyRun) -> float:
        """Tolerance of `distance_error`, as `lazy_tolerance`. Rounding weighs sqrt(kappa) times more in parameters."""
        rounding = self.rounding_floor(run.laziness) * self._condition**0.5
        derived = self.jacobian_change() * run.laziness**self.order + rounding
        return self._allowed(run, self.distance_error, rounding, derived)

    def _allowed(self, run: LazyRun, error: Callable, rounding: float, derived: float) -> float:
        """Tolerance from the error at the next larger epsilon; ``derived`` if that epsilon is missing or too near."""
        larger = [other for other in (*self.lazy, self.plain) if other.laziness > run.laziness]
        if larger:
            other = min(larger, key=lambda run: run.laziness)
            share, found = 2 * (run.laziness / other.laziness) ** self.order, error(other)
            if share <= LARGEST_SHARE * (1 + 1e-9) and np.isfinite(found):
                return share * found + rounding + self.switch_gap(run)
        return derived + self.switch_gap(run)

    @property
    def _condition(self) -> float:
        return float(np.maximum(self.ntk_condition, self.solve_condition))

    def switch_gap(self, run: LazyRun) -> float:
        """Estimate: ``2/M`` for every unit that changed sides on a sample, M the narrowest hidden width.

        A unit is 1/M of a kernel. The effect of its side on one sample does not fall with epsilon. A solve may amplify
        the effect, and a unit that crosses and comes back is not counted.
        """
        widths = [s.num_units for s in self.network.layer_sizes[:-1]]
        return 2 * run.switched / min(widths) if run.switched else 0.0

    @staticmethod
    def smallest_error(tolerance: float) -> float:
        """Smallest error of a prediction that fails. It adds to the gap and, through the next gap, to the tolerance."""
        return tolerance / (1 - LARGEST_SHARE)

    def map_tolerance(self) -> float:
        """Relative error of K that damping and round-off allow: ``2 bias(rho) + NC eps kappa``.

        ``bias(rho)`` bounds ``||K(rho) - K(0)||/alpha`` to first order. A solve loses eps kappa, with the larger kappa
        of Theta and of the approximation's own systems. A solve of size NC has NC times as many roundings.
        """
        size = self.num_samples * self.network.output_dim
        bias = 0.0 if self.damping_bias is None else self.damping_bias
        condition = float(np.maximum(self.ntk_condition, self.map_condition))
        return 2 * bias + size * self.epsilon * condition

    @property
    def judged_isotropy(self) -> Isotropy:
        """Isotropy of the map on which statements about the limit rho -> 0 are judged."""
        return self.isotropy if self.undamped is None else self.undamped

    def constant_spread(self) -> float:
        """Four relative standard deviations of alpha over initialisations; 0 if it has none or is measured.

        Unit-wise alpha counts active (unit, sample) pairs. Given the layer before, units are independent: the
        standard error of their mean share says how far it may be from gamma. If positions share weights, the spread
        of a share is at most that of a Bernoulli(gamma) variable.
        """
        if not self.approximation.asymptotic or self.measured_sizes:
            return 0.0
        hidden = self.network.layer_sizes[:-1]
        if self.active_shares is None:
            active = sum(s.active_fraction * s.num_units for s in hidden)
            return 4 * (self.network.output_dim / active) ** 0.5 if active else 0.0
        units = len(self.active_shares)
        if units < 2:
            return np.inf if units else 0.0
        # With few units the error itself is uncertain: Student's t in place of four sigma.
        factor = float(stdtrit(units - 1, FOUR_SIGMA_PROBABILITY))
        return factor * float(
            np.std(self.active_shares, ddof=1) / units**0.5 / np.mean(self.active_shares)
        )

    def dispersion_bound(self) -> float:
        """Largest dispersion of K that theory allows, without damping and round-off; 0 unless `asymptotic`.

        `unit_wise_dispersion` is the expected root mean square of at least N independent numbers. Its own spread over
        initialisations is allowed up to four sigma. The sensitivities of several outputs are not orthogonal, which
        adds ``output_spread``.
        """
        if not self.approximation.asymptotic:
            return 0.0
        n = self.num_samples
        chance = (2 * float(gammaincinv(n / 2, FOUR_SIGMA_PROBABILITY)) / n) ** 0.5
        return float(np.hypot(chance * dispersion_of_units(self.sizes), self.output_spread))

    def map_error(self) -> float:
        """Root mean square of ``K/alpha - I`` over directions that theory allows: dispersion, spread and damping."""
        chance = float(np.hypot(self.dispersion_bound(), self.constant_spread()))
        return chance + self.map_tolerance() + self.damping_shift

"""What an experiment measured, as the claims read it."""

from dataclasses import dataclass

import numpy as np

from ngd_theory.dynamics import Trajectory
from ngd_theory.fisher import Approximation
from ngd_theory.networks import Network
from ngd_theory.theory import Condition, Isotropy
from ngd_theory.theory.conditions import NEVER_ISOTROPIC


@dataclass(frozen=True)
class Evidence:
    """One approximation's maps, predictions and measured training on one network.

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
        Of the measured train map K; under another Fisher of the outputs, Lambda, see `experiment.judged_map`.
    spectrum : (NC,) array
        Eigenvalues of K.
    damping_bias : float or None
        See `Approximation.damping_bias`.
    conditions : tuple of Condition
    targets : (N, C) array
    prediction, training : Trajectory
        Function space and parameter space, the same step size.
    beyond_edge : Trajectory or None
        Training at ``EDGE_SCALE / alpha``, where alpha is predicted.
    predicted_distance : float
        ``||theta_T - theta_0||`` of the linearised network.
    parameter_norm : float
        ``||theta_0||``.
    displacement : float
        Largest over layers of the operator norm of the linearised network's parameter change, over the
        root of the layer's width: how much a step changes the features that follow the layer and the
        sensitivities before it, against what its random weights do to them.
    ntk_condition : float
        ``lambda_max(Theta)/lambda_min(Theta)``.
    epsilon : float
        Machine epsilon of the run's precision.
    seconds : float
        Wall time of this approximation, compilation included.
    limit : Trajectory or None
        Prediction of the infinitely wide network from the same outputs, where it was asked for.
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
    beyond_edge: Trajectory | None
    predicted_distance: float
    parameter_norm: float
    displacement: float
    ntk_condition: float
    epsilon: float
    seconds: float
    limit: Trajectory | None = None

    @property
    def name(self) -> str:
        """The approximation's public name."""
        return self.approximation.name

    @property
    def never_isotropic(self) -> bool:
        """Whether the theory says that K is anisotropic at every width; with no constant either it says nothing."""
        return NEVER_ISOTROPIC in self.approximation.requirements

    @property
    def residual_ratios(self) -> np.ndarray:
        """Measured ``||r_t|| / ||r_0||`` for t = 0, 1, ... (MSE)."""
        return residual_ratios(self.training, self.targets)

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

    def travel(self) -> float:
        """``sup_t ||f_t - f_0||`` of the prediction over `scale`, on the training or the test set.

        On the test set, norms are root mean squares over samples times sqrt(N).
        """
        reach = _reach(self.prediction.outputs)
        if (test := self.prediction.test_outputs) is not None:
            reach = max(reach, _reach(test) * (self.num_samples / test.shape[1]) ** 0.5)
        return reach / max(self.scale, np.finfo(float).tiny)

    def jacobian_change(self) -> float:
        """Relative change of the Jacobian that a finite width allows along the predicted path.

        `width_ratio` is that of a minimum-norm step of length 1 and proportional to the length. A method
        that takes longer ways through parameter space is allowed its own `displacement`; both are
        O(1/sqrt(M)).
        """
        return max(self.width_ratio() * max(1.0, self.travel()), self.displacement)

    def finite_width_tolerance(self) -> float:
        """`jacobian_change` times `travel`: what the change of K adds to outputs that travel so far."""
        return self.jacobian_change() * self.travel()

    def map_tolerance(self) -> float:
        """Relative error of K that damping and round-off allow: ``2 bias(rho) + NC eps kappa(Theta)``.

        ``bias(rho)`` bounds ``||K(rho) - K(0)||/alpha`` to first order; a solve loses eps kappa, and an
        N C-sized one has NC times as many roundings.
        """
        size = self.num_samples * self.network.output_dim
        bias = 0.0 if self.damping_bias is None else self.damping_bias
        return 2 * bias + size * self.epsilon * self.ntk_condition


def residual_ratios(trajectory: Trajectory, targets) -> np.ndarray:
    """``||f_t - y|| / ||f_0 - y||`` along a trajectory."""
    residuals = np.asarray(trajectory.outputs) - np.asarray(targets)
    norms = _norms(residuals)
    return norms / norms[0]


def _reach(outputs) -> float:
    outputs = np.asarray(outputs)
    return float(np.max(_norms(outputs - outputs[0])))


def _norms(steps: np.ndarray) -> np.ndarray:
    """Norm of every step; infinite where one is not a number or beyond the range of its floats."""
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.linalg.norm(steps.reshape(len(steps), -1), axis=1)
    return np.where(np.isnan(norms), np.inf, norms)


def sup_gap(left, right, scale: float) -> float:
    """``sup_t ||left_t - right_t||_F / scale`` over the entries both have."""
    length = min(len(left), len(right))
    with np.errstate(over="ignore", invalid="ignore"):
        difference = np.asarray(left)[:length] - np.asarray(right)[:length]
    # A gap that is not a number is no agreement.
    return float(np.max(_norms(difference)) / scale)

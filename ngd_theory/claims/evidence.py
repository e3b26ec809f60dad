"""What an experiment measured, as the claims read it."""

from dataclasses import dataclass

import numpy as np

from ngd_theory.dynamics import Trajectory
from ngd_theory.fisher import Approximation
from ngd_theory.networks import Network
from ngd_theory.theory import Condition, Isotropy


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
        Of the measured train map K.
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
    predicted_distance : float or None
        ``||theta_T - theta_0||`` of the linearised network.
    parameter_norm : float
        ``||theta_0||``.
    ntk_condition : float
        ``lambda_max(Theta)/lambda_min(Theta)``.
    epsilon : float
        Machine epsilon of the run's precision.
    seconds : float
        Wall time of this approximation, compilation included.
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
    predicted_distance: float | None
    parameter_norm: float
    ntk_condition: float
    epsilon: float
    seconds: float

    @property
    def name(self) -> str:
        """The approximation's public name."""
        return self.approximation.name

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

    def finite_width_tolerance(self) -> float:
        """`width_ratio` times ``max(1, eta alpha)^2``: the nonlinear part of a step is quadratic in it."""
        return self.width_ratio() * max(1.0, self.step_scale) ** 2

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
    norms = np.linalg.norm(residuals.reshape(len(residuals), -1), axis=1)
    return norms / norms[0]


def sup_gap(left, right, scale: float) -> float:
    """``sup_t ||left_t - right_t||_F / scale`` over the entries both have."""
    length = min(len(left), len(right))
    difference = np.asarray(left)[:length] - np.asarray(right)[:length]
    gaps = np.linalg.norm(difference.reshape(length, -1), axis=1)
    # A gap that is not a number is no agreement.
    return float(np.max(np.where(np.isfinite(gaps), gaps, np.inf)) / scale)

"""Function-space maps of infinitely wide networks, and predictions of training that start from given outputs."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.arguments import check_range, checked, require_known
from ngd_theory.dynamics.checks import check_schedule
from ngd_theory.dynamics.predict import predict_from_maps
from ngd_theory.dynamics.trajectory import Trajectory
from ngd_theory.errors import InputError, NotPredictedError
from ngd_theory.fisher import Approximation
from ngd_theory.kernels import infinite
from ngd_theory.kernels.infinite.evaluate import MEMORY_BUDGET
from ngd_theory.kernels.infinite.sources import NOT_LAZY, has_recursion
from ngd_theory.kernels.infinite.units import unit_wise_maps
from ngd_theory.networks import Network
from ngd_theory.pytrees import pytree

#: Default number of units drawn per layer.
NUM_UNITS = 1000


@pytree("train_map", "test_map", "train_error", "test_error")
@dataclass(frozen=True)
class Predictor:
    """An approximation's function-space maps in the infinite-width limit, per output.

    Attributes
    ----------
    name : str
        Name of the approximation.
    train_map : (N, N)
        K: one step is ``r <- r - eta K r``. For C outputs the map is ``K (x) I_C``.
    test_map : (N', N)
        Q: one step is ``f' <- f' - eta Q r``.
    train_error, test_error : like the maps, or None
        Standard errors, for maps estimated by Monte Carlo.
    """

    made_by: ClassVar[str] = "ngd.dynamics.predictor(...)"
    name: str
    train_map: Float[Array, "N N"]
    test_map: Float[Array, "M N"]
    train_error: Float[Array, "N N"] | None = None
    test_error: Float[Array, "M N"] | None = None

    @property
    def constant(self) -> Float[Array, ""]:
        """``alpha = tr K / N``."""
        return jnp.mean(jnp.diagonal(self.train_map))

    @property
    def weights(self) -> Float[Array, "M N"]:
        """``Q / alpha``: with ``K = alpha I``, converged test outputs are ``f_0' - weights r_0``."""
        return self.test_map / self.constant

    def require_samples(self, num_train: int, num_test: int) -> None:
        """Raise `InputError` unless the maps are for this many training and test inputs."""
        if self.test_map.shape != (num_test, num_train):
            raise InputError(
                f"maps are for {self.test_map.shape[::-1]} train and test inputs, not {(num_train, num_test)}"
            )


@checked
def predictor(
    approximation: Approximation,
    net: Network,
    x: Float[Array, "N *S"],
    x_test: Float[Array, "M *S"],
    *,
    damping: float = 0.0,
    key: Any = None,
    num_units: int = NUM_UNITS,
    memory_budget: int = MEMORY_BUDGET,
) -> Predictor:
    """Maps of an approximation in the infinite-width limit, on training and test inputs.

    At ``damping = 0`` and with full-rank kernels, Q is: identity ``Theta'/N`` (and ``K = Theta/N``); exact
    ``Theta' Theta^-1``; block-diagonal ``sum_l Theta_l' Theta_l^-1``; block-tridiagonal
    ``sum_l s_l Theta_l' Theta_l^-1`` with ``Sigma s = 1`` (the limit rho -> 0 if Sigma is singular); K-FAC
    ``N sum_l (B_l' B_l^-1) o (A_l' A_l^-1)``, where the term of the output layer is ``A_L' A_L^-1``; kfac-input
    ``sum_l B_l' o (A_l' A_l^-1)``; kfac-output ``sum_l (B_l' B_l^-1) o A_l'``, where the last term is ``A_L'/N``.

    Parameters
    ----------
    approximation : Approximation
        For example ``ngd.fisher.by_name("exact")``.
    net : Network
        A multi-layer perceptron or, except for unit-wise, a `ngd_theory.networks.resnet` of vectors. Approximations
        made of kernels alone take any network whose kernels a source provides. Widths matter for unit-wise only.
    x, x_test : (N, *input_shape), (N', *input_shape)
    damping : float
        rho >= 0.
    key : jax.random key, optional
        Needed for unit-wise, which is averaged over ``num_units`` random units per layer.
    num_units : int
    memory_budget : int
        See `ngd_theory.kernels.infinite.layer_kernels`.

    Returns
    -------
    Predictor

    Raises
    ------
    NotPredictedError
        If `why_no_limit` gives a reason, and as `unit_wise_maps` and `ngd_theory.kernels.infinite.linearize`.
    InputError
        For unit-wise without ``key``, and a damping that is negative or beyond the range of its type.
    SingularKernelError
        If a solve breaks down.
    """
    name = approximation.name
    n = len(x)
    if why := why_no_limit(approximation, net):
        raise NotPredictedError(f"{name!r} has no infinite-width predictor: {why}")
    if name == "unit-wise":
        if key is None:
            raise InputError("unit-wise is estimated by Monte Carlo over units: pass key")
        require_known("the limit of unit-wise", damping)
        if not 0 <= damping < float("inf"):
            raise InputError(f"damping is {damping}; it must be one finite number >= 0")
        check_range("damping", damping, jnp.result_type(x))
        maps, errors = unit_wise_maps(net, x, x_test, damping, key, num_units)
        return Predictor(name, maps[:n], maps[n:], errors[:n], errors[n:])
    lin, at = infinite.linearize(net, x, x_test, output_dim=1, memory_budget=memory_budget)
    prepared = approximation.prepare(lin, damping)
    return Predictor(name, prepared.function_space_map(), prepared.function_space_map(at))


def why_no_limit(approximation: Approximation, net: Network) -> str | None:
    """Why `predictor` has no maps of this approximation for this network; None if it has.

    It does not check whether a source knows the network's kernels.
    """
    if net.readout_scale != 1:
        return NOT_LAZY
    if not approximation.has_limit:
        return (
            "its map depends on single weights (entry-wise, quasi-diagonal), on how the damping is shared between "
            "factors of given sizes (kfac-tridiagonal), or on all outputs together (ekfac, shampoo)"
        )
    if approximation.needs_layers and not has_recursion(net):
        return (
            "it is made of the kernels of inputs and sensitivities by themselves, and of this network only their "
            "product is known"
        )
    if approximation.name == "unit-wise" and not net.is_chain:
        return "its average over units is known for perceptrons only"
    return None


@checked
def predict_limit(
    approximation: Approximation,
    network: Network,
    x: Float[Array, "N *S"],
    outputs: Float[Array, "N C"],
    targets: Float[Array, "N C"],
    step_size: float,
    num_steps: int,
    damping: float,
    x_test: Float[Array, "M *S"] | None = None,
    test_outputs: Float[Array, "M C"] | None = None,
    *,
    key=None,
    num_units: int = NUM_UNITS,
) -> Trajectory:
    """Predict training under MSE with the maps of the infinite-width limit (docs/theory.md section 5).

    The outputs at initialisation are given, not zero, so a finite network and its limit start alike. They then
    differ only by the effect of the width on the kernels and on the path: O(1/sqrt(M)).

    Parameters
    ----------
    approximation : Approximation
        Any for which `why_no_limit` returns None.
    network : Network
        Its widths matter for unit-wise only.
    x : (N, *input_shape)
    outputs : (N, C)
        f_0 at ``x``.
    targets : (N, C)
    step_size, num_steps, damping
        As in `predict`.
    x_test : (N', *input_shape), optional
    test_outputs : (N', C), optional
        f_0 at ``x_test``.
    key, num_units
        For unit-wise, see `predictor`.

    Returns
    -------
    Trajectory

    Raises
    ------
    NotPredictedError
        If there is no limit to predict.
    InputError
        As `predict`.
    """
    check_schedule(step_size, num_steps, outputs, test_outputs)
    maps = predictor(
        approximation,
        network,
        x,
        x if x_test is None else x_test,
        damping=damping,
        key=key,
        num_units=num_units,
    )
    # The maps are per output: for C outputs they are K (x) I_C, index n*C + c.
    each = jnp.eye(outputs.shape[1], dtype=outputs.dtype)
    q = None if x_test is None else jnp.kron(maps.test_map, each)
    k = jnp.kron(maps.train_map, each)
    return predict_from_maps(k, outputs, targets, step_size, num_steps, q, test_outputs)

"""What the infinitely wide network does from the outputs of a finite one."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.arguments import checked
from ngd_theory.dynamics.checks import check_schedule
from ngd_theory.dynamics.predict import predict_from_maps
from ngd_theory.dynamics.trajectory import Trajectory
from ngd_theory.fisher import Approximation
from ngd_theory.kernels import infinite
from ngd_theory.networks import Network


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
    num_units: int = 1000,
) -> Trajectory:
    """Predict training under MSE with the maps of the infinite-width limit (docs/theory.md section 5).

    The outputs at initialisation are given, not zero, so that a finite network and its limit start alike
    and differ by what the width does to the kernels and to the path: O(1/sqrt(M)).

    Parameters
    ----------
    approximation : Approximation
        Any with `has_limit`: not entry-wise or kfac-tridiagonal.
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
        For unit-wise, see `ngd_theory.kernels.infinite.predictor`.

    Returns
    -------
    Trajectory

    Raises
    ------
    NotPredictedError
        Where there is no limit to predict.
    InputError
        As `predict`.
    """
    check_schedule(step_size, num_steps, outputs, test_outputs)
    maps = infinite.predictor(
        approximation,
        network,
        x,
        x if x_test is None else x_test,
        damping=damping,
        key=key,
        num_units=num_units,
    )
    # The maps are per output: of C outputs they are K (x) I_C, index n*C + c.
    each = jnp.eye(outputs.shape[1], dtype=outputs.dtype)
    q = None if x_test is None else jnp.kron(maps.test_map, each)
    k = jnp.kron(maps.train_map, each)
    return predict_from_maps(k, outputs, targets, step_size, num_steps, q, test_outputs)

"""What training does to a network, predicted or measured."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Array

from ngd_theory.pytrees import pytree


@pytree("outputs", "test_outputs", "losses", "parameter_distances", "params", "displacement")
@dataclass(frozen=True)
class Trajectory:
    """Outputs and losses along num_steps updates; entry 0 is before the first.

    Attributes
    ----------
    outputs : (num_steps + 1, N, C)
    test_outputs : (num_steps + 1, N', C) or None
    losses : (num_steps + 1,)
        Training loss, ``1/(2N) sum |f - y|^2`` for MSE.
    parameter_distances : (num_steps + 1,) or None
        ``||theta_t - theta_0||``; None where a closed-form prediction does without parameters.
    params : like ``network.init`` or None
        Final parameters, of a measured trajectory.
    displacement : like ``network.init`` or None
        Final ``theta_T - theta_0``, of a prediction that was simulated.
    diverged : bool
        Whether training was stopped because the loss grew without bound: there are then fewer than
        num_steps + 1 entries, the last of which is the step that showed it.
    """

    made_by: ClassVar[str] = "ngd.dynamics.train(...) or ngd.dynamics.predict(...)"
    outputs: Array
    test_outputs: Array | None
    losses: Array
    parameter_distances: Array | None = None
    params: Any = None
    displacement: Any = None
    diverged: bool = False

    @property
    def num_steps(self) -> int:
        """Number of updates made."""
        return self.losses.shape[0] - 1

"""The course of training, predicted or measured."""

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
        ``||theta_t - theta_0||``; None for a closed-form prediction, which needs no parameters.
    params : like ``network.init`` or None
        Final parameters, of a measured trajectory.
    displacement : like ``network.init`` or None
        Final ``theta_T - theta_0``, of a prediction that was simulated.
    diverged : bool
        Whether training was stopped because the loss grew without bound. There may then be fewer entries
        than were asked for, and the last one is the step that showed it.
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

"""K-FAC with momentum as its authors published it (Martens & Grosse 2015, algorithm 2), in optax's interface."""

from dataclasses import dataclass
from inspect import signature
from typing import Any

import jax
import numpy as np
import optax

from ngd_theory import losses
from ngd_theory.arguments import checked
from ngd_theory.errors import InputError
from ngd_theory.networks import Network
from ngd_theory.optim.algorithm import Algorithm, KFACState
from ngd_theory.optim.options import SCHEDULED, Options, Scheduled


@checked
def kfac(
    network: Network,
    loss: str | losses.Loss = "mse",
    *,
    structure: str = "block-diagonal",
    l2: float = 0.0,
    damping: Scheduled = 150.0,
    min_damping: float = 0.0,
    adapt_damping: bool = True,
    damping_period: int = 5,
    damping_rate: float = 19 / 20,
    factor_damping: Scheduled | None = None,
    adapt_factor_damping: bool = True,
    factor_damping_period: int = 20,
    inverse_period: int = 20,
    statistics_period: int = 1,
    statistics_fraction: float = 1.0,
    curvature_fraction: float = 1.0,
    num_draws: int = 1,
    decay: float = 0.95,
    averaging: float = 0.0,
    step_size: Scheduled | None = None,
    momentum: Scheduled | None = None,
    largest_change: Scheduled | None = None,
    reject_worse: bool = False,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    """K-FAC: the natural gradient with Kronecker factors, damped, re-scaled and with momentum.

    The objective is ``h = loss + (l2/2) |params|^2``, where the loss is the batch average of `ngd_theory.losses`. The
    proposal is ``-Fk^-1 grad h``. Fk is F-breve, F-hat or another preconditioner with damping gamma, made from running
    averages of sampled statistics. The update ``alpha * proposal + mu * previous`` minimises the quadratic model, whose
    curvature is the exact Fisher of the batch plus (lambda + l2) I.

    Parameters
    ----------
    network : Network
    loss : {"mse", "cross-entropy", "sigmoid-cross-entropy"} or Loss
    structure : {"block-diagonal", "block-tridiagonal", "ekfac", "kfac-input", "shampoo"}
        The choice of Fk: F-breve, F-hat, EKFAC, K-FAC's inputs alone (FOOF), or Shampoo at power 1/2
        (`ngd_theory.optim.preconditioners`). Statistics, periods, re-scaling and momentum are the same for all.
    l2 : float
        Weight of the penalty. The optimiser adds it itself, also to the gradient.
    damping : float or function of the step
        Initial lambda, or lambda itself if it is not adapted. Its unit: objective per squared parameter.
    min_damping : float
        Lower bound of lambda. On mini-batches the reduction ratio is too good, because the model was made from the
        same rows. In long runs lambda then falls until the steps diverge. 1e-4 helps on the autoencoders.
    adapt_damping : bool
        Apply the Levenberg-Marquardt rule every ``damping_period`` (T1) steps: multiply lambda by ``damping_rate^T1``
        if the objective fell by over 3/4 of what the model predicted, and divide by it if by less than 1/4. A smaller
        ``damping_rate`` suits short runs that need a large lambda at the start.
    factor_damping : float or function of the step, optional
        Initial gamma; ``sqrt(lambda + l2)`` if None. A function is evaluated when inverses are refreshed.
    adapt_factor_damping : bool
        Every ``factor_damping_period`` (T2) steps take the best of three values: gamma, and gamma multiplied or divided
        by ``(19/20)^(T2/2)``. If False, gamma is ``factor_damping``, or ``sqrt(lambda + l2)`` at each refresh if None.
    inverse_period : int
        T3, the steps between two refreshes of the inverses; the first three steps refresh them too.
    statistics_period : int
        Steps between two updates of the statistics; the first three steps update them too.
    statistics_fraction, curvature_fraction : float
        tau_1 and tau_2: the shares of the batch that the statistics and the exact Fisher use. They use the first rows,
        so rows must be in random order.
    num_draws : int
        Number of targets drawn per row for the statistics.
    decay : float
        Statistics keep ``min(1 - 1/k, decay)`` of the past at step k.
    averaging : float
        The average of the iterates keeps xi = min(1 - 1/k, averaging) of the past, see `averaged_params`; 0 keeps no
        average. The paper uses 0.99.
    step_size, momentum : float or function of the step, optional
        If both are None, alpha and mu minimise the model. ``momentum=0`` alone re-scales without momentum. If both are
        given, they are fixed (no re-scaling).
    largest_change : float or function of the step, optional
        Clips a fixed step [KFC]: alpha is shortened until ``alpha^2 |d^T grad|``, the proposal's squared length in
        the approximate Fisher, is at most this.
    reject_worse : bool
        Evaluate the objective after every step, and undo a step that makes it worse; lambda then grows.
    seed : int
        Seed of the sampled targets.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``update(grads, state, params, x=x, y=y)``, to be jitted by the user. ``grads`` is the gradient of
        the loss over the batch, without the l2 term. If all options are plain numbers, it can be pickled, and its
        copies are equal to it.

        A function of the step is given the number of steps taken, like optax's schedules. `optax.inject_hyperparams`
        takes `ngd_theory.optim.STATIC_ARGS` as ``static_args``. If a later transformation scales the updates
        (`optax.chain`), with weight decay or without, the next step finds the scale. Lambda, the averaged iterate and a
        momentum from the model then follow the steps that were really made; a fixed momentum follows the updates.
        Parameters of 2 bytes are converted to float32, and their updates are float32 too.

        A batch with numbers that are not finite in ``x``, ``y`` or ``grads`` gives a zero update and leaves statistics,
        inverses and dampings as they were, inside jit and outside. ``state.skipped`` counts such batches. Layers
        without any signal are damped like others.

    Raises
    ------
    InputError
        For an option that is out of range or traced by jit, or a damping that both varies and is adapted. ``init`` and
        ``update`` raise it for parameters, gradients, a state or a batch that do not fit the network, options beyond
        the range of the parameters' type, an update without ``params``, ``x`` or ``y``, and targets that are invalid
        for the loss (values are checked only outside jit).

    Examples
    --------
    >>> import jax, jax.numpy as jnp, optax
    >>> from ngd_theory import losses, networks, optim
    >>> net = networks.mlp(3, [8], 1, "tanh")
    >>> x, y = jnp.ones((4, 3)), jnp.zeros((4, 1))
    >>> params = net.init(jax.random.key(0))
    >>> optimizer = optim.kfac(net, "mse", damping=1.0)
    >>> state = optimizer.init(params)
    >>> grads = jax.grad(lambda p: losses.MSE.value(net.apply(p, x), y))(params)
    >>> updates, state = optimizer.update(grads, state, params, x=x, y=y)
    >>> params = optax.apply_updates(params, updates)
    """
    options = Options(
        structure=structure,
        l2=l2,
        damping=damping,
        min_damping=min_damping,
        adapt_damping=adapt_damping,
        damping_period=damping_period,
        damping_rate=damping_rate,
        factor_damping=factor_damping,
        adapt_factor_damping=adapt_factor_damping,
        factor_damping_period=factor_damping_period,
        inverse_period=inverse_period,
        statistics_period=statistics_period,
        statistics_fraction=statistics_fraction,
        curvature_fraction=curvature_fraction,
        num_draws=num_draws,
        decay=decay,
        averaging=averaging,
        step_size=step_size,
        momentum=momentum,
        largest_change=largest_change,
        reject_worse=reject_worse,
    )
    if not -(2**63) <= seed < 2**63:
        raise InputError(f"seed is {seed}; it must be a number of 64 bits")
    method = Algorithm(network, losses.by_name(loss), options)
    return optax.GradientTransformationExtraArgs(_Init(method, seed), _Update(method))


#: The arguments that `optax.inject_hyperparams(kfac, static_args=STATIC_ARGS)` must not vary.
STATIC_ARGS = tuple(name for name in signature(kfac).parameters if name not in SCHEDULED)


@checked
def averaged_params(state: KFACState, params):
    """The average of the iterates if the state keeps one, else ``params``.

    Raises
    ------
    InputError
        If the shapes of ``params`` differ from those of the state.
    """
    found, wanted = (jax.tree.map(np.shape, tree) for tree in (params, state.previous))
    if found != wanted:
        raise InputError(f"params have the shapes {found}; the state is of {wanted}")
    return state.average if state.average != () else params


@dataclass(frozen=True)
class _Init:
    """The transformation's ``init``; unlike a closure, it can be pickled and compared."""

    method: Algorithm
    seed: int

    def __call__(self, params) -> Any:
        return self.method.init(params, seed=self.seed)


@dataclass(frozen=True)
class _Update:
    """The transformation's ``update``, likewise."""

    method: Algorithm

    def __call__(self, updates, state, params=None, *, x=None, y=None, **_) -> Any:
        if params is None or x is None or y is None:
            raise InputError("K-FAC needs update(grads, state, params, x=x, y=y)")
        self.method.check(updates, state, params, x, y)
        return self.method.update(updates, state, params, x, y)

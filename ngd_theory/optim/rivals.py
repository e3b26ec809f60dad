"""kfac-jax (Botev & Martens 2022) as a rival in training studies, where it is installed."""

import importlib
import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from ngd_theory.errors import InputError, choose
from ngd_theory.losses import Loss
from ngd_theory.networks import Network
from ngd_theory.networks.layers import Dense
from ngd_theory.optim.stepping import Stepper

#: How each loss is registered with kfac-jax, whose squared error has no 1/2.
_REGISTER: Mapping[str, Callable[[Any, Any], None]] = MappingProxyType(
    {
        "mse": lambda library, f: library.register_squared_error_loss(f, weight=0.5),
        "cross-entropy": lambda library, f: library.register_softmax_cross_entropy_loss(f),
        "sigmoid-cross-entropy": lambda library, f: library.register_sigmoid_cross_entropy_loss(f),
    }
)


class KFACJax(Stepper):
    """kfac-jax's optimiser with adaptive step size, momentum and damping; all inverses are refreshed periodically.

    It takes the whole batch for statistics and Fisher products, makes statistics at every step, ties its factor damping
    to lambda and keeps no averaged iterate.

    Parameters
    ----------
    network : Network
        Dense layers, in the standard parameterisation.
    loss : Loss
    l2 : float
    damping, min_damping : float
        Initial lambda, and its lower bound.
    decay : float
        Share of the past that the statistics keep.
    inverse_period, damping_period : int
        Steps between two inversions, and between two updates of lambda.
    damped_model : bool
        Whether the model that adapts lambda includes the damping, as in the paper of K-FAC's authors. kfac-jax's own
        default is without.
    seed : int
        Seed of the sampled targets.

    Raises
    ------
    InputError
        For an unsupported network or loss; from `begin`, if kfac-jax is not installed.
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        l2: float,
        *,
        damping: float = 150.0,
        min_damping: float = 1e-5,
        decay: float = 0.95,
        inverse_period: int = 20,
        damping_period: int = 5,
        damped_model: bool = False,
        seed: int = 0,
    ):
        self._register = choose(_REGISTER, loss.name, "loss of kfac-jax")
        for index, block in enumerate(network.blocks, start=1):
            layer = block.affine
            # Its tracer recognises a dense layer as `h @ weight + bias`, without scales in between.
            if not isinstance(layer, Dense) or layer.scale != 1 or layer.bias_std not in (0, 1):
                raise InputError(
                    f"kfac-jax runs here on dense networks in the standard parameterisation; layer {index} is {layer}"
                )
        self._network, self._loss, self._l2 = network, loss, l2
        self._key = jax.random.key(seed)
        self._number = itertools.count()
        self._options = {
            "initial_damping": damping,
            "min_damping": min_damping,
            "max_damping": max(1000.0, damping),
            "curvature_ema": decay,
            "inverse_update_period": inverse_period,
            "damping_adaptation_interval": damping_period,
            "include_damping_in_quad_change": damped_model,
        }

    def begin(self, params, x, y):
        """Copies, because kfac-jax's steps overwrite their arguments."""
        params = jax.tree.map(jnp.array, params)
        self._number = itertools.count()
        return params, self._optimizer().init(params, self._key, (x, y))

    def compile(self, params, state, x, y, size):
        """Compile by two steps on copies: one refreshes the inverses, one does not."""
        optimizer = self._optimizer()

        def step(params, state, rows, k):
            params, state, stats = optimizer.step(
                params,
                state,
                jax.random.fold_in(self._key, k),
                batch=(x[rows], y[rows]),
                global_step_int=k,
            )
            return params, state, stats["aux"]["loss"]

        params, state = jax.tree.map(jnp.array, (params, state))
        for k in range(2):
            params, state, _ = step(params, state, jnp.arange(size, dtype=jnp.int32), k)
        # One step counter for all batch sizes of a run.
        return lambda params, state, rows: step(params, state, rows, next(self._number))

    def _optimizer(self):
        try:
            kfac_jax = importlib.import_module("kfac_jax")
        except ImportError as error:
            raise InputError(
                f"the optimizer kfac-jax needs the package of that name: pip install kfac-jax ({error})"
            ) from None

        def objective(params, batch):
            h, targets = batch
            for block, layer in zip(self._network.blocks, params, strict=True):
                h = h @ layer["weight"]
                if "bias" in layer:
                    h = h + layer["bias"]
                for function in block.after:
                    h = function(h)
            self._register(kfac_jax, h)
            value = self._loss.value(h, targets)
            squares = sum(jnp.vdot(p, p) for p in jax.tree.leaves(params))
            return value + self._l2 / 2 * squares, {"loss": value}

        return kfac_jax.Optimizer(
            value_and_grad_func=jax.value_and_grad(objective, has_aux=True),
            value_func_has_aux=True,
            l2_reg=self._l2,
            estimation_mode="fisher_gradients",
            curvature_update_period=1,
            # Burn-in would use batches that a run does not count.
            num_burnin_steps=0,
            multi_device=False,
            use_adaptive_learning_rate=True,
            use_adaptive_momentum=True,
            use_adaptive_damping=True,
            damping_adaptation_decay=0.95,
            **self._options,
        )

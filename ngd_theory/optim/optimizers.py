"""The optimisers that a training study compares, by name: builders of optax transformations, or of steppers."""

from collections.abc import Callable, Mapping
from inspect import signature
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from ngd_theory.errors import InputError, choose
from ngd_theory.losses import Loss
from ngd_theory.networks import Network
from ngd_theory.optim.kfac import kfac
from ngd_theory.optim.rivals import KFACJax
from ngd_theory.optim.stepping import Stepper

Optimizer: TypeAlias = optax.GradientTransformationExtraArgs | Stepper
#: ``(network, loss, l2, options) -> optimiser``.
Builder = Callable[[Network, Loss, float, dict[str, Any]], Optimizer]


def nesterov_momentum(count, largest: float, period: int = 250):
    """Momentum of Sutskever et al. (2013): ``min(1 - 2^(-1 - log2(floor(t/period) + 1)), largest)``."""
    return jnp.minimum(1 - 0.5 / (jnp.floor(count / period) + 1), largest)


class AveragedState(NamedTuple):
    """The state of `averaged`; ``average`` is the average of the iterates."""

    inner: Any
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]  (as in optax's states)
    average: Any


def averaged(
    inner: optax.GradientTransformationExtraArgs, averaging: float
) -> optax.GradientTransformationExtraArgs:
    """``inner`` with a running average of the iterates; it keeps ``min(1 - 1/k, averaging)`` of the past at step k."""

    def init(params):
        return AveragedState(inner.init(params), jnp.zeros((), jnp.int32), params)

    def update(updates, state, params=None, **extra):
        updates, after = inner.update(updates, state.inner, params, **extra)
        count = state.count + 1

        def blend(a, p, d):
            keep = jnp.minimum(1 - 1 / count.astype(a.dtype), averaging)
            return (keep * a + (1 - keep) * (p + d)).astype(a.dtype)

        average = jax.tree.map(blend, state.average, params, updates)
        return updates, AveragedState(after, count, average)

    return optax.GradientTransformationExtraArgs(init, update)


def nag(network: Network, loss: Loss, l2: float, options: dict[str, Any]):
    """Nesterov's accelerated gradient.

    Options ``learning_rate``, ``momentum`` (largest value), ``period``, and ``averaging`` of the iterates (0: none).
    """
    largest, period = options.pop("momentum", 0.99), options.pop("period", 250)
    averaging = options.pop("averaging", 0.0)
    if not 0 <= averaging < 1:
        raise InputError(f"averaging is {averaging}; it must be in [0, 1)")
    make = optax.inject_hyperparams(optax.sgd, static_args=("nesterov",))
    inner = make(
        momentum=lambda count: nesterov_momentum(count, largest, period), nesterov=True, **options
    )
    plain = _with_l2(l2, inner)
    return averaged(plain, averaging) if averaging else plain


def adam(network: Network, loss: Loss, l2: float, options: dict[str, Any]):
    """Adam; options of `optax.adam`."""
    return _with_l2(l2, optax.adam(**options))


def natural(network: Network, loss: Loss, l2: float, options: dict[str, Any]):
    """K-FAC; options of `ngd_theory.optim.kfac`."""
    return kfac(network, loss, l2=l2, **options)


def kfac_jax(network: Network, loss: Loss, l2: float, options: dict[str, Any]):
    """kfac-jax; options of `ngd_theory.optim.rivals.KFACJax`."""
    return KFACJax(network, loss, l2, **options)


def _options_of(make: Callable) -> tuple[str, ...]:
    return tuple(n for n in signature(make).parameters if n not in ("network", "loss", "l2"))


#: A new optimiser is one function and one entry.
OPTIMIZERS: Mapping[str, Builder] = MappingProxyType(
    {"kfac": natural, "nag": nag, "adam": adam, "kfac-jax": kfac_jax}
)
#: The names that each optimiser takes in ``options``.
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "kfac": _options_of(kfac),
    "kfac-jax": _options_of(KFACJax),
    "nag": ("learning_rate", "momentum", "period", "averaging"),
    "adam": tuple(signature(optax.adam).parameters),
}


def build(name: str, network: Network, loss: Loss, l2: float, options: dict[str, Any]):
    """Make the optimiser ``name`` for a network and objective.

    Raises
    ------
    InputError
        For an unknown name, an option that it does not take, or no learning rate.
    """
    builder = choose(OPTIMIZERS, name, "optimizer")
    for option in options:
        choose(dict.fromkeys(OPTIONS[name]), option, f"option of optimizer {name!r}")
    if "learning_rate" in OPTIONS[name] and "learning_rate" not in options:
        raise InputError(f"optimizer {name!r} needs the option learning_rate")
    return builder(network, loss, l2, dict(options))


def _with_l2(l2: float, inner) -> optax.GradientTransformationExtraArgs:
    return optax.with_extra_args_support(optax.chain(optax.add_decayed_weights(l2), inner))

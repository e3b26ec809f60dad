"""How far training moves the pre-activations and the inputs of a network's layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from ngd_theory.arguments import checked
from ngd_theory.networks import Network
from ngd_theory.numerics import norm
from ngd_theory.pytrees import pytree


@pytree("preactivations", "features", "initial_preactivations", "initial_features")
@dataclass(frozen=True)
class FeatureChanges:
    """Root mean squares over samples, positions and units, layer by layer.

    Attributes
    ----------
    preactivations : (L,) array
        ``rms(u_l(after) - u_l(before))`` of every layer, first to last; the last one's are the outputs.
    features : (L - 1,) array
        ``rms(h_l(after) - h_l(before))``, with h_l the input of layer l + 1.
    initial_preactivations, initial_features : like these
        ``rms(u_l(before))`` and ``rms(h_l(before))``.
    """

    made_by: ClassVar[str] = "ngd.theory.feature_changes(network, before, after, x)"
    preactivations: Float[Array, " L"]
    features: Float[Array, " H"]
    initial_preactivations: Float[Array, " L"]
    initial_features: Float[Array, " H"]

    @property
    def relative_preactivations(self) -> Float[Array, " L"]:
        """``preactivations / initial_preactivations``."""
        return self.preactivations / self.initial_preactivations

    @property
    def relative_features(self) -> Float[Array, " H"]:
        """``features / initial_features``; NaN where all features were 0 and still are."""
        return self.features / self.initial_features


@checked
def feature_changes(network: Network, before, after, x: Shaped[Array, "N *S"]) -> FeatureChanges:
    """Compare the layers' pre-activations and inputs at two values of the parameters (docs/theory.md section 11).

    If a layer is called several times, its mean is over all calls. Pure and jittable.

    Parameters
    ----------
    network : Network
    before, after : like ``network.init(key)``
    x : (N, *input_shape)

    Raises
    ------
    InputError
        For parameters or inputs that are not this network's.
    """
    network.check(before, x)
    network.check(after, x)
    return _changes(network, before, after, x)


@partial(jax.jit, static_argnums=0)
def _changes(network: Network, before, after, x) -> FeatureChanges:
    old, new = (_layers(network, params, x) for params in (before, after))
    differences = jax.tree.map(jnp.subtract, new, old)
    (made, given), (initial_made, initial_given) = (
        [jnp.array([_rms(layer) for layer in kind]) for kind in found]
        for found in (differences, old)
    )
    return FeatureChanges(made, given, initial_made, initial_given)


def _layers(network: Network, params, x) -> tuple[list[list[Array]], list[list[Array]]]:
    """Pre-activations of every layer, and inputs of every layer but the first: one array per call."""
    outputs, given = network.forward(params, x, None)
    made = network.preactivations(params, given)

    def by_layer(arrays: Sequence[Array]) -> list[list[Array]]:
        found: list[list[Array]] = [[] for _ in network.layers]
        for call, array in zip(network.calls, arrays, strict=True):
            found[call.layer].append(jnp.asarray(array, outputs.dtype))
        return found

    return by_layer(made), by_layer(given)[1:]


def _rms(arrays: Sequence[Array]) -> Float[Array, ""]:
    return norm(list(arrays)) / sum(array.size for array in arrays) ** 0.5

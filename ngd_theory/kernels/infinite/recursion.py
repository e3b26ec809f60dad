"""The recursion over layers that makes infinite-width kernels (docs/theory.md section 5)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.kernels.infinite.moments import IdentityMoments, Moments
from ngd_theory.kernels.infinite.sources import moments_of
from ngd_theory.networks import Network
from ngd_theory.networks.activations import Activation
from ngd_theory.pytrees import pytree


@dataclass(frozen=True)
class Stage:
    """An affine layer and the moments of the activation before it; static.

    Attributes
    ----------
    weight_std, bias_std : float
        sigma_w and sigma_b of the layer.
    before : Moments or None
        Of the activation between the previous layer and this one; None before the first layer.
    """

    weight_std: float
    bias_std: float
    before: Moments | None


def stages(net: Network) -> tuple[Stage, ...]:
    """The stages of a network for which `sources.is_perceptron` holds."""
    before: list[Moments | None] = [None]
    for block in net.blocks[:-1]:
        activations = [f for f in block.after if isinstance(f, Activation)]
        before.append(moments_of(activations[0]) if activations else IdentityMoments())
    return tuple(
        Stage(b.affine.weight_std, b.affine.bias_std, m)
        for b, m in zip(net.blocks, before, strict=True)
    )


@pytree("inputs", "sensitivities")
@dataclass(frozen=True)
class LayerKernels:
    """Infinite-width kernels of every affine layer, per output, unnormalised.

    Attributes
    ----------
    inputs : (L, N, N')
        ``A_l = E[a_l . a_l'] = sigma_w^2 E[h h'] + sigma_b^2``: also the NNGP kernel Q_l of the
        layer's pre-activations. The A_{l-1} of docs/theory.md section 5, which counts from 0.
    sensitivities : (L, N, N')
        ``B_l = E[delta_l . delta_l'] = prod_{k >= l} sigma_w^2 Qdot_k``; ``B_L = 1``.
    """

    inputs: Float[Array, "L N M"]
    sensitivities: Float[Array, "L N M"]

    @property
    def layerwise_ntk(self) -> Float[Array, "L N M"]:
        """``Theta_l = A_l o B_l``."""
        return self.inputs * self.sensitivities

    @property
    def ntk(self) -> Float[Array, "N M"]:
        """``sum_l Theta_l``."""
        return jnp.sum(self.layerwise_ntk, axis=0)

    @property
    def nngp(self) -> Float[Array, "N M"]:
        """Covariance of the outputs over initialisations, ``A_L``."""
        return self.inputs[-1]


def input_variances(chain: tuple[Stage, ...], x: Float[Array, "N M0"]) -> Float[Array, "L N"]:
    """Diagonal of every ``A_l``: the variances of the pre-activations."""
    rows = []
    moment = jnp.mean(x**2, axis=1)
    for stage in chain:
        if stage.before is not None:
            moment = stage.before.variance(rows[-1])
        rows.append(stage.weight_std**2 * moment + stage.bias_std**2)
    return jnp.stack(rows)


def recurse(
    chain: tuple[Stage, ...],
    x1: Float[Array, "N M0"],
    x2: Float[Array, "M M0"],
    variances1: Float[Array, "L N"],
    variances2: Float[Array, "L M"],
) -> LayerKernels:
    """All layers' kernels of one tile of sample pairs.

    Forward ``A_{l+1} = sigma_w^2 E[phi phi'] + sigma_b^2`` under ``N(0, A_l)``; backward
    ``B_l = sigma_w^2 E[phi' phi''] o B_{l+1}`` with the scale of layer l+1.
    """
    product = jnp.matmul(x1, x2.T, precision=jax.lax.Precision.HIGHEST)
    moment = product / x1.shape[1]
    inputs, slopes = [], []
    for index, stage in enumerate(chain):
        if stage.before is not None:
            moment, slope = stage.before.pair(
                variances1[index - 1], inputs[-1], variances2[index - 1]
            )
            slopes.append(stage.weight_std**2 * slope)
        inputs.append(stage.weight_std**2 * moment + stage.bias_std**2)
    sensitivities = [jnp.ones_like(product)]
    for slope in reversed(slopes):
        sensitivities.insert(0, slope * sensitivities[0])
    return LayerKernels(jnp.stack(inputs), jnp.stack(sensitivities))

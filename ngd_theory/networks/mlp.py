"""Multi-layer perceptrons."""

from collections.abc import Sequence
from itertools import pairwise

from ngd_theory.errors import InputError
from ngd_theory.networks import activations
from ngd_theory.networks.layers import Dense
from ngd_theory.networks.network import Block, Network


def mlp(
    input_dim: int,
    hidden_widths: Sequence[int],
    output_dim: int,
    activation: str = "relu",
    weight_std: float = 2**0.5,
    bias_std: float = 0.0,
) -> Network:
    """Build a multi-layer perceptron, ``L = len(hidden_widths) + 1`` affine layers.

    Parameters
    ----------
    input_dim : int
        M_0.
    hidden_widths : sequence of int
        M_1 .. M_{L-1}; empty for a linear model.
    output_dim : int
        C.
    activation : {"relu", "tanh", "erf", "gelu", "identity"}
    weight_std, bias_std : float
        sigma_w > 0 and sigma_b >= 0 of docs/theory.md section 1. ``bias_std == 0`` leaves the biases out.

    Raises
    ------
    InputError
        For a size below 1, a non-positive ``weight_std``, a negative ``bias_std`` or an unknown
        activation.

    Examples
    --------
    >>> import jax
    >>> net = mlp(4, [8, 8], 1)
    >>> net.apply(net.init(jax.random.key(0)), jax.numpy.ones((3, 4))).shape
    (3, 1)
    """
    phi = activations.by_name(activation)
    sizes = [input_dim, *hidden_widths, output_dim]
    for name, size in zip(
        ["input_dim", *(f"hidden_widths[{i}]" for i in range(len(sizes) - 2)), "output_dim"],
        sizes,
        strict=True,
    ):
        if int(size) != size or size < 1:
            raise InputError(f"{name} is {size}; it must be a whole number of at least 1")
    if not 0 < weight_std < float("inf"):
        raise InputError(f"weight_std is {weight_std}; it must be positive and finite")
    if not 0 <= bias_std < float("inf"):
        raise InputError(f"bias_std is {bias_std}; it must be zero or positive, and finite")
    layers = [Dense(int(p), int(m), float(weight_std), float(bias_std)) for p, m in pairwise(sizes)]
    linear = phi.name == "identity"
    hidden = tuple(Block(layer, (phi,), phi.active_fraction, linear) for layer in layers[:-1])
    return Network((int(input_dim),), (*hidden, Block(layers[-1])), phi.name)

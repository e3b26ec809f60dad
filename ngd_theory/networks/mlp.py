"""Multi-layer perceptrons."""

from collections.abc import Sequence
from itertools import pairwise

from ngd_theory.arguments import checked
from ngd_theory.networks import activations
from ngd_theory.networks.activations import Activation
from ngd_theory.networks.block import Block
from ngd_theory.networks.chain import chain
from ngd_theory.networks.checks import require_scales, require_size
from ngd_theory.networks.layers import Dense
from ngd_theory.networks.network import Network
from ngd_theory.networks.parameterization import parameterize


@checked
def mlp(
    input_dim: int,
    hidden_widths: Sequence[int],
    output_dim: int,
    activation: str | Activation = "relu",
    weight_std: float = 2**0.5,
    bias_std: float = 0.0,
    *,
    parameterization: str = "ntk",
) -> Network:
    """Build a multi-layer perceptron of ``L = len(hidden_widths) + 1`` affine layers.

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
    parameterization : {"ntk", "mup"}
        "mup" divides the output layer, weight and bias, by sqrt(M), where M is the number of units before it. Outputs
        are those of "ntk" divided by sqrt(M), and kernels those divided by M; divide a damping by M too. Training then
        moves the features at every width. In the abc-parameterisation (Yang & Hu 2021) the layers have a = 0, 1/2, ...,
        1/2 and, for the last, 1 ("ntk": 1/2), all with b = 0. Learning rates have c = -1 for gradient descent ("ntk":
        0) and c = 0 for natural gradients. See docs/theory.md section 11.

    Raises
    ------
    InputError
        For a size below 1, a non-positive ``weight_std``, a negative ``bias_std``, an unknown
        activation or parameterisation, and "mup" without a hidden layer.

    Examples
    --------
    >>> import jax
    >>> net = mlp(4, [8, 8], 1)
    >>> net.apply(net.init(jax.random.key(0)), jax.numpy.ones((3, 4))).shape
    (3, 1)
    """
    phi = activations.by_name(activation)
    sizes = [
        require_size("input_dim", input_dim),
        *(require_size(f"hidden_widths[{i}]", m) for i, m in enumerate(hidden_widths)),
        require_size("output_dim", output_dim),
    ]
    scales = require_scales(weight_std, bias_std)
    layers = [Dense(p, m, *scales) for p, m in pairwise(sizes)]
    linear = phi.name == "identity"
    hidden = tuple(Block(layer, (phi,), phi.active_fraction, linear) for layer in layers[:-1])
    made = chain((sizes[0],), (*hidden, Block(layers[-1])), phi.name)
    return parameterize(made, parameterization)

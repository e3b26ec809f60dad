"""Deep autoencoders in the standard parameterisation."""

from collections.abc import Sequence
from itertools import pairwise

from ngd_theory.arguments import checked
from ngd_theory.errors import InputError
from ngd_theory.networks import activations
from ngd_theory.networks.activations import Activation
from ngd_theory.networks.block import Block
from ngd_theory.networks.chain import chain
from ngd_theory.networks.checks import require_size
from ngd_theory.networks.initialization import standard_parameterization
from ngd_theory.networks.layers import Dense
from ngd_theory.networks.network import Network

#: Input width and encoder widths of Hinton & Salakhutdinov (2006), as in Martens & Grosse (2015).
AUTOENCODERS = {
    "curves": (784, (400, 200, 100, 50, 25, 6)),
    "mnist": (784, (1000, 500, 250, 30)),
    "faces": (625, (2000, 1000, 500, 30)),
}


@checked
def autoencoder(
    input_dim: int,
    encoder_widths: Sequence[int],
    activation: str | Activation = "tanh",
    code_activation: str | Activation = "identity",
) -> Network:
    """Build an encoder and its mirror image, with ``L = 2 len(encoder_widths)`` affine layers.

    Every layer is ``u = W h + b`` with no factor in front: ``weight_std = sqrt(fan_in)`` and
    ``bias_std = 1`` in the terms of `Dense`. Draw the parameters with `sparse_init`: the network's
    own ``init`` draws entries from N(0, 1), which saturate every unit.

    Parameters
    ----------
    input_dim : int
        M_0, also the number of outputs C.
    encoder_widths : sequence of int
        Widths after the input, the code last; `AUTOENCODERS` has the published ones.
    activation : {"relu", "tanh", "erf", "gelu", "identity"}
        Activation of all hidden layers except the code. The outputs have none: they are logits.
    code_activation : like ``activation``
        Activation of the code.

    Raises
    ------
    InputError
        For a size below 1, no encoder width, or an unknown activation.

    Examples
    --------
    >>> input_dim, encoder_widths = AUTOENCODERS["mnist"]
    >>> autoencoder(input_dim, encoder_widths).depth
    8
    """
    phi, code_phi = activations.by_name(activation), activations.by_name(code_activation)
    if len(encoder_widths) == 0:
        raise InputError("encoder_widths is empty; give at least the width of the code")
    encoder = [
        require_size("input_dim", input_dim),
        *(require_size(f"encoder_widths[{i}]", m) for i, m in enumerate(encoder_widths)),
    ]
    sizes = [*encoder, *encoder[-2::-1]]
    code = len(encoder_widths) - 1
    blocks = []
    for index, (fan_in, units) in enumerate(pairwise(sizes)):
        after = code_phi if index == code else phi
        layer = Dense(fan_in, units, weight_std=1.0, bias_std=1.0)
        blocks.append(Block(layer, (after,), after.active_fraction, after.name == "identity"))
    blocks[-1] = Block(blocks[-1].affine)
    return standard_parameterization(chain((sizes[0],), tuple(blocks), phi.name))

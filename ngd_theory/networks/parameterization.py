"""Maximal update: the NTK parameterisation with a readout that is smaller by one more root of the width."""

from dataclasses import replace
from types import MappingProxyType

from ngd_theory.errors import InputError, choose
from ngd_theory.networks.layers import Affine
from ngd_theory.networks.network import Network

#: By name: the power of M, the units before the readout, that the readout is multiplied by.
PARAMETERIZATIONS = MappingProxyType({"ntk": 0.0, "mup": -0.5})


def parameterize(network: Network, name: str) -> Network:
    """The network, made in the NTK parameterisation, in the one called ``name``.

    "ntk" leaves it as it is. "mup" multiplies its last layer, weight and bias, by ``1/sqrt(M)``, M the units (channels)
    of the layer before: ``weight_std`` and ``bias_std`` of that layer are divided by sqrt(M). At the same parameters
    outputs and Jacobian are those of the NTK parameterisation over sqrt(M), and every kernel is 1/M of it.

    In the abc-parameterisation of Yang & Hu (2021; entries ``M^-a w`` with w ~ N(0, M^-2b), learning rate
    ``eta M^-c``): a = 0 for the first layer, 1/2 for hidden ones, and for the readout 1/2 (ntk) or 1 (mup); b = 0. Then
    c = 0 (ntk) and c = -1 (mup) are gradient descent's, with which a step moves the outputs by O(1): mup is their
    maximal update ``a = (-1/2, 0, 1/2), b = 1/2, c = 0`` shifted by their symmetry ``a + 1/2, b - 1/2, c - 1``. A
    natural gradient has c = 0 in both: its preconditioner has the 1/M of the kernel in it, if its damping has it too.

    Raises
    ------
    InputError
        For an unknown name, and for "mup" of a network without a hidden layer.
    """
    power = choose(PARAMETERIZATIONS, name, "parameterization")
    if power == 0:
        return network
    if network.depth == 1:
        raise InputError(
            f"parameterization {name!r} divides the readout by the root of the units before it, and a network of one "
            "layer has none: give it a hidden layer, or take 'ntk'"
        )
    *hidden, readout = network.affine
    assert isinstance(readout, Affine)
    scale = float(hidden[-1].units) ** power
    scales = {"weight_std": scale * readout.weight_std, "bias_std": scale * readout.bias_std}
    # Every layer type is a dataclass.
    small = replace(readout, **scales)  # pyright: ignore[reportArgumentType]
    return replace(network.with_layers([*hidden, small]), readout_scale=scale)

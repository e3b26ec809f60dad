"""Maximal update: the NTK parameterisation with the readout divided by a further root of the width."""

from dataclasses import replace
from types import MappingProxyType

from ngd_theory.errors import InputError, choose
from ngd_theory.networks.layers import Affine
from ngd_theory.networks.network import Network

#: Name -> p: the readout is multiplied by M^p, where M is the number of units before it.
PARAMETERIZATIONS = MappingProxyType({"ntk": 0.0, "mup": -0.5})


def parameterize(network: Network, name: str) -> Network:
    """Change a network from the NTK parameterisation to the one called ``name``.

    "ntk" changes nothing. "mup" multiplies the last layer, weight and bias, by ``1/sqrt(M)``, where M is the number of
    units (channels) before it: ``weight_std`` and ``bias_std`` of the last layer are divided by sqrt(M). At the same
    parameters, outputs and Jacobian are those of the NTK parameterisation over sqrt(M), and every kernel is 1/M of it.

    In the abc-parameterisation of Yang & Hu (2021) entries are ``M^-a w`` with w ~ N(0, M^-2b), and the learning rate
    is ``eta M^-c``. Here a = 0 for the first layer, 1/2 for hidden ones, 1/2 (ntk) or 1 (mup) for the readout; b = 0.
    A step of gradient descent moves the outputs by O(1) with c = 0 (ntk) or c = -1 (mup). So mup is their maximal
    update ``a = (-1/2, 0, 1/2), b = 1/2, c = 0``, shifted by their symmetry ``a + 1/2, b - 1/2, c - 1``. A natural
    gradient has c = 0 in both, because its preconditioner holds the 1/M of the kernel; the damping must hold it too.

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

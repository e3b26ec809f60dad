"""Floor 1: wide networks in the NTK parameterisation and their factored Jacobian."""

from ngd_theory.networks.activations import ACTIVATIONS
from ngd_theory.networks.linearization import LayerLinearization, Linearization, linearize
from ngd_theory.networks.mlp import mlp
from ngd_theory.networks.network import Network
from ngd_theory.networks.sizes import LayerSize

__all__ = [
    "ACTIVATIONS",
    "LayerLinearization",
    "LayerSize",
    "Linearization",
    "Network",
    "linearize",
    "mlp",
]

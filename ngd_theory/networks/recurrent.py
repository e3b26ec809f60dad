"""Recurrent networks: weights tied over the steps of a sequence."""

from dataclasses import dataclass

import jax.numpy as jnp

from ngd_theory.arguments import checked
from ngd_theory.networks import activations
from ngd_theory.networks.activations import Activation
from ngd_theory.networks.checks import require_scales, require_size
from ngd_theory.networks.layers import Dense
from ngd_theory.networks.network import Network


@dataclass(frozen=True)
class Recurrence:
    """The forward function of `recurrent`."""

    phi: Activation
    width: int

    def __call__(self, layers, x):
        """Outputs (N, C) after the last step."""

        def step(layers, h, token):
            return self.phi(layers["hidden"](h) + layers["in"](token)), None

        start = jnp.zeros((len(x), self.width), x.dtype)
        h, _ = layers.scan(step, start, jnp.moveaxis(x, 1, 0))
        return layers["out"](h)


@checked
def recurrent(
    num_steps: int,
    token_dim: int,
    width: int,
    output_dim: int,
    activation: str | Activation = "tanh",
    weight_std: float = 1.0,
    bias_std: float = 0.0,
) -> Network:
    """Build a recurrent network of three affine layers: "in" and "hidden", called at every step, and "out".

    ``h_t = phi(W h_{t-1} + U x_t)`` from ``h_0 = 0``; "out" maps ``h_T`` to the outputs. A linearisation treats the
    steps as positions, like those of a convolution (T = ``num_steps``).

    Parameters
    ----------
    num_steps : int
        T; inputs are (N, T, token_dim).
    token_dim, width, output_dim : int
        Numbers per token, M, C.
    activation : {"relu", "tanh", "erf", "gelu", "identity"}
    weight_std, bias_std : float
        sigma_w > 0 and sigma_b >= 0, of all three layers.

    Raises
    ------
    InputError
        For a size below 1 or an unknown activation.

    Examples
    --------
    >>> import jax
    >>> net = recurrent(5, 3, 8, 1)
    >>> net.positions, net.apply(net.init(jax.random.key(0)), jax.numpy.ones((2, 5, 3))).shape
    ((5, 5, 1), (2, 1))
    """
    phi = activations.by_name(activation)
    steps, tokens = require_size("num_steps", num_steps), require_size("token_dim", token_dim)
    width, outputs = require_size("width", width), require_size("output_dim", output_dim)
    scales = require_scales(weight_std, bias_std)
    layers = {
        "in": Dense(tokens, width, *scales),
        "hidden": Dense(width, width, *scales),
        "out": Dense(width, outputs, *scales),
    }
    function = Recurrence(phi, width)
    return Network((steps, tokens), tuple(layers.items()), function, phi.name, phi.smooth)

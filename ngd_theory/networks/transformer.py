"""Transformer encoders on tokens."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ngd_theory.arguments import checked
from ngd_theory.errors import InputError, choose
from ngd_theory.networks import activations
from ngd_theory.networks.activations import Activation
from ngd_theory.networks.checks import require_scales, require_size
from ngd_theory.networks.embedding import Embedding
from ngd_theory.networks.layers import Dense, Layer
from ngd_theory.networks.network import Network
from ngd_theory.networks.normalization import NORMS
from ngd_theory.networks.resnet import require_residual_scale

#: Maps from the last features (N, T, M) to the inputs of the output layer.
TOKEN_READOUTS = {"mean": lambda h: h.mean(1), "last": lambda h: h[:, -1]}


@dataclass(frozen=True)
class Encoder:
    """The forward function of `transformer`."""

    phi: Activation
    norm: Callable
    blocks: int
    heads: int
    causal: bool
    scale: float
    readout: str

    def __call__(self, layers, x):
        """Outputs (N, C)."""
        h = layers["in"](x)
        for number in range(1, self.blocks + 1):
            q, k, v = (self._split(layers[f"{n}_{number}"](self.norm(h))) for n in "qkv")
            mixed = self._attend(q, k, v).reshape(h.shape)
            h = h + self.scale * layers[f"o_{number}"](mixed)
            up = self.phi(layers[f"up_{number}"](self.norm(h)))
            h = h + self.scale * layers[f"down_{number}"](up)
        return layers["out"](TOKEN_READOUTS[self.readout](self.norm(h)))

    def _split(self, h):
        """(N, T, M) to (N, T, heads, M/heads)."""
        return h.reshape(*h.shape[:-1], self.heads, -1)

    def _attend(self, q, k, v):
        """Each token's mean of the values, weighted by softmax of ``q.k / sqrt(M/heads)``."""
        scores = jnp.einsum("nthd,nshd->nhts", q, k) / q.shape[-1] ** 0.5
        if self.causal:
            seen = jnp.tril(jnp.ones(scores.shape[-2:], bool))
            scores = jnp.where(seen, scores, -jnp.inf)
        return jnp.einsum("nhts,nshd->nthd", jax.nn.softmax(scores, axis=-1), v)


@checked
def transformer(
    num_tokens: int,
    token_dim: int | None,
    width: int,
    blocks: int,
    output_dim: int,
    activation: str | Activation = "gelu",
    weight_std: float = 1.0,
    bias_std: float = 0.0,
    *,
    vocabulary: int | None = None,
    heads: int = 1,
    hidden_ratio: int = 1,
    causal: bool = False,
    readout: str = "mean",
    norm: str = "layer",
    residual_scale: float | None = None,
) -> Network:
    """Build a transformer encoder of ``L = 6 blocks + 2`` affine layers, with normalisation first.

    They are called "in", then "q_b", "k_b", "v_b", "o_b", "up_b", "down_b" of each block b, and "out". There is no
    positional encoding: the order of tokens matters only with ``causal`` or the readout "last".

    Parameters
    ----------
    num_tokens : int
        T.
    token_dim : int or None
        Numbers per token; inputs are (N, T, token_dim). None if inputs are tokens of a ``vocabulary``.
    width : int
        M, a multiple of ``heads``.
    blocks, output_dim : int
        B and C.
    activation : {"relu", "tanh", "erf", "gelu", "identity"}
        Activation between "up" and "down".
    weight_std, bias_std : float
        sigma_w > 0 and sigma_b >= 0.
    vocabulary : int, optional
        Number of possible tokens. If given, inputs are whole numbers (N, T), and "in" is an embedding.
    heads : int
    hidden_ratio : int
        "up" has ``hidden_ratio * M`` units.
    causal : bool
        Whether a token sees only itself and the tokens before it.
    readout : {"mean", "last"}
        "out" sees the mean over tokens, or the last token.
    norm : {"layer", "rms", "none"}
        Normalisation before "q", "k", "v", "up" and "out", without parameters.
    residual_scale : float, optional
        Scale of both branches of a block; ``1/sqrt(2 B)`` if None.

    Raises
    ------
    InputError
        For a size below 1, an unknown name, or unless exactly one of ``token_dim`` and ``vocabulary`` is given.

    Examples
    --------
    >>> import jax
    >>> net = transformer(5, 3, 8, blocks=1, output_dim=1)
    >>> net.depth, net.apply(net.init(jax.random.key(0)), jax.numpy.ones((2, 5, 3))).shape
    (8, (2, 1))
    """
    phi = activations.by_name(activation)
    choose(NORMS, norm, "norm")
    choose(TOKEN_READOUTS, readout, "readout")
    if (token_dim is None) == (vocabulary is None):
        raise InputError(
            "give token_dim for tokens that are vectors, or vocabulary for whole numbers"
        )
    tokens = require_size("num_tokens", num_tokens)
    width, outputs = require_size("width", width), require_size("output_dim", output_dim)
    blocks, heads = require_size("blocks", blocks), require_size("heads", heads)
    if width % heads:
        raise InputError(f"width is {width}; it must be a multiple of the {heads} heads")
    inner = width * require_size("hidden_ratio", hidden_ratio)
    scales = require_scales(weight_std, bias_std)
    if vocabulary is None:
        shape: tuple[int, ...] = (tokens, require_size("token_dim", token_dim))
        layers: dict[str, Layer] = {"in": Dense(shape[-1], width, *scales)}
    else:
        shape = (tokens,)
        layers = {"in": Embedding(require_size("vocabulary", vocabulary), width, scales[0])}
    for number in range(1, blocks + 1):
        layers |= {f"{n}_{number}": Dense(width, width, *scales) for n in "qkvo"}
        layers[f"up_{number}"] = Dense(width, inner, *scales)
        layers[f"down_{number}"] = Dense(inner, width, *scales)
    layers["out"] = Dense(width, outputs, *scales)
    scale = require_residual_scale(residual_scale, 2 * blocks)
    function = Encoder(phi, NORMS[norm], blocks, heads, causal, scale, readout)
    return Network(shape, tuple(layers.items()), function, phi.name, phi.smooth, vocabulary)

"""Embeddings of tokens: a linear layer of one-hot inputs that are never formed."""

from dataclasses import dataclass, replace
from math import prod

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ngd_theory.arguments import checked_fields
from ngd_theory.networks.layers import Affine, AnyArray, by_position, joined, require_layer
from ngd_theory.networks.layout import EmbeddingLayout


@checked_fields
@dataclass(frozen=True)
class Embedding(Affine):
    """A vector of M units for each token: ``u = weight_std W[token]``, the entries of W from N(0, 1).

    It is a dense layer of one-hot inputs without a bias. One entry of an input is not zero, so that there is no
    1/sqrt(V) in the NTK parameterisation.

    Attributes
    ----------
    vocabulary : int
        V, the number of tokens.
    units : int
        M.
    weight_std : float
        sigma_w.
    """

    vocabulary: int
    units: int
    weight_std: float = 1.0

    bias_std = 0.0

    def __post_init__(self):
        require_layer(self, "vocabulary", "units")

    @property
    def layout(self) -> EmbeddingLayout:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A weight (V, M)."""
        return EmbeddingLayout(self.vocabulary, self.units)

    @property
    def positions(self) -> int:
        """1 token."""
        return 1

    @property
    def output_shape(self) -> tuple[int, ...]:
        """``(M,)``, of one token."""
        return (self.units,)

    @property
    def scale(self) -> float:
        """``weight_std``."""
        return self.weight_std

    def standard(self):
        """``W[token]``."""
        return replace(self, weight_std=1.0)

    def patches(self, h: Int[AnyArray, "N *T"]):
        """One-hot vectors, (N, T, V): what this layer is, not how it is computed."""
        return jax.nn.one_hot(h.reshape(len(h), -1), self.vocabulary)

    def weigh(self, weight, h: Int[Array, "N *T"]):
        """Rows of the weight."""
        return jnp.take(weight, h, axis=0, mode="clip")

    def __call__(self, params, h: Int[Array, "N *T"]):
        """Pre-activations (N, *T, M)."""
        return self.scale * self.weigh(params["weight"], h)

    def factors(self, given, deltas):
        """One pair, with inputs in as many coordinates as the samples can hold tokens."""
        tokens = joined([h.reshape(len(h), -1) for h in given], 1)
        dtype = deltas[0].dtype
        held = min(self.vocabulary, prod(tokens.shape))
        present, place = jnp.unique(
            tokens, return_inverse=True, size=held, fill_value=self.vocabulary
        )
        inputs = self.scale * jax.nn.one_hot(place.reshape(tokens.shape), held, dtype=dtype)
        layout = EmbeddingLayout(self.vocabulary, self.units, present)
        return [(inputs, by_position(deltas), layout)]

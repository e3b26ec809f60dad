"""Embeddings of tokens: a linear layer of one-hot inputs that are never formed."""

from dataclasses import dataclass, replace
from math import prod

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ngd_theory.arguments import checked_fields
from ngd_theory.errors import InputError
from ngd_theory.networks.layers import Layer, by_position, joined, require_layer
from ngd_theory.networks.layout import EmbeddingLayout


@checked_fields
@dataclass(frozen=True)
class Embedding(Layer):
    """A vector of M units for each token: ``u = weight_std W[token]``, the entries of W from N(0, 1).

    It is a dense layer of one-hot inputs without a bias. Only one entry of an input is not zero, so the NTK
    parameterisation has no 1/sqrt(V) here.

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

    def __post_init__(self):
        require_layer(self, "vocabulary", "units")

    @property
    def parts(self):
        """A weight (V, M)."""
        return (EmbeddingLayout(self.vocabulary, self.units),)

    @property
    def shapes(self):
        """Shape of the weight."""
        return self.parts[0].shapes

    def __call__(self, params, h: Array):
        """Rows of the weight: (N, *T) to (N, *T, M)."""
        if not jnp.issubdtype(h.dtype, jnp.integer):
            raise InputError(
                f"Embedding is given an array of type {h.dtype}; it takes tokens: "
                "ngd.networks.network(..., vocabulary=)"
            )
        return self.weight_std * jnp.take(params["weight"], h, axis=0, mode="clip")

    def init(self, key, dtype):
        """Entries from N(0, 1)."""
        return {"weight": jax.random.normal(key, (self.vocabulary, self.units), dtype)}

    def standard(self):
        """``W[token]``."""
        return replace(self, weight_std=1.0)

    def factors(self, given, deltas):
        """One pair; its inputs have one coordinate per token that the samples can hold."""
        # Clipped as in the call.
        tokens = jnp.clip(joined([h.reshape(len(h), -1) for h in given], 1), 0, self.vocabulary - 1)
        dtype = deltas[0].dtype
        held = min(self.vocabulary, prod(tokens.shape))
        present, place = jnp.unique(
            tokens, return_inverse=True, size=held, fill_value=self.vocabulary
        )
        inputs = self.weight_std * jax.nn.one_hot(place.reshape(tokens.shape), held, dtype=dtype)
        layout = EmbeddingLayout(self.vocabulary, self.units, present)
        return [(inputs, by_position(deltas), layout)]

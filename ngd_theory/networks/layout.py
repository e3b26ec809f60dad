"""How the (P, M) parameter matrix of an affine layer, or of a group of parameters, is stored."""

from dataclasses import dataclass, field
from itertools import pairwise
from math import prod

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ngd_theory.pytrees import pytree


@pytree()
@dataclass(frozen=True)
class ParameterLayout:
    """Shape of a layer's parameters and their place in its (P, M) matrix.

    Rows ``0 .. prod(weight_shape[:-1]) - 1`` of the matrix are the weight, in row-major order; the
    last row is the bias, if there is one.

    Attributes
    ----------
    weight_shape : tuple of int
        ``(fan_in, M)`` for a dense layer, HWIO for a convolution; the last axis is M.
    has_bias : bool
    """

    weight_shape: tuple[int, ...]
    has_bias: bool

    @property
    def fan_in(self) -> int:
        """Rows of the weight, without the bias."""
        return prod(self.weight_shape[:-1])

    @property
    def num_inputs(self) -> int:
        """P: rows of the parameter matrix, the bias row included."""
        return self.fan_in + self.has_bias

    @property
    def num_units(self) -> int:
        """M: columns of the parameter matrix."""
        return self.weight_shape[-1]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each stored array."""
        bias = {"bias": (self.num_units,)} if self.has_bias else {}
        return {"weight": self.weight_shape, **bias}

    def pull_back(
        self, inputs: Float[Array, "N T P"], coefficients: Float[Array, "N T M"]
    ) -> dict[str, Array]:
        """``sum_{n,t} a[n,t] coefficients[n,t]^T`` as parameters: one (P, NT, M) matmul.

        The bias row is computed apart, so that the weight is never copied out of a larger matrix.
        """
        a = inputs.reshape(-1, inputs.shape[-1])
        c = coefficients.reshape(-1, coefficients.shape[-1])
        weight = (a[:, : self.fan_in].T @ c).reshape(self.weight_shape)
        return {"weight": weight, "bias": a[:, -1] @ c} if self.has_bias else {"weight": weight}

    def push_forward(
        self, inputs: Float[Array, "N T P"], tangent: dict[str, Array]
    ) -> Float[Array, "N T M"]:
        """``a[n,t] @ tangent``: the change of the pre-activations along ``tangent``."""
        change = inputs[..., : self.fan_in] @ tangent["weight"].reshape(self.fan_in, -1)
        if not self.has_bias:
            return change
        bias = tangent["bias"]
        return change + inputs[..., -1:] * bias.reshape((1,) * (change.ndim - 1) + bias.shape)

    def from_matrix(self, matrix: Float[Array, "P M"]) -> dict[str, Array]:
        """Split a (P, M) matrix into stored parameters."""
        weight = matrix[: self.fan_in].reshape(self.weight_shape)
        return {"weight": weight, "bias": matrix[-1]} if self.has_bias else {"weight": weight}

    def to_matrix(self, params: dict[str, Array]) -> Float[Array, "P M"]:
        """Join stored parameters into the (P, M) matrix; the inverse of `from_matrix`."""
        weight = params["weight"].reshape(self.fan_in, -1)
        return jnp.concatenate([weight, params["bias"][None]]) if self.has_bias else weight


@pytree()
@dataclass(frozen=True)
class GroupLayout:
    """How the parameters of a group, a (1, M) matrix, are stored: arrays by name.

    Attributes
    ----------
    shapes_by_name : tuple of (str, tuple of int)
    """

    shapes_by_name: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def num_inputs(self) -> int:
        """1, the constant input."""
        return 1

    @property
    def num_units(self) -> int:
        """M: parameters of the group."""
        return sum(prod(shape) for _, shape in self.shapes_by_name)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each stored array."""
        return dict(self.shapes_by_name)

    def pull_back(
        self, inputs: Float[Array, "N T 1"], coefficients: Float[Array, "N T M"]
    ) -> dict[str, Array]:
        """``sum_{n,t} a[n,t] coefficients[n,t]`` as parameters."""
        return self.from_matrix(jnp.einsum("ntp,ntm->pm", inputs, coefficients))

    def push_forward(
        self, inputs: Float[Array, "N T 1"], tangent: dict[str, Array]
    ) -> Float[Array, "N T M"]:
        """``a[n,t] tangent``."""
        return inputs * self.to_matrix(tangent)

    def from_matrix(self, matrix: Float[Array, "1 M"]) -> dict[str, Array]:
        """Split a (1, M) matrix into stored parameters."""
        ends = [0]
        for _, shape in self.shapes_by_name:
            ends.append(ends[-1] + prod(shape))
        return {
            name: matrix[0, start:stop].reshape(shape)
            for (name, shape), (start, stop) in zip(
                self.shapes_by_name, pairwise(ends), strict=True
            )
        }

    def to_matrix(self, params: dict[str, Array]) -> Float[Array, "1 M"]:
        """Join stored parameters; the inverse of `from_matrix`."""
        return jnp.concatenate([params[name].ravel() for name, _ in self.shapes_by_name])[None]


@pytree("tokens")
@dataclass(frozen=True)
class EmbeddingLayout:
    """How the (V, M) parameter matrix of an embedding is stored.

    The inputs of the layer are one-hot, and a set of samples holds few of the V tokens. So inputs are written in D
    coordinates, one for each token that the samples hold. Directions orthogonal to all of them are never formed.

    Attributes
    ----------
    vocabulary, units : int
        V and M.
    tokens : (D,)
        The token of each coordinate; V if a coordinate stands for no token. None before there are samples. Tokens are
        ignored when two layouts are compared.
    """

    vocabulary: int
    units: int
    tokens: Int[Array, " D"] | None = field(default=None, compare=False)

    @property
    def num_inputs(self) -> int:
        """V."""
        return self.vocabulary

    @property
    def num_units(self) -> int:
        """M."""
        return self.units

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of the stored array."""
        return {"weight": (self.vocabulary, self.units)}

    def pull_back(
        self, inputs: Float[Array, "N T D"], coefficients: Float[Array, "N T M"]
    ) -> dict[str, Array]:
        """``sum_{n,t} a[n,t] coefficients[n,t]^T`` as parameters; rows of other tokens are zero."""
        return self.from_matrix(jnp.einsum("ntd,ntm->dm", inputs, coefficients))

    def push_forward(
        self, inputs: Float[Array, "N T D"], tangent: dict[str, Array]
    ) -> Float[Array, "N T M"]:
        """``a[n,t] @ tangent``."""
        return inputs @ self.to_matrix(tangent)

    def from_matrix(self, matrix: Float[Array, "D M"]) -> dict[str, Array]:
        """Rows of the tokens as parameters, zero elsewhere."""
        whole = jnp.zeros((self.vocabulary, self.units), matrix.dtype)
        return {"weight": whole.at[self.tokens].set(matrix, mode="drop")}

    def to_matrix(self, params: dict[str, Array]) -> Float[Array, "D M"]:
        """Rows of the tokens, zero for no token; all rows if there are no samples."""
        if self.tokens is None:
            return params["weight"]
        return jnp.take(params["weight"], self.tokens, axis=0, mode="fill", fill_value=0)


Layout = ParameterLayout | GroupLayout | EmbeddingLayout

"""The factored Jacobian: layer inputs and output sensitivities (docs/theory.md section 1).

For every affine layer ``J_l[(n,c)] = sum_t delta_l[n,c,t] (x) a_l[n,t]``. The package works only with
``a`` and ``delta``; the (NC, P) Jacobian is never formed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree, Shaped

from ngd_theory.arguments import check_finite, checked, is_floating
from ngd_theory.errors import InputError
from ngd_theory.networks.layout import EmbeddingLayout, GroupLayout, Layout
from ngd_theory.networks.network import Network
from ngd_theory.pytrees import pytree


@pytree("inputs", "sensitivities", "layout")
@dataclass(frozen=True)
class LayerLinearization:
    """One affine layer's factors of the Jacobian.

    Attributes
    ----------
    inputs : (N, T, P)
        Scaled, bias-augmented inputs a.
    sensitivities : (N, C, T, M)
        ``delta[n,c,t] = d f_c(x_n) / d u[n,t]``.
    layout : ParameterLayout, GroupLayout or EmbeddingLayout
        For an embedding, P is the number of tokens that the samples can hold, not the vocabulary.
    """

    made_by: ClassVar[str] = "a layer of ngd.networks.linearize(network, params, x).layers"
    inputs: Array
    sensitivities: Array
    layout: Layout

    def vjp(self, cotangent: Float[Array, "N C"]) -> dict[str, Array]:
        """``J_l^T cotangent`` as the layer's parameters; no 1/N."""
        coefficients = jnp.einsum("nc,nctm->ntm", cotangent, self.sensitivities)
        return self.layout.pull_back(self.inputs, coefficients)

    def jvp(self, tangent: dict[str, Array]) -> Float[Array, "N C"]:
        """``J_l tangent``."""
        change = self.layout.push_forward(self.inputs, tangent)
        return jnp.einsum("nctm,ntm->nc", self.sensitivities, change)

    def take(self, samples: Int[Array, " B"]) -> "LayerLinearization":
        """The factors of some of the samples."""
        return replace(self, inputs=self.inputs[samples], sensitivities=self.sensitivities[samples])

    def in_coordinates_of(self, other: "LayerLinearization") -> "LayerLinearization":
        """The same layer with inputs in the coordinates of ``other``; embeddings may use different ones.

        Products with the inputs of ``other`` stay the same. Parts orthogonal to all of these inputs are left out.
        """
        own, theirs = self.layout, other.layout
        if not (isinstance(own, EmbeddingLayout) and isinstance(theirs, EmbeddingLayout)):
            return self
        tokens, wanted = own.tokens, theirs.tokens
        if tokens is None or wanted is None or tokens is wanted:
            return self
        shared = (tokens[:, None] == wanted[None, :]) & (tokens < own.vocabulary)[:, None]
        inputs = self.inputs @ shared.astype(self.inputs.dtype)
        return replace(self, inputs=inputs, layout=theirs)


@pytree("outputs", "layers")
@dataclass(frozen=True)
class Linearization:
    """A network linearised about its parameters at N inputs.

    Attributes
    ----------
    outputs : (N, C)
        f(x) at the point of linearisation.
    layers : tuple of LayerLinearization
        First layer to last.
    grouping : Grouping, Parts, ModelTree or None
        How the parameters are made from those of ``layers``. None if they are a tuple with one dict per layer. Else the
        "layers" are groups of the parameters of a function (`linearize_function`), or parts of layers.
    names : tuple of str
        Names of the layers, for `describe`.
    """

    made_by: ClassVar[str] = "ngd.networks.linearize(network, params, x)"
    outputs: Array
    layers: tuple[LayerLinearization, ...]
    grouping: Any = None
    names: tuple[str, ...] = ()

    @property
    def num_samples(self) -> int:
        """N."""
        return self.outputs.shape[0]

    @property
    def output_dim(self) -> int:
        """C."""
        return self.outputs.shape[1]

    @property
    def has_layers(self) -> bool:
        """Whether its layers have inputs and units of their own; False for a function."""
        return self.grouping is None or self.grouping.has_layers

    def describe(self) -> str:
        """A table of the layers as text: name, shapes of parameters, whether it has factors, number of positions."""
        rows = [("", "layer", "parameters", "is")]
        names = self.names or ("",) * len(self.layers)
        for number, (name, layer) in enumerate(zip(names, self.layers, strict=True), start=1):
            shapes = ", ".join(
                f"{k.removesuffix('/value').rpartition('/')[2]} {s}"
                for k, s in layer.layout.shapes.items()
            )
            count = layer.inputs.shape[1]
            is_group = isinstance(layer.layout, GroupLayout)
            what = "a group" if is_group else f"factored, {count} position{'s' * (count > 1)}"
            rows.append((str(number), name, shapes, what))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)

    def in_coordinates_of(self, other: "Linearization") -> "Linearization":
        """See `LayerLinearization.in_coordinates_of`."""
        pairs = zip(self.layers, other.layers, strict=True)
        return replace(self, layers=tuple(x.in_coordinates_of(y) for x, y in pairs))

    def take(self, samples: Int[Array, " B"]) -> "Linearization":
        """The linearisation at B of the samples, given by index: a mini-batch.

        Indices are not checked: JAX decides what an index beyond N gives.
        """
        layers = tuple(layer.take(samples) for layer in self.layers)
        return replace(self, outputs=self.outputs[samples], layers=layers)

    def vjp(self, cotangent: Float[Array, "N C"]) -> PyTree[Array]:
        """``J^T cotangent``, like the parameters; no 1/N. One (P, NT, M) matmul per layer."""
        return self.like_params([layer.vjp(cotangent) for layer in self.layers])

    def jvp(self, tangent) -> Float[Array, "N C"]:
        """``J tangent`` for a tangent like the parameters."""
        terms = [y.jvp(t) for y, t in zip(self.layers, self.by_layer(tangent), strict=True)]
        return sum(terms[1:], terms[0])

    def like_params(self, layers: Sequence[dict[str, Array]]):
        """Join one dict per layer into a tree like the parameters."""
        return tuple(layers) if self.grouping is None else self.grouping.join(layers)

    def by_layer(self, tangent) -> Sequence[dict[str, Array]]:
        """The inverse of `like_params`."""
        return tangent if self.grouping is None else self.grouping.split(tangent)


@checked
def linearize(network: Network, params, x: Shaped[Array, "N *S"]) -> Linearization:
    """Linearise ``network`` about ``params`` at the inputs ``x``.

    It takes one forward pass and C backward passes (one vmapped vector-Jacobian product through shifts of the
    pre-activations), and computes no weight gradient. The result holds ``sum_l N T (P + C M)`` numbers.
    On a CPU the backward passes of a convolution hold C N T P more, one layer at a time.

    Parameters
    ----------
    network : Network
    params : like ``network.init(key)``
    x : (N, *input_shape)

    Returns
    -------
    Linearization

    Raises
    ------
    InputError
        If ``params`` or ``x`` do not fit the network, are not of float32 or float64, or hold a NaN or infinity (this
        is checked only outside jit, vmap and grad).

    Examples
    --------
    >>> import jax, ngd_theory as ngd
    >>> net = ngd.networks.mlp(8, [64, 64], 1, "tanh")
    >>> params = net.init(jax.random.key(0))
    >>> x = jax.random.normal(jax.random.key(1), (4, 8))
    >>> lin = ngd.networks.linearize(net, params, x)
    >>> lin.outputs.shape, lin.layers[1].inputs.shape, lin.layers[1].sensitivities.shape
    ((4, 1), (4, 1, 64), (4, 1, 1, 64))
    """
    _check(network, params, x)
    return _linearize(network, params, x)


@partial(jax.jit, static_argnums=0)
def _linearize(network, params, x) -> Linearization:
    outputs, layers = backpropagate_unchecked(network, params, x, _identity_rows)
    names = tuple(
        f"{name} ({type(layer).__name__}{_part(number, len(layer.parts))})"
        for name, layer in network.layers
        for number in range(len(layer.parts))
    )
    return Linearization(outputs, layers, network.parts, names)


def _part(number: int, count: int) -> str:
    return "" if count == 1 else f", part {number + 1} of {count}"


@checked
def backpropagate(
    network: Network, params, x: Shaped[Array, "N *S"], rows: Callable
) -> tuple[Float[Array, "N C"], tuple[LayerLinearization, ...]]:
    """Outputs, and the factors of K combinations of them, by one forward pass and K backward passes.

    Parameters
    ----------
    network : Network
    params : like ``network.init(key)``
    x : (N, *input_shape)
    rows : ``outputs (N, C) -> (N, K, C)``
        The combinations, held fixed, such as sampled scores or the rows of ``R^T``.

    Returns
    -------
    outputs : (N, C)
    layers : tuple of LayerLinearization
        With sensitivities (N, K, T, M): ``rows[n,k] . d f(x_n) / d u[n,t]``.

    Raises
    ------
    InputError
        As `linearize`.
    """
    _check(network, params, x)
    return backpropagate_unchecked(network, params, x, rows)


def _check(network: Network, params, x) -> None:
    """Raise the errors that `linearize` documents."""
    network.check(params, x)
    require_precision(jnp.result_type(*floating((x, params))))
    check_finite("x", x)
    check_finite("params", params)


def backpropagate_unchecked(network: Network, params, x, rows: Callable):
    """`backpropagate` without its checks."""
    dtype = jnp.result_type(*floating((x, params)))
    x, params = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, dtype if is_floating(leaf) else None), (x, params)
    )
    shifts = network.zero_shifts(x.shape[0], dtype)
    outputs, pull, given = jax.vjp(
        lambda shifts: network.forward(params, x, shifts), shifts, has_aux=True
    )
    cotangents = jnp.moveaxis(rows(outputs), 1, 0)
    (deltas,) = jax.vmap(pull)(cotangents)
    return outputs, tuple(LayerLinearization(*found) for found in network.factors(given, deltas))


def floating(tree) -> list:
    """The leaves that are floating: tokens are not."""
    return [leaf for leaf in jax.tree.leaves(tree) if is_floating(leaf)]


def require_precision(dtype) -> None:
    """Raise `InputError` unless numbers have 4 or 8 bytes: LAPACK factorises no shorter ones."""
    if jnp.finfo(dtype).bits < 32:
        raise InputError(
            f"inputs and parameters are of type {jnp.dtype(dtype).name}, which no solve takes: give one of them as "
            "float32, x.astype(jax.numpy.float32), and all is computed in it"
        )


def _identity_rows(outputs: Float[Array, "N C"]) -> Float[Array, "N C C"]:
    n, c = outputs.shape
    return jnp.broadcast_to(jnp.eye(c, dtype=outputs.dtype), (n, c, c))

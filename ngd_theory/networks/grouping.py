"""Join what is found for each layer or group into a tree like the parameters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from jaxtyping import Array

from ngd_theory.errors import InputError
from ngd_theory.networks.layers import Layer


@dataclass(frozen=True)
class Parts:
    """Layers that may consist of several parts side by side, such as a convolution in groups.

    Attributes
    ----------
    layers : tuple of Layer
    """

    #: Whether the joined pieces are affine layers, with inputs and units of their own.
    has_layers: ClassVar[bool] = True
    layers: tuple[Layer, ...]

    def join(self, parts: Sequence[dict[str, Array]]) -> tuple[dict[str, Array], ...]:
        """Join one dict per part into one dict per layer."""
        rest = iter(parts)
        return tuple(layer.join([next(rest) for _ in layer.parts]) for layer in self.layers)

    def split(self, tree) -> tuple[dict[str, Array], ...]:
        """The inverse of `join`."""
        pairs = zip(self.layers, tree, strict=True)
        return tuple(part for layer, params in pairs for part in layer.split(params))


@dataclass(frozen=True)
class Grouping:
    """Groups of the leaves of a tree of parameters.

    Attributes
    ----------
    names : tuple of str
        The groups, in order.
    structure : jax tree definition
        Structure of the parameters (`jax.tree.structure`).
    leaves : tuple of str
        Name of each leaf, in the order of the tree.
    members : tuple of tuple of str
        Names of each group's leaves.
    dtypes : tuple of str
        Types of the leaves.
    """

    has_layers: ClassVar[bool] = False
    names: tuple[str, ...]
    structure: Any
    leaves: tuple[str, ...]
    members: tuple[tuple[str, ...], ...]
    dtypes: tuple[str, ...]

    def join(self, groups: Sequence[dict[str, Array]]):
        """Join one dict per group into a tree like the parameters."""
        found = {name: value for group in groups for name, value in group.items()}
        leaves = [
            found[name].astype(dtype) for name, dtype in zip(self.leaves, self.dtypes, strict=True)
        ]
        return jax.tree.unflatten(self.structure, leaves)

    def split(self, tree) -> tuple[dict[str, Array], ...]:
        """Split a tree like the parameters into one dict per group."""
        if jax.tree.structure(tree) != self.structure:
            raise InputError(
                f"a tree like the parameters is wanted, {self.structure}; got {jax.tree.structure(tree)}"
            )
        found = dict(zip(self.leaves, jax.tree.leaves(tree), strict=True))
        return tuple({name: found[name] for name in names} for names in self.members)

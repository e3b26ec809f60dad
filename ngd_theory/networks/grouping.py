"""Which leaves of a tree of parameters belong together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array

from ngd_theory.errors import InputError


@dataclass(frozen=True)
class Grouping:
    """Groups of the leaves of a tree of parameters.

    Attributes
    ----------
    names : tuple of str
        The groups, in order.
    structure : jax tree definition
        Of the parameters (`jax.tree.structure`).
    leaves : tuple of str
        Name of each leaf, in the order of the tree.
    members : tuple of tuple of str
        Names of each group's leaves.
    dtypes : tuple of str
        Of the leaves.
    """

    names: tuple[str, ...]
    structure: Any
    leaves: tuple[str, ...]
    members: tuple[tuple[str, ...], ...]
    dtypes: tuple[str, ...]

    def join(self, groups: Sequence[dict[str, Array]]):
        """One dict a group to a tree like the parameters."""
        found = {name: value for group in groups for name, value in group.items()}
        leaves = [
            found[name].astype(dtype) for name, dtype in zip(self.leaves, self.dtypes, strict=True)
        ]
        return jax.tree.unflatten(self.structure, leaves)

    def split(self, tree) -> tuple[dict[str, Array], ...]:
        """A tree like the parameters to one dict a group."""
        if jax.tree.structure(tree) != self.structure:
            raise InputError(
                f"a tree like the parameters is wanted, {self.structure}; got {jax.tree.structure(tree)}"
            )
        found = dict(zip(self.leaves, jax.tree.leaves(tree), strict=True))
        return tuple({name: found[name] for name in names} for names in self.members)

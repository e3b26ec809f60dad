"""Names of the leaves of a tree of parameters."""

from typing import NamedTuple

import jax


class Leaf(NamedTuple):
    """A leaf of a model's parameters: its name, keys joined by "/", and its shape."""

    name: str
    shape: tuple[int, ...]


def leaf_name(path) -> str:
    """Name of a leaf: its keys joined by "/"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def parent(name: str, boxed: bool = False) -> str:
    """Name of the node that a leaf belongs to; ``boxed`` leaves, those of flax.nnx, have one more key, "value"."""
    return _own(name, boxed).rpartition("/")[0]


def _own(name: str, boxed: bool) -> str:
    return name.removesuffix("/value") if boxed else name


def by_parent(params, boxed: bool = False) -> dict[str, dict[str, Leaf]]:
    """For each node, its leaves by their last key."""
    found: dict[str, dict[str, Leaf]] = {}
    for path, value in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = leaf_name(path)
        short = _own(name, boxed).rpartition("/")[2]
        found.setdefault(parent(name, boxed), {})[short] = Leaf(name, tuple(value.shape))
    return found

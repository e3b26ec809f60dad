"""Frozen dataclasses as JAX pytrees."""

from dataclasses import fields

import jax


def pytree(*data: str):
    """Class decorator: make a dataclass a pytree with children ``data``, its other fields static.

    `jax.tree_util.register_dataclass` is not used because the tree definitions it makes compare equal
    across classes (JAX 0.10.2). So `jax.jit` could use the program of one approximation for another.
    """

    def register(cls):
        static = [f.name for f in fields(cls) if f.name not in data]

        def flatten_with_keys(value):
            children = [(jax.tree_util.GetAttrKey(n), getattr(value, n)) for n in data]
            return children, (cls, tuple(getattr(value, n) for n in static))

        def unflatten(aux, children):
            # Not through __init__: JAX also unflattens placeholders that no check should see.
            value = object.__new__(cls)
            for name, item in zip((*data, *static), (*children, *aux[1]), strict=True):
                object.__setattr__(value, name, item)
            return value

        jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten)
        return cls

    return register

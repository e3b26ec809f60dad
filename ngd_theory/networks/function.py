"""Linearise any ``apply(params, x)``: groups of parameters in place of affine layers.

A function of unknown structure has no layer inputs and sensitivities, only its Jacobian. A group of p parameters
is written as one layer with the constant input 1 and p units whose sensitivities are the Jacobian's columns. Code that
needs only kernels and products with the Jacobian then works unchanged.
"""

import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory.arguments import check_finite, checked, is_floating, is_known
from ngd_theory.errors import InputError, shown
from ngd_theory.networks.grouping import Grouping
from ngd_theory.networks.layout import GroupLayout
from ngd_theory.networks.linearization import (
    LayerLinearization,
    Linearization,
    require_precision,
)


@checked
def linearize_function(
    apply: Callable,
    params,
    x: Float[Array, "N *S"],
    groups: Sequence[str] | None = None,
) -> Linearization:
    """Linearise any function ``apply(params, x)`` of flax, equinox, stax or your own about ``params``.

    The result works with exact, block-diagonal, block-tridiagonal, entry-wise and identity (one block per group), and
    with every kernel and prediction. Approximations that use a layer's inputs and units (K-FAC, unit-wise) need
    `linearize`.

    Parameters
    ----------
    apply : callable
        ``(params, x) -> (N, C)``, differentiable. Output n depends on sample n only: no normalisation over the batch.
    params : pytree of floating arrays
    x : (N, *sample_shape)
    groups : sequence of str, optional
        The groups, in the order of the network: block-tridiagonal couples neighbours. A group is given by the beginning
        of the names of its leaves (keys joined by "/"), such as ``"params/Dense_0"``. Every leaf belongs to one group.
        By default the groups are the children of the first node with more than one, ``Dense_2`` before ``Dense_10``.

    Returns
    -------
    Linearization
        Its vjp, jvp and natural gradients are trees like ``params``. ``.layers[g]`` is group g, with inputs (N, 1, 1)
        of ones and the Jacobian as sensitivities (N, C, 1, parameters of the group). These are N C P numbers in all,
        and twice as many while they are put together; `linearize` holds only factors.

    Raises
    ------
    InputError
        For outputs that are not (N, C) or not of float32 or float64, parameters that are not floating arrays, or groups
        that overlap or leave parameters out. Outside jit also for a NaN or infinity in ``params``, ``x`` or the
        outputs, and for outputs that depend on other samples.

    Examples
    --------
    >>> import jax.numpy as jnp, ngd_theory as ngd
    >>> def apply(params, x):
    ...     return jnp.tanh(x @ params["in"]) @ params["out"]
    >>> params = {"in": jnp.ones((3, 5)), "out": jnp.ones((5, 1))}
    >>> lin = ngd.networks.linearize_function(apply, params, jnp.ones((4, 3)))
    >>> ngd.kernels.ntk(lin).shape
    (4, 4)
    """
    if not is_floating(x):
        raise InputError(
            f"x is {shown(x)}; it must be a floating array: jax.numpy.asarray(x, float)"
        )
    paths, structure = jax.tree_util.tree_flatten_with_path(params)
    for path, leaf in paths:
        kind = _type(leaf)
        if isinstance(kind, str) or not jnp.issubdtype(kind, jnp.floating):
            raise InputError(
                f"parameter {_name(path)!r} is of type {kind}, not floating: split it off "
                "(equinox.partition, flax.nnx.split) and close apply over it"
            )
    if not paths:
        raise InputError("params has no array")
    grouping = _grouping(paths, structure, groups)
    found = jax.eval_shape(apply, params, x)
    n = x.shape[0]
    if getattr(found, "ndim", None) != 2 or found.shape[0] != n:
        shapes = getattr(found, "shape", None) or jax.tree.structure(found)
        raise InputError(f"apply(params, x) gives {shapes}; it must give one array (N, C), N = {n}")
    if not jnp.issubdtype(found.dtype, jnp.floating):
        raise InputError(f"apply(params, x) gives numbers of type {found.dtype}, not floating")
    require_precision(found.dtype)
    check_finite("x", x)
    check_finite("params", params)

    def one(sample):
        value, pull = jax.vjp(lambda p: apply(p, sample[None])[0], params)
        (rows,) = jax.vmap(pull)(jnp.eye(len(value), dtype=value.dtype))
        return value, rows

    outputs, jacobian = jax.vmap(one)(x)
    _check_samples(apply, params, x, outputs)
    by_name = dict(zip(grouping.leaves, jax.tree.leaves(jacobian), strict=True))
    layers = []
    for names in grouping.members:
        columns = [by_name[name].reshape(*outputs.shape, 1, -1) for name in names]
        shapes = tuple((name, by_name[name].shape[2:]) for name in names)
        layers.append(
            LayerLinearization(
                inputs=jnp.ones((n, 1, 1), outputs.dtype),
                sensitivities=jnp.concatenate(columns, axis=-1),
                layout=GroupLayout(shapes),
            )
        )
    return Linearization(outputs, tuple(layers), grouping)


def _check_samples(apply, params, x, outputs) -> None:
    """Raise `InputError` if outputs of all samples at once differ from those of each by itself; not inside jit."""
    all_at_once = apply(params, x)
    if is_known(outputs) and is_known(all_at_once):
        check_together(all_at_once, outputs)


def check_together(all_at_once, outputs) -> None:
    """Raise `InputError` if outputs of all samples at once differ from those of each by itself."""
    check_finite("apply(params, x)", all_at_once, "its range must be that of its type")
    apart, together = np.asarray(outputs), np.asarray(all_at_once)
    difference, scale = np.max(np.abs(together - apart)), np.max(np.abs(together))
    # A NaN fails.
    if not difference <= float(jnp.finfo(apart.dtype).eps) ** 0.5 * scale:
        raise InputError(
            f"the outputs of all samples at once differ by {difference:.1e} from those of each sample by itself: "
            "samples must not see each other (batch normalisation: use its running averages; dropout: switch it off)"
        )


def _grouping(paths, structure, groups: Sequence[str] | None) -> Grouping:
    names = tuple(_name(path) for path, _ in paths)
    chosen = _children([path for path, _ in paths]) if groups is None else tuple(groups)
    members = tuple(
        tuple(name for name in names if not group or f"{name}/".startswith(f"{group}/"))
        for group in chosen
    )
    for group, found in zip(chosen, members, strict=True):
        if not found:
            raise InputError(f"group {group!r} has no parameter; there are {', '.join(names)}")
    placed = [name for found in members for name in found]
    for name in names:
        if placed.count(name) != 1:
            problem = "no group" if name not in placed else "more than one group"
            raise InputError(f"parameter {name!r} is in {problem} of {', '.join(chosen)}")
    dtypes = tuple(jnp.result_type(leaf).name for _, leaf in paths)
    return Grouping(chosen, structure, names, members, dtypes)


def _type(leaf):
    """Its dtype, or the name of its class if it is not an array, such as the activation of a module."""
    try:
        # JAX reads a text as the name of a dtype.
        return type(leaf).__name__ if isinstance(leaf, str) else jnp.result_type(leaf)
    except TypeError:
        return type(leaf).__name__


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _children(paths) -> tuple[str, ...]:
    """Names of the children of the first node with more than one child."""
    depth = 0
    while (
        all(len(path) > depth for path in paths) and len({path[: depth + 1] for path in paths}) == 1
    ):
        depth += 1
    children = dict.fromkeys(path[: depth + 1] for path in paths)
    # JAX sorts the keys of a dict as text, which puts 10 before 2.
    if all(isinstance(path[-1], jax.tree_util.DictKey) for path in children if path):
        children = sorted(
            children,
            key=lambda path: [
                int(part) if part.isdigit() else part for part in re.split(r"(\d+)", _name(path))
            ],
        )
    return tuple(_name(path) for path in children)

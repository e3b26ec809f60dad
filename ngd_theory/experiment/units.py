"""Single units: which change sides, which are active, and how far weights move relative to their size."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse.linalg import svds

from ngd_theory import networks


@partial(jax.jit, static_argnums=0)
def changed_sides(network, before, after, x):
    """Number of pre-activations that changed sign, before functions with a kink."""
    pairs = zip(_sides(network, before, x), _sides(network, after, x), strict=True)
    return sum((jnp.sum(a != b) for a, b in pairs), start=jnp.zeros((), int))


def _sides(network, params, x):
    """Whether each pre-activation before a function that may have a kink is above 0.

    For a network that is not a chain this is an estimate: its kinks are somewhere in its forward function, and the
    pre-activations of all layers but the last are taken instead.
    """
    smooth = [network.smooth] * (network.depth - 1) + [True]
    if network.is_chain:
        smooth = [block.smooth for block in network.blocks]
    _, given = network.forward(params, x, None)
    made = network.preactivations(params, given)
    pairs = zip(network.calls, made, strict=True)
    return [u > 0 for call, u in pairs if not smooth[call.layer]]


def active_shares(lin: networks.Linearization) -> np.ndarray | None:
    """See `Evidence.active_shares`."""
    if any(layer.inputs.shape[1] > 1 for layer in lin.layers):
        return None
    hidden = [np.asarray(layer.sensitivities)[:, :, 0] for layer in lin.layers[:-1]]
    return np.concatenate([np.any(delta != 0, axis=1).mean(0) for delta in hidden] or [np.empty(0)])


def output_spread(lin: networks.Linearization, constant) -> float:
    """See `Evidence.output_spread`; 0 if positions share weights, as the blocks then have full rank.

    A unit that is active on a sample adds the projector on its sensitivities there. The sum over units is
    ``delta delta^T`` of the next layer over its trace. At a finite width it is not a multiple of the identity.
    """
    layers, c = lin.layers, lin.output_dim
    if c == 1 or constant is None or any(layer.inputs.shape[1] > 1 for layer in layers):
        return 0.0
    total = np.zeros((lin.num_samples, c, c))
    for layer, following in pairwise(layers[:-1]):
        active = np.any(np.asarray(layer.sensitivities)[:, :, 0] != 0, axis=1).sum(1)
        delta = np.asarray(following.sensitivities)[:, :, 0]
        gram = np.einsum("ncm,ndm->ncd", delta, delta)
        mean = np.trace(gram, axis1=1, axis2=2) / c
        share = gram / np.where(mean > 0, mean, 1)[:, None, None] - np.eye(c)
        total += (active * (mean > 0) / c)[:, None, None] * share
    return float(np.sqrt(np.sum(total**2) / (lin.num_samples * c)) / constant)


def operator_displacement(network, moved) -> float:
    """See `Evidence.displacement`."""
    if moved is None:
        return np.inf  # overflow, or not measured
    found = [0.0]
    changes = moved if network.parts is None else network.parts.split(moved)
    last = len(network.layouts) - 1
    for index, (layout, change) in enumerate(zip(network.layouts, changes, strict=True)):
        # Features follow every layer but the last; sensitivities lie before every layer but the first.
        widths = [layout.num_units] * (index < last) + [layout.num_inputs] * (index > 0)
        if widths:
            matrix = np.asarray(layout.to_matrix(change))
            found.append(_operator_norm(matrix) / min(widths) ** 0.5)
    return max(found)


def _operator_norm(matrix: np.ndarray) -> float:
    if not np.all(np.isfinite(matrix)):
        return np.inf
    # ARPACK treats a matrix of tiny entries as zero.
    scale = float(np.max(np.abs(matrix)))
    if min(matrix.shape) < 10 or scale == 0:
        return float(np.linalg.norm(matrix, 2))
    start = np.random.default_rng(0).normal(size=min(matrix.shape))
    # scipy's stubs think that tol is an integer.
    largest = svds(matrix / scale, k=1, tol=1e-3, v0=start, return_singular_vectors=False)  # pyright: ignore[reportArgumentType]
    return scale * float(np.asarray(largest)[0])

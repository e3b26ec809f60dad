"""The paper's example: a narrow tanh classifier of 16 x 16 digits, trained part of the way."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from ngd_theory import data, losses
from ngd_theory.errors import InputError
from ngd_theory.networks import Network, mlp, sparse_init, standard_parameterization
from ngd_theory.optim.kfac import kfac

#: Inputs, hidden units and classes of the paper's example network.
WIDTHS = (256, 20, 20, 20, 20, 20, 10)
#: Training stops at this share of the loss of guessing; about one row in twenty is then wrong, as in the paper.
UNTIL = 0.1


def small_digits_network(widths: Sequence[int] = WIDTHS) -> Network:
    """Build the paper's 256-20-20-20-20-20-10 tanh classifier, ``u = W h + b`` in every layer.

    Its outputs are logits. `sparse_init` draws suitable parameters.

    Parameters
    ----------
    widths : sequence of int
        Inputs, hidden units and outputs.

    Examples
    --------
    >>> sum(size.num_inputs * size.num_units for size in small_digits_network().layer_sizes)
    7030
    """
    if len(widths) < 2 or not all(int(width) == width and width >= 1 for width in widths):
        raise InputError(f"widths are {widths}; two or more whole numbers of at least 1 are needed")
    first, *hidden, last = (int(width) for width in widths)
    return standard_parameterization(mlp(first, hidden, last, "tanh", bias_std=1.0))


def area_resampling(size: int, new_size: int) -> Float[np.ndarray, "new_size size"]:
    """Matrix R that resizes an image as ``R image R^T``: every new pixel is the mean over its area.

    Pixels are squares of constant value; rows of R add up to 1, and its columns to new_size/size.

    Parameters
    ----------
    size, new_size : int
        Pixels per side, before and after.

    Returns
    -------
    (new_size, size) array
    """
    edges = np.arange(new_size + 1) * (size / new_size)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(overlap, 0, None) * (new_size / size)


def small_digits(
    num_images: int = 5000, *, seed: int = 0, data_dir: str | os.PathLike[str] | None = None
) -> tuple[Float[np.ndarray, "N 256"], Float[np.ndarray, "N 10"]]:
    """MNIST training images, resized by area from 28 x 28 to 16 x 16 pixels in [0, 1], and one-hot targets.

    Parameters
    ----------
    num_images : int
        Equally many of each class.
    seed : int
        Seed of the draw.
    data_dir : path, optional
        See `ngd_theory.data.load`.

    Returns
    -------
    x : (N, 256) array
    targets : (N, 10) array
    """
    found = data.load(
        "mnist",
        num_train=num_images,
        seed=seed,
        targets="one-hot",
        standardise=False,
        unit_norm=False,
        data_dir=data_dir,
    )
    height, width = found.input_shape[:2]
    shrink = area_resampling(height, 16), area_resampling(width, 16)
    images = shrink[0] @ found.inputs.reshape(-1, height, width) @ shrink[1].T
    return images.reshape(num_images, -1), found.targets


@dataclass(frozen=True)
class PartlyTrained:
    """A classifier part of the way to its minimum.

    Attributes
    ----------
    params : like ``network.init(key)``
    steps : int
        Steps taken.
    initial_loss, loss : float
        Mean cross-entropy of all rows before and after.
    error : float
        Share of the rows whose largest output is not that of their class.
    """

    params: Any
    steps: int
    initial_loss: float
    loss: float
    error: float


def partly_trained(
    network: Network,
    x: Float[Array, "N *S"] | np.ndarray,
    y: Float[Array, "N C"] | np.ndarray,
    *,
    seed: int = 0,
    until: float = UNTIL,
    batch_size: int = 500,
    max_steps: int = 1000,
    damping: float = 0.1,
) -> PartlyTrained:
    """Train from a sparse start with K-FAC until the loss is ``until`` times that of guessing, ln C.

    The share is not one of the initial loss, because a sparse start has a larger loss than guessing.

    Parameters
    ----------
    network : Network
    x, y : (N, *input_shape), (N, C)
        One-hot targets.
    seed : int
        Seed of the parameters, the batches and the sampled targets.
    until : float
    batch_size : int
        Rows drawn without replacement for every step; all rows if there are fewer.
    max_steps : int
        Largest number of steps.
    damping : float
        Initial lambda; gamma starts at its square root. Both adapt.

    Raises
    ------
    InputError
        If the loss is not reached.
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    loss = losses.CROSS_ENTROPY
    params = sparse_init(network, jax.random.key(seed), dtype=x.dtype)
    optimizer = kfac(network, loss, damping=damping, seed=seed)

    @jax.jit
    def step(params, state, x, y):
        gradient = jax.grad(lambda p: loss.value(network.apply(p, x), y))(params)
        updates, state = optimizer.update(gradient, state, params, x=x, y=y)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def evaluate(params):
        outputs = network.apply(params, x)
        return loss.value(outputs, y), jnp.mean(outputs.argmax(-1) != y.argmax(-1))

    random = np.random.default_rng(seed)
    state, steps = optimizer.init(params), 0
    initial, error = map(float, evaluate(params))
    value = initial
    while value > until * np.log(y.shape[1]) and steps < max_steps:
        rows = random.permutation(len(x))[:batch_size]
        params, state = step(params, state, x[rows], y[rows])
        steps += 1
        value, error = map(float, evaluate(params))
    if not value <= until * np.log(y.shape[1]):
        raise InputError(
            f"the loss is {value:.3g} after {steps} steps, not {until:g} times that of guessing: raise max_steps "
            "or until, or change the damping"
        )
    return PartlyTrained(params, steps, initial, value, error)

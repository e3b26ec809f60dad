"""Unit-wise Fisher in the infinite-width limit, by Monte Carlo over units.

Units of a hidden layer are independent in the limit: unit i of layer l has pre-activations
``z ~ N(0, A_l)`` over the samples and, independent of them, output gradients by its activation ``g_c ~
N(0, sigma_w^2 B_{l+1} / M_l)``, so that ``delta[n,c] = phi'(z[n]) g_c[n]``. The layer's share of the map is M_l times
the mean over units of ``J_i(at) (J_i^T J_i / N + rho)^-1 J_i^T / N``. It is a multiple of I_C on average.

At rho = 0 the mean over g is taken in closed form, ``E[g_c' g_c / |g|^2] = (1/C) B(x',x)/B(x,x)``. The reason: for
C = 1 the ratio g'/g has Cauchy tails, and its only mean is that principal value. In that case the test outputs of a
finite network with L >= 3 do not self-average either, unless damped.
"""

from collections.abc import Callable
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory import linalg
from ngd_theory.arguments import is_finite
from ngd_theory.errors import InputError, NotPredictedError, SingularKernelError
from ngd_theory.kernels.infinite.evaluate import layer_kernels
from ngd_theory.kernels.infinite.limit import square_root
from ngd_theory.networks import Network
from ngd_theory.numerics import row_norms
from ngd_theory.precision import full_precision

Estimate = tuple[Float[Array, "A N"], Float[Array, "A N"]]


def unit_wise_maps(
    net: Network,
    x: Float[Array, "N *S"],
    x_test: Float[Array, "M *S"],
    damping: float,
    key,
    num_units: int,
) -> Estimate:
    """Per-output unit-wise map onto training then test inputs, and its standard error.

    Parameters
    ----------
    net : Network
        A multi-layer perceptron. Its hidden widths M_l are the weights of the layers.
    x, x_test : (N, *input_shape), (N', *input_shape)
    damping : float
        rho >= 0, on the scale of a finite network of these widths.
    key : jax.random key
    num_units : int
        Units drawn per hidden layer, at least 2.

    Returns
    -------
    (N + N', N), (N + N', N)
        Mean over units and its standard error, entry by entry, summed over layers.

    Raises
    ------
    NotPredictedError
        For ``damping = 0`` with a singular ``A_l`` (such as M_0 < N): the limit depends on g's tails.
    InputError
        For fewer than 2 units.
    SingularKernelError
        Where a solve breaks down.
    """
    if num_units < 2:
        raise InputError(f"num_units is {num_units}; a standard error needs at least 2")
    n = len(x)
    kernels = layer_kernels(net, jnp.concatenate([jnp.asarray(x), jnp.asarray(x_test)]))
    # In the precision of the kernels: in float32 a tiny number is zero.
    damping = float(np.asarray(damping, kernels.inputs.dtype))
    c = net.output_dim
    # Output layer: unit c has delta = e_c, so that its block is that of the whole layer.
    a = kernels.inputs[-1]
    total, variance = _output_map(a[:, :n], damping, n), jnp.zeros((a.shape[0], n), a.dtype)
    for index, layer_key in enumerate(jax.random.split(key, net.depth)[:-1]):
        width = net.layer_sizes[index].num_units
        a, slope = kernels.inputs[index], _slope(net.blocks[index].after)
        scale = net.blocks[index + 1].affine.weight_std ** 2 / width
        b = scale * kernels.sensitivities[index + 1]
        if damping == 0:
            _require_full_rank(a[:n, :n], index + 1)
            mean, error = _undamped(layer_key, a, b, slope, n, c, num_units)
        else:
            mean, error = _damped(layer_key, a, b, damping, slope, n, c, num_units)
        total, variance = total + width * mean, variance + (width * error) ** 2
    if not is_finite((total, variance)):
        raise SingularKernelError(
            f"unit-wise: the map of the limit is not finite with damping {damping:g}: raise the damping, use float64, "
            "or damping 0"
        )
    return total, jnp.sqrt(variance)


@partial(jax.jit, static_argnames=("slope", "n", "c", "num_units"))
def _undamped(key, a, b, slope, n, c, num_units) -> Estimate:
    root = square_root(a)
    gradients = b[:, :n] / jnp.diagonal(b)[None, :n] / c

    def unit(key):
        derivative = slope(root @ jax.random.normal(key, a.shape[:1], a.dtype))
        here = derivative[:n]
        active = here != 0
        # A(x', S) A(S, S)^-1 on the samples S where the unit is active, zero elsewhere.
        masked = jnp.where(active[:, None] & active[None, :], a[:n, :n], jnp.eye(n, dtype=a.dtype))
        weights = linalg.symmetric_solve(masked, jnp.where(active[:, None], a[:n], 0)).T
        ratio = jnp.where(active, 1 / jnp.where(active, here, 1), 0)
        return derivative[:, None] * weights * ratio * gradients

    return _average(unit, key, num_units, jnp.zeros((a.shape[0], n), a.dtype))


@partial(jax.jit, static_argnames=("slope", "n", "c", "num_units"))
def _damped(key, a, b, damping, slope, n, c, num_units) -> Estimate:
    root, gradient_root = square_root(a), square_root(b)

    def unit(key):
        z_key, g_key = jax.random.split(key)
        derivative = slope(root @ jax.random.normal(z_key, a.shape[:1], a.dtype))
        g = gradient_root @ jax.random.normal(g_key, (a.shape[0], c), a.dtype)
        delta = derivative[:, None] * g
        # delta[n] = |delta[n]| q[n] has rank one over the outputs: N unknowns, not NC.
        norm = row_norms(delta[:n])
        q = delta[:n] / jnp.where(norm > 0, norm, 1)[:, None]
        kernel = norm[:, None] * a[:n, :n] * norm / n
        weights = _ridge(kernel, damping, a[:, :n] * norm / n)
        # The outputs are alike: their mean is the estimate for one.
        return weights * (delta @ q.T) / c

    return _average(unit, key, num_units, jnp.zeros((a.shape[0], n), a.dtype))


def _ridge(kernel, damping, rows):
    """``rows (kernel + damping I)^-1``."""
    return linalg.symmetric_solve(
        kernel + damping * jnp.eye(len(kernel), dtype=kernel.dtype), rows.T
    ).T


def _average(unit: Callable, key, num_units: int, zero: Array) -> Estimate:
    """Mean of ``unit(key_i)`` and its standard error (Welford)."""

    def add(state, key):
        count, mean, squares = state
        value = unit(key)
        change = value - mean
        mean = mean + change / (count + 1)
        return (count + 1, mean, squares + change * (value - mean)), None

    start = jnp.zeros((), zero.dtype), zero, zero
    (_, mean, squares), _ = jax.lax.scan(add, start, jax.random.split(key, num_units))
    return mean, jnp.sqrt(squares / (num_units * (num_units - 1)))


@full_precision
def _output_map(a, damping, n: int):
    here = a[:n] / n
    if damping == 0:
        return a @ linalg.pinv(a[:n])
    return _ridge(here, damping, a / n)


def _require_full_rank(a, layer: int) -> None:
    eigenvalues = linalg.eigvalsh(a)
    if not eigenvalues[0] > len(a) * jnp.finfo(a.dtype).eps * eigenvalues[-1]:
        raise NotPredictedError(
            f"the inputs of layer {layer} have a singular kernel (N = {len(a)} samples, smallest eigenvalue "
            f"{float(eigenvalues[0]):.1e}): the undamped unit-wise map has no closed form over the "
            "gradients there; use damping > 0, fewer samples or more input dimensions"
        )


@lru_cache
def _slope(after: tuple) -> Callable:
    if not after:
        return jnp.ones_like
    return jax.grad(lambda u: jnp.sum(after[0](u)))

"""Natural gradients with the Fisher of a population, estimated with unlabelled inputs too.

In a pool S of samples, N have labels (any of them). G is made of the whole pool, the loss of the labelled samples only.
Their cotangent v becomes a cotangent of the pool by zeros elsewhere. With the loss's own 1/N

    (G_S + rho)^-1 J^T v / N = (G_S + rho)^-1 J_S^T (|S|/N) E^T v / |S|,     E the rows of the labelled among S,

which is a natural gradient of the pool. It needs no further arrays of the parameters' size, and no 1/rho cancels. The
limit rho -> 0 exists, because the labelled rows lie in the span of the pool's rows.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ngd_theory.arguments import check_finite, check_range, checked
from ngd_theory.errors import InputError, shown
from ngd_theory.fisher.base import Approximation, require_approximation
from ngd_theory.networks import Linearization


@checked
def population_gradient(
    approximation: Approximation,
    pool: Linearization,
    labelled: Sequence[int],
    cotangent: Float[Array, "N C"],
    damping,
) -> PyTree[Array]:
    """``(G_S + damping I)^-1 J^T cotangent / N``: the loss of N samples, the Fisher of a pool that they are in.

    Parameters
    ----------
    approximation : Approximation
        G, made of all samples of the pool with 1/abs(S). An empirical Fisher needs targets for the whole pool.
    pool : Linearization
        At all inputs S, with labels and without.
    labelled : sequence of int
        Indices, from 0, of the N samples of the pool that have labels.
    cotangent : (N, C)
        The loss's residual there, in the order of ``labelled``.
    damping : float or scalar array
        rho >= 0; 0 is the limit rho -> 0 (pseudo-inverse).

    Returns
    -------
    like the parameters
        The gradient's 1/N is inside, the step size is not.

    Raises
    ------
    InputError
        For no index, an index outside the pool or one given twice; else as `Approximation.natural_gradient`.
    SingularKernelError
        As `Approximation.natural_gradient`.

    References
    ----------
    Amari et al. (2020), "When does preconditioning help or hurt generalization?", arXiv 2006.10732.
    """
    rows = _labelled(approximation, pool, labelled)
    wanted = (len(rows), pool.output_dim)
    if jnp.shape(cotangent) != wanted:
        raise InputError(
            f"cotangent has shape {jnp.shape(cotangent)}; the labelled samples have outputs of shape {wanted}"
        )
    check_finite("cotangent", cotangent)
    check_range("cotangent", cotangent, pool.outputs.dtype)
    spread = _spread(pool.outputs, rows, jnp.asarray(cotangent, pool.outputs.dtype))
    return approximation.natural_gradient(pool, spread, damping)


@checked
def population_maps(
    approximation: Approximation,
    pool: Linearization,
    labelled: Sequence[int],
    damping,
    at: Linearization | None = None,
) -> tuple[Float[Array, "NC NC"], Float[Array, "MC NC"] | None]:
    """K and Q of `population_gradient`: ``(1/N) J(.) (G_S + damping I)^-1 J^T`` at the labelled samples and at others.

    One linearised step is ``f <- f - eta K r`` at the N labelled samples and ``f(at) <- f(at) - eta Q r``. The exact
    Fisher at rho = 0 has two regimes. As long as the pool's kernel has full rank ``abs(S) C``, below the number of
    parameters, ``K = (abs(S)/N) I`` and the outputs of unlabelled samples do not move. Beyond that, G_S has full rank
    and becomes the population's as abs(S) grows.

    Parameters
    ----------
    approximation, pool, labelled, damping
        As `population_gradient`.
    at : Linearization, optional
        Linearisation of the same network and parameters at N' inputs, possibly the pool itself.

    Returns
    -------
    K : (N*C, N*C) array
        Index ``n*C + c``, n in the order of ``labelled``.
    Q : (N'*C, N*C) array or None
        None without ``at``.

    Raises
    ------
    InputError, SingularKernelError
        As `population_gradient` and `Approximation.function_space_map`.
    """
    rows = _labelled(approximation, pool, labelled)
    prepared = approximation.prepare(pool, damping)
    found = [
        None if there is None else _columns(prepared.function_space_map(there), pool.outputs, rows)
        for there in (pool.take(rows), at)
    ]
    assert found[0] is not None
    return found[0], found[1]


def _labelled(approximation, pool: Linearization, labelled: Sequence[int]) -> Array:
    """Check the indices of the labelled samples, and return them as a JAX array."""
    require_approximation(approximation)
    for number in labelled:
        if not 0 <= number < pool.num_samples:
            raise InputError(
                f"labelled has {shown(number)}; the pool has samples 0 to {pool.num_samples - 1}"
            )
    rows = np.asarray([int(number) for number in labelled], np.int32)
    if not len(rows):
        raise InputError("labelled is empty; name one sample of the pool at least")
    if len(np.unique(rows)) < len(rows):
        raise InputError("labelled names a sample twice; name each once")
    return jnp.asarray(rows)


@jax.jit
def _spread(outputs, rows, cotangent):
    """``(|S|/N) E^T v``."""
    share = len(outputs) / len(rows)
    return jnp.zeros_like(outputs).at[rows].set(share * cotangent)


@jax.jit
def _columns(a_map, outputs, rows):
    """``(|S|/N) Q_S E^T``."""
    n, c = outputs.shape
    kept = a_map.reshape(-1, n, c)[:, rows].reshape(-1, len(rows) * c)
    return (n / len(rows)) * kept

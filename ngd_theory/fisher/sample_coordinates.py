"""F-hat's natural gradient in coordinates of the samples: slower than with bases, but smooth in all its inputs.

The inverse of F-hat (`ngd_theory.fisher.kronecker`) maps matrices ``a_i^T X delta_i``, with X an (N, NC) matrix of
coordinates, to matrices of the same form. With ``G_i = a_i a_i^T / N``, ``E_i = (delta_i delta_i^T / N) Lambda`` and
the damped projectors ``Q_i = G_i (G_i + rho_A)^-1`` and ``R_i = E_i (E_i + rho_B)^-1`` it is

    Z_i - Q_{i+1} Q_i Z_i R_i R_{i+1} = Y - Q_{i+1} Y R_{i+1},     Z_L = Y,
    X_i = (G_i + rho_A)^-1 (Z_i - Q_{i-1} Z_{i-1} R_{i-1}) (E_i + rho_B)^-1,

where Y holds the cotangents: ``Y[n, (n,c)] = v[n,c] / N``. These equations contain no basis, root or eigenvector. So
they have derivatives even if samples are equal, sensitivities are zero or eigenvalues are degenerate. `KFACTridiagonal`
uses these derivatives.
"""

from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.fisher.coupled import dual_solve
from ngd_theory.fisher.damping import Damping
from ngd_theory.fisher.kinds import curvature_sensitivities
from ngd_theory.fisher.solve import shifted
from ngd_theory.linalg import eigh, gram, positive_solve, root_spectrum
from ngd_theory.networks import LayerLinearization
from ngd_theory.precision import full_precision


class SampleFactors(NamedTuple):
    """One layer's Gram matrices and dampings.

    Attributes
    ----------
    inputs : (N, N)
        G.
    sensitivities : (NC, NC)
        ``D = delta delta^T / N``.
    curved : (NC, NK)
        ``delta (R^T delta)^T / N``; D itself where Lambda = I.
    inner : (NK, NK)
        ``R^T D R``.
    dampings : (rho_A, rho_B)
    """

    inputs: Array
    sensitivities: Array
    curved: Array
    inner: Array
    dampings: tuple[Array, Array]


@full_precision
def sample_factors(
    layer: LayerLinearization, root: Float[Array, "N C K"] | None, dampings
) -> SampleFactors:
    """Gram matrices of one dense layer; ``dampings`` maps ``tr A`` and ``tr B`` to (rho_A, rho_B)."""
    n = len(layer.inputs)
    a = layer.inputs[:, 0]
    delta = layer.sensitivities.reshape(-1, layer.sensitivities.shape[-1])
    of_inputs, outer = gram(a) / n, gram(delta) / n
    across = inner = outer
    if root is not None:
        curved = curvature_sensitivities(layer.sensitivities, root).reshape(-1, delta.shape[-1])
        across, inner = delta @ curved.T / n, gram(curved) / n
    means = jnp.trace(of_inputs), jnp.trace(inner)
    return SampleFactors(of_inputs, outer, across, inner, dampings(*means))


@full_precision
def coordinates(
    factors: list[SampleFactors],
    root: Float[Array, "N C K"] | None,
    cotangent: Float[Array, "N C"],
) -> list[Float[Array, "N NC"]]:
    """``X_i`` of the module's equations for the residual ``cotangent``."""
    n, c = cotangent.shape
    y = (jnp.eye(n, dtype=cotangent.dtype)[:, :, None] * cotangent[None] / n).reshape(n, n * c)
    rows = None if root is None else _transposed_blocks(root)
    left = [positive_solve(shifted(f.inputs, f.dampings[0]), f.inputs) for f in factors]
    right = [_right_projector(f, rows) for f in factors]
    z = []
    for (here, following), (q, q_next), (r, r_next) in zip(
        pairwise(factors), pairwise(left), pairwise(right), strict=True
    ):
        rhs = y - q_next @ y @ r_next
        z.append(_stein(q, q_next, r, r_next, rhs, here, following, rows))
    z.append(y)
    before = [jnp.zeros_like(y), *(q @ x @ r for q, x, r in zip(left, z, right, strict=True))]
    found = []
    for f, x, b in zip(factors, z, before, strict=False):
        rho_a, rho_b = f.dampings
        half = positive_solve(shifted(f.inputs, rho_a), x - b)
        found.append(dual_solve(f.sensitivities, half.T, Damping(rho_b, zero=False), root).T)
    return found


def _transposed_blocks(root: Float[Array, "N C K"]) -> Float[Array, "NK NC"]:
    """``R^T`` as one matrix."""
    n, c, k = root.shape
    eye = jnp.eye(n, dtype=root.dtype)
    return jnp.einsum("nm,nck->nkmc", eye, root).reshape(n * k, n * c)


def _right_projector(factors: SampleFactors, rows) -> Float[Array, "NC NC"]:
    """``E (E + rho)^-1 = D R (R^T D R + rho)^-1 R^T``."""
    solved = factors.inner if rows is None else rows
    found = positive_solve(shifted(factors.inner, factors.dampings[1]), solved)
    return found if rows is None else factors.curved @ found


def _stein(q, q_next, r, r_next, rhs, here: SampleFactors, following: SampleFactors, rows):
    """Solve the Stein equation ``Z - Q' Q Z R R' = rhs`` in eigenbases; derivatives are those of the equation.

    With roots ``W W = Q'`` and ``W' W' = D' (D' + rho)^-1`` of the next layer, both sides become symmetric:
    ``y - S y S' = c`` with ``S = W Q W``. The spectrum is ``1 - s s'``.
    """

    def equation(z):
        return z - q_next @ (q @ z @ r) @ r_next

    fixed, here, following, rows = jax.lax.stop_gradient((q, here, following, rows))
    w, w_right = (
        _projector_root(gram, rho)
        for gram, rho in zip((following.inputs, following.inner), following.dampings, strict=True)
    )
    own = positive_solve(shifted(here.inner, here.dampings[1]), w_right)
    # R R' = F K^T.
    f, k = here.curved @ own, w_right if rows is None else rows.T @ w_right
    s, basis = eigh(w @ fixed @ w)
    s_right, basis_right = eigh(w_right @ here.inner @ own)
    remaining = 1 - jnp.clip(s, 0, 1)[:, None] * jnp.clip(s_right, 0, 1)[None]
    floor = max(remaining.shape) * jnp.finfo(remaining.dtype).eps
    remaining = jnp.maximum(remaining, floor)

    def symmetric(c):
        return basis @ ((basis.T @ c @ basis_right) / remaining) @ basis_right.T

    return jax.lax.custom_linear_solve(
        equation,
        rhs,
        solve=lambda _, b: b + w @ symmetric(w @ fixed @ b @ f) @ k.T,
        transpose_solve=lambda _, b: b + fixed @ w @ symmetric(w @ b @ k) @ f.T,
    )


def _projector_root(gram, rho) -> Array:
    """Symmetric root of ``G (G + rho)^-1``."""
    eigenvalues, vectors = eigh(gram)
    positive = jnp.maximum(eigenvalues, 0)
    root, _ = root_spectrum(positive / (positive + rho))
    return (vectors * root[None]) @ vectors.T

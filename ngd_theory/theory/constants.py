"""Isotropy constants, predicted dispersions and the step sizes that follow (docs/theory.md section 3)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.errors import InputError, NotPredictedError
from ngd_theory.fisher import Approximation
from ngd_theory.fisher.base import require_approximation
from ngd_theory.networks import Network


def isotropy_constant(approximation: Approximation, net: Network, num_samples: int) -> float | None:
    """The alpha of ``K = alpha I`` that the theory predicts, as rho -> 0 and the width grows.

    Off rank (for example M_0 < N under K-FAC) it is still the predicted ``tr K / (NC)``, though K is
    then not isotropic; see `check_conditions`.

    Parameters
    ----------
    approximation : Approximation
    net : Network
    num_samples : int
        N.

    Returns
    -------
    float or None
        None where no constant is predicted (identity, entry-wise).
    """
    require_approximation(approximation)
    if num_samples < 1:
        raise InputError(f"num_samples is {num_samples}; it must be at least 1")
    return approximation.isotropy_constant(net.layer_sizes, num_samples)


def optimal_step_size(approximation: Approximation, net: Network, num_samples: int) -> float:
    """``1/alpha``: the step at which an isotropic map reaches zero residual at once.

    Raises
    ------
    NotPredictedError
        For an approximation without an isotropy constant: use `largest_monotone_step_size` of its map.
    """
    alpha = isotropy_constant(approximation, net, num_samples)
    if alpha is None:
        raise NotPredictedError(
            f"{approximation.name!r} has no isotropy constant, so no optimal step size in closed form; "
            "use theory.largest_monotone_step_size(map) of its function-space map"
        )
    return 1 / alpha


def stable_step_sizes(
    approximation: Approximation, net: Network, num_samples: int
) -> tuple[float, float]:
    """``(0, 2/alpha)``: the open interval of step sizes at which the residual contracts."""
    return 0.0, 2 * optimal_step_size(approximation, net, num_samples)


def largest_monotone_step_size(map: Float[Array, "NC NC"]) -> Float[Array, ""]:
    """``1/lambda_max(K)``: the largest step at which no component of the residual changes sign.

    Parameters
    ----------
    map : (N*C, N*C) array
        K, as `Approximation.function_space_map` returns it on the training set; its symmetric part counts.
    """
    return 1 / jnp.linalg.eigvalsh((map + map.T) / 2)[-1]


def unit_wise_dispersion(net: Network) -> float:
    """Leading dispersion of the unit-wise map, ``sqrt((C/gamma - 1) / sum of hidden widths)`` of dense layers.

    Each hidden unit adds to sample n's C x C block a projector whose rank r is `LayerSize.unit_rank` in the mean
    (gamma for a dense layer) and which points in a random direction: mean r/C I, squared deviation r - r^2/C. Summing
    over independent units and dividing by alpha = r M/C gives the formula. It is 0 for C = 1 and gamma = 1, where only
    the damping disperses. For C > 1 the directions of earlier layers also share the finite-width anisotropy of the
    layers after them, which adds a term of the same order (a factor 1.3 at C = 3, L = 3, ReLU). Units are taken
    to be independent from sample to sample too: samples that are alike share active units, and K disperses less (0.0215
    for 0.0312 on 32 MNIST digits, M = 512).
    """
    hidden = net.layer_sizes[:-1]
    if not hidden:
        return 0.0
    c = net.output_dim
    ranks = [(s.num_units, s.unit_rank(c)) for s in hidden]
    variance = sum(units * (rank - rank**2 / c) for units, rank in ranks)
    mean = sum(units * rank / c for units, rank in ranks)
    return (max(variance, 0.0) / c) ** 0.5 / mean

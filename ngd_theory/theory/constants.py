"""Isotropy constants, predicted dispersions and the step sizes that follow (docs/theory.md section 3)."""

from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import Array, Float

from ngd_theory.arguments import checked
from ngd_theory.errors import NotPredictedError
from ngd_theory.fisher import Approximation
from ngd_theory.linalg import eigvalsh
from ngd_theory.networks import LayerSize, Network
from ngd_theory.networks.checks import require_size
from ngd_theory.theory.isotropy import brought_into_range, require_map


@checked
def isotropy_constant(approximation: Approximation, net: Network, num_samples: int) -> float | None:
    """The alpha of ``K = alpha I`` that the theory predicts, as rho -> 0 and the width grows.

    If ranks are too low (for example M_0 < N under K-FAC) it is still the predicted ``tr K / (NC)``, but K
    is not isotropic; see `check_conditions`.

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

    Raises
    ------
    InputError
        For an argument of the wrong type, or if ``num_samples`` is not a whole number of at least 1.
    NotPredictedError
        If the theory has no ranks for a map between layers of the network; the message names the layer.

    Examples
    --------
    >>> import ngd_theory as ngd
    >>> net = ngd.networks.mlp(50, [256, 256], 1)
    >>> for name in ("exact", "block-diagonal", "kfac", "unit-wise", "identity"):
    ...     print(name, ngd.theory.isotropy_constant(ngd.fisher.by_name(name), net, num_samples=20))
    exact 1.0
    block-diagonal 3.0
    kfac 41.0
    unit-wise 257.0
    identity None
    """
    require_size("num_samples", num_samples)
    return approximation.isotropy_constant(net.layer_sizes, num_samples)


@checked
def optimal_step_size(approximation: Approximation, net: Network, num_samples: int) -> float:
    """``1/alpha``: the step at which an isotropic map reaches zero residual at once.

    Raises
    ------
    NotPredictedError
        For an approximation without an isotropy constant, or one that moves nothing: use `largest_monotone_step_size`
        of its map.

    Examples
    --------
    >>> import ngd_theory as ngd
    >>> net = ngd.networks.mlp(50, [256, 256], 1)
    >>> ngd.theory.optimal_step_size(ngd.fisher.by_name("block-diagonal"), net, num_samples=20) * 3
    1.0
    """
    alpha = isotropy_constant(approximation, net, num_samples)
    if alpha is None or not alpha > 0:
        raise NotPredictedError(
            f"{approximation.name!r} has no isotropy constant here, so no optimal step size in closed form; "
            "use theory.largest_monotone_step_size(map) of its function-space map"
        )
    return 1 / alpha


@checked
def stable_step_sizes(
    approximation: Approximation, net: Network, num_samples: int
) -> tuple[float, float]:
    """``(0, 2/alpha)``: the open interval of step sizes at which the residual contracts."""
    return 0.0, 2 * optimal_step_size(approximation, net, num_samples)


def largest_monotone_step_size(map: Any) -> Float[Array, ""]:
    """``1/lambda_max(K)``: the largest step at which no component of the residual changes sign.

    Parameters
    ----------
    map : (N*C, N*C) array
        K, as `Approximation.function_space_map` returns it on the training set; its symmetric part counts. Inside jit
        only its shape and type are checked.

    Raises
    ------
    InputError
        For a map that `ngd_theory.theory.isotropy` refuses.
    """
    return _inverse_of_largest(require_map(map))


@jax.jit
def _inverse_of_largest(map):
    map, part = brought_into_range(map)
    return part / eigvalsh(map)[-1]


@checked
def unit_wise_dispersion(net: Network) -> float:
    """Leading dispersion of the unit-wise map, ``sqrt((C/gamma - 1) / sum of hidden widths)`` of dense layers.

    Each hidden unit adds a projector in a random direction to sample n's C x C block. The mean of its rank r is
    `LayerSize.unit_rank` (gamma for a dense layer). The projector has mean r/C I and squared deviation r - r^2/C.
    Summing over independent units and dividing by alpha = r M/C gives the formula. It is 0 for C = 1 and gamma = 1:
    there only the damping disperses. For C > 1 the directions of earlier layers also share the finite-width anisotropy
    of the layers after them, which adds a term of the same order (a factor 1.3 at C = 3, L = 3, ReLU). The formula
    assumes that units are also independent between samples. Similar samples share active units, and K disperses less
    (0.0215 instead of 0.0312 on 32 MNIST digits, M = 512).

    Raises
    ------
    NotPredictedError
        If the theory has no ranks for a map between layers of the network; the message names the layer.
    """
    return dispersion_of_units(net.layer_sizes)


def dispersion_of_units(sizes: Sequence[LayerSize]) -> float:
    """`unit_wise_dispersion` of a network with these sizes."""
    hidden = sizes[:-1]
    if not hidden:
        return 0.0
    c = sizes[-1].output_dim
    ranks = [(s.live_units, s.unit_rank(c)) for s in hidden]
    variance = sum(units * (rank - rank**2 / c) for units, rank in ranks)
    mean = sum(units * rank / c for units, rank in ranks)
    if not mean > 0:
        raise NotPredictedError("no hidden unit is ever active, so that no dispersion is predicted")
    return (max(variance, 0.0) / c) ** 0.5 / mean

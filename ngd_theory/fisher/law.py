"""The general law of Kronecker products in function space, which gives constants (docs/theory.md section 9).

Let ``A = sum_{n,t} alpha a a^T`` and ``B = sum_{n,c,t} beta delta delta^T`` with weights that do not depend on the
sample. Then ``a A^-1 a^T = P_a / alpha`` and ``delta B^-1 delta^T = P_delta / beta``, with the projectors on the ranges
of a and of delta. If the ranks are full, ``K_l = diag(1/(N alpha beta))``. If they are not, its trace is proportional
to the ranks.
"""

from ngd_theory.networks import LayerSize


def kronecker_share(
    size: LayerSize,
    num_samples: int,
    output_dim: int,
    input_weight: float,
    sensitivity_weight: float,
) -> float:
    """``tr K_l / (NC)`` of ``G_l = A (x) B`` as rho -> 0.

    It is ``T/(N alpha beta)`` if rank(a) = NT and rank(delta) = NCT. Lower ranks multiply it by rank(a)/(NT) and
    rank(delta)/(NCT): this assumes that leverages of inputs and of sensitivities are not correlated.

    Parameters
    ----------
    size : LayerSize
    num_samples, output_dim : int
        N, C.
    input_weight : float
        alpha: 1/N for a mean over samples.
    sensitivity_weight : float
        beta: 1/(N T) for a mean over samples and positions.
    """
    t = size.positions
    full = t / (num_samples * input_weight * sensitivity_weight)
    inputs = size.input_rank(num_samples) / (num_samples * t)
    rows = num_samples * output_dim * t
    return full * inputs * size.sensitivity_rank(num_samples, output_dim) / rows


def mean_share(size: LayerSize, num_samples: int, output_dim: int, scale: float = 1.0) -> float:
    """`kronecker_share` of means over samples with B times ``scale``: rank(a) rank(delta)/(NC scale)."""
    weights = 1 / num_samples, scale / (num_samples * size.positions)
    return kronecker_share(size, num_samples, output_dim, *weights)

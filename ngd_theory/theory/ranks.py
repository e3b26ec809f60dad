"""Sizes and constants from measured ranks of a linearisation, where the theory cannot predict them."""

from dataclasses import dataclass
from itertools import groupby

import numpy as np

from ngd_theory.arguments import checked, is_finite, require_known
from ngd_theory.errors import NotPredictedError
from ngd_theory.fisher import Approximation, BlockTridiagonal, Exact
from ngd_theory.fisher.solve import gram_rank, round_off
from ngd_theory.kernels import layer_kernel, ntk
from ngd_theory.networks import LayerSize, Linearization
from ngd_theory.networks.geometry import Geometry


@dataclass(frozen=True)
class MeasuredSize(LayerSize):
    """Sizes of a layer with measured ranks, in place of the ranks that follow from sizes.

    Attributes
    ----------
    rank_of_inputs, rank_of_sensitivities, rank_of_jacobian : int
        Of the (N T, P), (N C T, M) and (N C, P M) matrices.
    mean_unit_rank : float
        Mean rank of a live unit's (C, T) sensitivities at one sample.
    """

    rank_of_inputs: int = 0
    rank_of_sensitivities: int = 0
    rank_of_jacobian: int = 0
    mean_unit_rank: float = 0.0

    def input_rank(self, num_samples: int) -> int:
        """As measured."""
        return self.rank_of_inputs

    def sensitivity_rank(self, num_samples: int, output_dim: int) -> int:
        """As measured."""
        return self.rank_of_sensitivities

    def unit_rank(self, output_dim: int) -> float:
        """As measured."""
        return self.mean_unit_rank

    def jacobian_rank(self, num_samples: int, output_dim: int) -> int:
        """As measured."""
        return self.rank_of_jacobian


@checked
def measured_sizes(lin: Linearization) -> tuple[MeasuredSize, ...]:
    """Sizes of a linearisation's layers, with the ranks that the solvers use.

    Singular values below ``sqrt(n eps)`` of the largest count as zero: this is the round-off of the Gram matrix.

    Parameters
    ----------
    lin : Linearization
        Of any network, model or function; its values are read, so call this outside jit.

    Returns
    -------
    tuple of MeasuredSize
        What `Approximation.layer_constants` and `Approximation.isotropy_constant` take.

    Raises
    ------
    InputError
        Inside jit.
    NotPredictedError
        For a linearisation with a NaN or infinity.
    """
    _check(lin)
    return tuple(_measured(layer, lin.output_dim) for layer in lin.layers)


def _check(lin: Linearization) -> None:
    require_known("measured_sizes", lin)
    if not is_finite(lin):
        raise NotPredictedError("the linearisation has a NaN or infinity, and so no ranks")


def _measured(layer, output_dim: int) -> MeasuredSize:
    a, delta = np.asarray(layer.inputs), np.asarray(layer.sensitivities)
    t, p, m = a.shape[1], layer.layout.num_inputs, delta.shape[-1]
    live = delta != 0
    live_positions = int(live.any((0, 1, 3)).sum())
    live_units = int(live.any((0, 1, 2)).sum())
    eigenvalues = np.linalg.eigvalsh(np.asarray(layer_kernel(layer)))
    return MeasuredSize(
        positions=t,
        num_inputs=p,
        num_units=m,
        active_fraction=float(live.any((1, 2)).mean()),
        output_dim=output_dim,
        geometry=Geometry(live_positions, live_units, live_positions, t, p, p),
        rank_of_inputs=gram_rank(a.reshape(-1, a.shape[-1])),
        rank_of_sensitivities=gram_rank(delta.reshape(-1, m)),
        rank_of_jacobian=int(np.sum(eigenvalues > round_off(eigenvalues))),
        mean_unit_rank=_unit_rank(delta, live_units),
    )


def _unit_rank(delta: np.ndarray, live_units: int) -> float:
    """Mean rank of a live unit's (C, T) sensitivities at one sample."""
    if live_units == 0:
        return 0.0
    if min(delta.shape[1:3]) == 1:
        return float((delta != 0).any((1, 2)).sum()) / (len(delta) * live_units)
    singular = np.linalg.svd(np.moveaxis(delta, -1, 1), compute_uv=False)
    floor = max(delta.shape[1:3]) * np.finfo(delta.dtype).eps
    ranks = np.sum(singular > floor * singular[..., :1], axis=-1)
    return float(ranks.sum()) / (len(delta) * live_units)


@checked
def measured_constant(approximation: Approximation, lin: Linearization) -> float | None:
    """Measure alpha, ``tr K/(NC)`` as rho -> 0, from the ranks of ``lin`` (and its leverages for K-FAC).

    `isotropy_constant` instead predicts alpha from sizes, before anything is drawn, for networks with a theorem (chains
    of blocks). Neither says that K is isotropic; `check_conditions` and `isotropy` do.

    Parameters
    ----------
    approximation : Approximation
    lin : Linearization

    Returns
    -------
    float or None
        None if the theory states no constant (identity, entry-wise).

    Raises
    ------
    InputError, NotPredictedError
        As `measured_sizes`.
    """
    if type(approximation) is Exact:
        # The layers' ranges overlap, so their ranks do not add up.
        _check(lin)
        eigenvalues = np.linalg.eigvalsh(np.asarray(ntk(lin)))
        return float(np.sum(eigenvalues > round_off(eigenvalues))) / len(eigenvalues)
    sizes = measured_sizes(lin)
    if type(approximation) is BlockTridiagonal:
        # A layer that moves nothing couples no layers: those between two such layers form a network of their own.
        moving = groupby(sizes, key=lambda size: size.rank_of_jacobian > 0)
        runs = [tuple(run) for moves, run in moving if moves]
        n = lin.num_samples
        return float(sum(sum(approximation.layer_constants(run, n)) for run in runs))
    shares = approximation.measured_constants(lin, sizes)
    return None if shares is None else float(sum(shares))

"""The block-tridiagonal Fisher, in the dual form of `ngd_theory.fisher.dual`."""

from dataclasses import dataclass, field

import numpy as np

from ngd_theory.arguments import checked
from ngd_theory.errors import InputError
from ngd_theory.fisher.base import Look, approximation
from ngd_theory.fisher.coupled import coupled_system
from ngd_theory.fisher.dual import BlockDiagonal, DualApproximation, smallest_layer_eigenvalue
from ngd_theory.fisher.kinds import Kind, TrueFisher


@approximation
@dataclass(frozen=True)
class BlockTridiagonal(DualApproximation):
    """Keeps the Fisher blocks with ``abs(l - m) <= 1`` [KO]: alpha = ``1^T pinv(Sigma) 1`` (MSE).

    Sigma is singular for L = 3s + 2; alpha is still ceil(L/3) at rho = 0. Sigma is indefinite for L >= 3, so a damped
    system can be nearly singular: see `ngd_theory.theory.check_conditions`.

    Attributes
    ----------
    kind : TrueFisher, SampledFisher or EmpiricalFisher
    """

    name = "block-tridiagonal"
    look = Look("#56B4E9", "D")
    requirements = (
        "distinct-inputs",
        "positive-definite-layer-kernels",
        "invertible-coupling",
        "well-conditioned-damped-system",
        "positive-damped-map",
    )
    kind: Kind = field(default=TrueFisher())

    def dual_systems(self, kernels, damping, root):
        """One system that couples all layers."""
        return [coupled_system(tridiagonal_coupling(len(kernels)), kernels, damping, root)]

    def dual_weights(self, systems, cotangents, depth):
        """One solve."""
        return systems[0].solve(cotangents)

    def workspace(self, sizes, num_samples, itemsize):
        """The kernels and their roots, and the coupled system with its factor."""
        depth, outputs = len(sizes), num_samples * sizes[-1].output_dim
        return (3 * depth + 3 * depth**2) * outputs**2

    def damping_bias(self, lin, damping):
        """``rho |s|^2 / (alpha lambda_min)``, s = pinv(Sigma) 1: from ``K(0) - K(rho) ~ rho s^T D^-1 s``."""
        s = np.asarray(coupling_weights(len(lin.layers)))
        return damping * float(s @ s / s.sum()) / smallest_layer_eigenvalue(lin)

    def layer_constants(self, sizes, num_samples):
        """``(pinv(Sigma) 1)_l``, times rank(J_l)/(NC): exact where the layers reach the same outputs."""
        reached = BlockDiagonal(self.kind).layer_constants(sizes, num_samples)
        return tuple(s * r for s, r in zip(coupling_weights(len(sizes)), reached, strict=True))


def coupling_weights(depth: int) -> list[float]:
    """``pinv(Sigma) 1`` of `tridiagonal_coupling`: a pattern of period three in the layers."""
    pattern = {0: (0.0, 1.0, 0.0), 1: (1.0, 0.0, 0.0), 2: (0.5, 0.5, 0.0)}[depth % 3]
    return [pattern[index % 3] for index in range(depth)]


@checked
def tridiagonal_coupling(depth: int) -> np.ndarray:
    """Sigma: the (L, L) matrix of ones on the three central diagonals.

    Raises
    ------
    InputError
        Unless L is a whole number of at least 1.
    """
    if depth < 1:
        raise InputError(f"depth is {depth}; it must be at least 1")
    index = np.arange(depth)
    return (np.abs(index[:, None] - index[None, :]) <= 1).astype(float)

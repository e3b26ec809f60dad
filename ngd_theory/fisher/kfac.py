"""K-FAC: one Kronecker product per layer (Martens & Grosse 2015; docs/theory.md sections 3 and 7)."""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory.errors import choose
from ngd_theory.fisher.base import Look, approximation
from ngd_theory.fisher.damping import Damping, as_damping
from ngd_theory.fisher.factored_damping import SPLITS, factored_damping
from ngd_theory.fisher.kinds import Kind, TrueFisher, curvature_sensitivities
from ngd_theory.fisher.law import mean_share
from ngd_theory.fisher.premises import of_both_factors
from ngd_theory.fisher.solve import orthonormal_range, smallest_eigenvalue
from ngd_theory.fisher.whitened import SummedApproximation, whiten
from ngd_theory.networks import LayerLinearization, Linearization
from ngd_theory.networks.layout import Layout
from ngd_theory.precision import full_precision

#: N -> scale of the output layer's B: 1 for the Fisher's own, or 1/N.
_OUTPUT_FACTORS = {"fisher": lambda n: 1.0, "uniform": lambda n: 1.0 / n}

#: (N, T, P) inputs and (N, K, T, M) sensitivities -> rows of A and of B. With "reduce" they have T = 1.
_SHARINGS = {
    "expand": lambda inputs, sensitivities: (inputs, sensitivities),
    "reduce": lambda inputs, sensitivities: (
        jnp.mean(inputs, 1, keepdims=True),
        jnp.sum(sensitivities, 2, keepdims=True),
    ),
}


@approximation
@dataclass(frozen=True)
class KFAC(SummedApproximation):
    """``G_l = A_l (x) B_l`` with ``A = (1/N) sum_{n,t} a a^T``, ``B = (1/(N T)) sum_{n,c,t} delta delta^T``.

    The natural gradient ``(B + rho_B)^-1 grad (A + rho_A)^-1`` is a vjp with a and delta replaced by
    ``a (A + rho_A)^-1`` and ``delta (B + rho_B)^-1``. Each comes from its Gram matrix or its covariance, whichever is
    smaller: size min(NT, P) or min(NCT, M). For a convolution (T positions) this is KFC.

    Attributes
    ----------
    kind : TrueFisher, SampledFisher or EmpiricalFisher
        Which Fisher B is of (with MSE and the true Fisher: an exact expectation, not a sample).
    output_factor : {"fisher", "uniform"}
        "fisher": the output layer's own B (I_C under MSE), so that its share of alpha is 1.
        "uniform": that B divided by N, share N, so that alpha = LN as stated in [KO].
    damping_split : {"factored", "equal"}
        "factored": ``rho_A = pi sqrt(rho)``, ``rho_B = sqrt(rho)/pi`` with
        ``pi^2 = (tr A/dim A)/(tr B/dim B)`` [KFAC]; "equal": pi = 1. Either way sqrt(rho) limits the
        accuracy of alpha.
    sharing : {"expand", "reduce"}
        How A and B treat positions that share a weight. "expand": each position is a row [KFC]. "reduce": positions are
        combined before the outer products, ``A = (1/N) sum_n abar abar^T`` with abar the mean of a over t and
        ``B = (1/N) sum_{n,c} dbar dbar^T`` with dbar the sum of delta over t. "reduce" adds no error if all positions
        of a sample see the same patch, or have the same delta. For T = 1 both are the same.
    """

    name = "kfac"
    look = Look("#D55E00", "^", "K-FAC")
    needs_layers = True
    requirements = (
        "distinct-inputs",
        "general-position",
        "equal-leverages",
        "full-rank-sensitivities",
    )
    kind: Kind = field(default=TrueFisher())
    output_factor: str = "fisher"
    damping_split: str = "factored"
    sharing: str = "expand"

    def __post_init__(self):
        choose(_OUTPUT_FACTORS, self.output_factor, "output_factor")
        choose(_SHARINGS, self.sharing, "sharing")
        choose(SPLITS, self.damping_split, "damping_split")

    def whitened(self, lin, damping, weights):
        """Inputs and sensitivities, whitened."""
        root = self.kind.root(lin.outputs)
        return tuple(
            self._whiten(layer, damping, scale, root, weights)
            for layer, scale in zip(lin.layers, self._output_scales(lin), strict=True)
        )

    def matched_damping(self, damping):
        """``damping^2``: each factor is damped by about the square root."""
        return damping**2

    def workspace(self, sizes, num_samples, itemsize):
        """Whitened inputs and sums over outputs, and the largest matrices that are factorised."""
        c, n = sizes[-1].output_dim, num_samples
        copies = sum(n * s.positions * (s.num_inputs + s.num_units) for s in sizes)
        sides = [
            (min(n * s.positions, s.num_inputs), min(n * c * s.positions, s.num_units))
            for s in sizes
        ]
        return copies + 2 * max(a**2 + b**2 for a, b in sides)

    def damping_bias(self, lin, damping):
        """``rho_A/lambda_min(A) + rho_B/lambda_min(B)``, averaged over layers by their alpha.

        The smallest non-zero eigenvalues of full-rank factors: of their Gram matrix or covariance,
        whichever is smaller.
        """
        bounds, shares = [], []
        n, c = lin.outputs.shape
        every = _damped_grams(self, lin, as_damping(damping, lin.outputs.dtype))
        for scale, (roots, grams) in zip(self._output_scales(lin), every, strict=True):
            damped = zip(roots, grams, strict=True)
            bounds.append(sum(float(rho) / smallest_eigenvalue(g) for rho, g in damped))
            shares.append(grams[0].shape[0] * grams[1].shape[0] / (n * c * scale))
        return float(np.average(bounds, weights=shares))

    def broken_premises(self, sizes, num_samples, equal_leverages=False):
        """Premises for layer 1 (unless the leverages are equal) and for hidden layers of full rank NC."""
        return of_both_factors(self.name, sizes, num_samples, equal_leverages)

    def layer_constants(self, sizes, num_samples):
        """``rank(a) rank(delta) / (NC)``: N T^2 for a wide hidden layer, 1 for the output layer.

        None for ``sharing="reduce"`` with convolutions.
        """
        if self.sharing == "reduce" and any(s.positions > 1 for s in sizes):
            return None
        scales = [1.0] * (len(sizes) - 1) + [_OUTPUT_FACTORS[self.output_factor](num_samples)]
        c = sizes[-1].output_dim
        return tuple(
            mean_share(s, num_samples, c, scale) for s, scale in zip(sizes, scales, strict=True)
        )

    def measured_constants(self, lin, sizes):
        """``(T/C) sum_{n,c} sum_{t,s} P_a[nt,ns] P_delta[nct,ncs]``, P the projectors on the ranges of a and of delta.

        If one of the ranks is full, this equals `layer_constants`. If neither is full, the correlation between the
        leverages of a and of delta counts too. None where `layer_constants` is None.
        """
        if self.layer_constants(sizes, lin.num_samples) is None:
            return None
        scales = zip(lin.layers, self._output_scales(lin), strict=True)
        return tuple(_trace(layer) / scale for layer, scale in scales)

    def _output_scales(self, lin: Linearization) -> list[float]:
        """Scale of B in each layer: 1 for hidden layers."""
        hidden = [1.0] * (len(lin.layers) - 1)
        return [*hidden, _OUTPUT_FACTORS[self.output_factor](lin.num_samples)]

    def _rows(self, inputs, curvature, output_scale: float):
        """Rows whose second moments are A and B, each with the scale of its moment."""
        rows = _SHARINGS[self.sharing](inputs, curvature)
        n, _, t, _ = rows[1].shape
        scales = 1 / n, output_scale / (n * t)
        return [(x.reshape(-1, x.shape[-1]), scale) for x, scale in zip(rows, scales, strict=True)]

    def _dampings(self, layout: Layout, rows, damping: Damping) -> list[Damping]:
        # Not the width of the rows: for an embedding they have coordinates for a few tokens only.
        sizes = layout.num_inputs, layout.num_units
        pairs = zip(rows, sizes, strict=True)
        mean_a, mean_b = (scale * jnp.sum(x**2) / size for (x, scale), size in pairs)
        return [
            damping.map(lambda rho, side=side: self._split(mean_a, mean_b, rho)[side])
            for side in (0, 1)
        ]

    def _split(self, mean_a, mean_b, rho):
        return factored_damping(mean_a, mean_b, jnp.sqrt(rho), self.damping_split)

    def _whiten(
        self,
        layer: LayerLinearization,
        damping: Damping,
        output_scale: float,
        root: Float[Array, "N C K"] | None,
        weights: Float[Array, "N C"] | None,
    ) -> LayerLinearization:
        curvature = curvature_sensitivities(layer.sensitivities, root)
        rows = self._rows(layer.inputs, curvature, output_scale)
        # The solve is cheaper if the factor is made of the layer's own rows.
        own = self.sharing == "expand" or layer.inputs.shape[1] == 1
        (a, scale_a), (b, scale_b) = rows
        rho_a, rho_b = self._dampings(layer.layout, rows, damping)
        return replace(
            layer,
            inputs=whiten(layer.inputs, rho_a, scale_a, None if own else a),
            sensitivities=whiten(
                layer.sensitivities, rho_b, scale_b, None if own and root is None else b, weights
            ),
        )


@jax.jit
@full_precision
def _damped_grams(kfac: KFAC, lin: Linearization, damping: Damping):
    """Per layer: rho_A and rho_B, and for A and B the Gram matrix or covariance, whichever is smaller."""
    found = []
    for scale, layer in zip(kfac._output_scales(lin), lin.layers, strict=True):
        rows = kfac._rows(layer.inputs, layer.sensitivities, scale)
        roots = [rho.value for rho in kfac._dampings(layer.layout, rows, damping)]
        grams = [s * (x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x) for x, s in rows]
        found.append((roots, grams))
    return found


def _trace(layer: LayerLinearization) -> float:
    """See `KFAC.measured_constants`."""
    n, c, t, _ = layer.sensitivities.shape
    a, delta = (
        orthonormal_range(np.asarray(rows).reshape(-1, rows.shape[-1]))
        for rows in (layer.inputs, layer.sensitivities)
    )
    # Only each sample's block of the projectors, never a whole projector.
    inputs = np.einsum("ntr,nsr->nts", *[a.reshape(n, t, -1)] * 2, optimize=True)
    sensitivities = np.einsum("nctr,ncsr->nts", *[delta.reshape(n, c, t, -1)] * 2, optimize=True)
    return float(np.sum(inputs * sensitivities)) * t / c

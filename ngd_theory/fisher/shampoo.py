"""Shampoo's preconditioner, with per-sample statistics (Gupta, Koren & Singer 2018; docs/theory.md section 9)."""

from dataclasses import dataclass, field, replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory.errors import InputError
from ngd_theory.fisher.base import Look, approximation
from ngd_theory.fisher.damping import Damping
from ngd_theory.fisher.kinds import Kind, TrueFisher, curvature_sensitivities
from ngd_theory.fisher.loops import batch_size, map_items
from ngd_theory.fisher.solve import as_rows, smallest_gram_eigenvalue
from ngd_theory.fisher.whitened import SummedApproximation, sums_over_outputs
from ngd_theory.linalg import (
    by_shape,
    is_tall,
    kept,
    smaller_gram,
    spectral_function,
    symmetric_roots,
)
from ngd_theory.precision import full_precision


@approximation
@dataclass(frozen=True)
class Shampoo(SummedApproximation):
    """``G_l = A^p (x) B^p``, with A and B the second moments of the samples' gradients.

    ``A = (1/N) sum_nc g g^T``, ``B = (1/N) sum_nc g^T g`` with ``g_nc = sum_t a delta^T`` (P, M). For one position
    ``A = (1/N) sum_n (sum_c |delta_nc|^2) a_n a_n^T`` and ``B = (1/N) sum_nc |a_n|^2 delta delta^T``. Published powers
    are p = 1/4 (Shampoo's own) and p = 1/2 (the square of its G, Morwani et al. 2024). p = 1 is a Kronecker product
    with its own weights, isotropic if the norms are alike.

    The damping is added to both moments before the power, ``(A + rho)^p (x) (B + rho)^p``, like Shampoo's epsilon: rho
    has the scale of a moment. At p = 1/2 and 1/4 the spectra of the Gram matrices remain in K at every width.

    Attributes
    ----------
    power : float
        p, above 0 and at most 1.
    kind : TrueFisher, SampledFisher or EmpiricalFisher
        Which Fisher the gradients belong to; Shampoo's own is the empirical one.
    """

    name = "shampoo"
    look = Look("#17BECF", "X", "Shampoo")
    named_only = "the theory has no constant of it, so name it to run it"
    needs_layers = True
    has_limit = False
    kind: Kind = field(default=TrueFisher())
    power: float = 0.5

    def __post_init__(self):
        if not 0 < self.power <= 1:
            raise InputError(f"power is {self.power}; it must be above 0 and at most 1")

    @property
    def requirements(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """None for p = 1; for other powers K is not isotropic at any width."""
        return () if self.power == 1 else ("isotropic-at-some-width",)

    @full_precision
    def whitened(self, lin, damping, weights):
        """Inputs times ``(A + rho)^-p``, sensitivities times ``(B + rho)^-p``."""
        root = self.kind.root(lin.outputs)
        layers = [
            replace(y, sensitivities=sums_over_outputs(y.sensitivities, weights))
            for y in lin.layers
        ]
        sides = [as_rows(x) for y in layers for x in (y.inputs, y.sensitivities)]
        rows = [x for y in lin.layers for x in _moment_rows(y, root)]
        powered = _powered(sides, rows, damping, self.power)
        return tuple(
            replace(
                y,
                inputs=a.reshape(y.inputs.shape),
                sensitivities=delta.reshape(y.sensitivities.shape),
            )
            for y, a, delta in zip(layers, powered[::2], powered[1::2], strict=True)
        )

    def workspace(self, sizes, num_samples, itemsize):
        """Rows of both moments, whitened sums, matrix powers, and the largest matrices that are diagonalised."""
        c, n = sizes[-1].output_dim, num_samples
        copies = sum(n * s.positions * (2 * s.num_inputs + (1 + c) * s.num_units) for s in sizes)
        sides = [
            (min(n * s.positions, s.num_inputs), min(n * c * s.positions, s.num_units))
            for s in sizes
        ]
        squares = [a**2 + b**2 for a, b in sides]
        return copies + sum(squares) + 2 * max(squares)

    def damping_bias(self, lin, damping):
        """``p rho (1/lambda_min(A) + 1/lambda_min(B))``, the largest over all layers."""
        root, found = self.kind.root(lin.outputs), []
        for layer in lin.layers:
            smallest = [smallest_gram_eigenvalue(x, 1.0) for x in _moment_rows(layer, root)]
            found.append(self.power * damping * sum(1 / each for each in smallest))
        return float(np.max(found))


@full_precision
def _moment_rows(layer, root) -> tuple[Float[Array, "n P"], Float[Array, "k M"]]:
    """Rows X and D with ``A = X^T X`` and ``B = D^T D``; they include the 1/N."""
    n, _, t, _ = layer.sensitivities.shape
    delta = curvature_sensitivities(layer.sensitivities, root)
    by_delta = jnp.einsum("nktm,nksm->nts", delta, delta) / n
    by_inputs = jnp.einsum("ntp,nsp->nts", layer.inputs, layer.inputs) / n
    roots = [_roots(weights, t) for weights in (by_delta, by_inputs)]
    inputs = jnp.einsum("nts,nsp->ntp", roots[0], layer.inputs)
    return as_rows(inputs), as_rows(jnp.einsum("nts,nksm->nktm", roots[1], delta))


def _roots(weights: Float[Array, "N T T"], positions: int) -> Float[Array, "N T T"]:
    """Symmetric roots of each sample's weights; one position needs no factorisation."""
    if positions == 1:
        on = weights > 0
        # Avoid the root of 0: its derivative is infinite.
        return jnp.where(on, jnp.sqrt(jnp.where(on, weights, 1)), 0)
    size = batch_size(positions, positions, itemsize=weights.itemsize)
    return map_items(lambda each: symmetric_roots(each)[0], weights, size)


@full_precision
def _powered(sides: list[Array], rows: list[Array], damping: Damping, power: float) -> list[Array]:
    """``x (Y^T Y + rho)^-power`` for each x (n, p) and Y (k, p); at rho = 0 on the range of Y only."""

    def limit(rho, sides, rows, matrices):
        # rho is 0 here; it only gives the derivative by the damping.
        rho = jnp.zeros((), rows[0].dtype) if rho is None else rho.astype(rows[0].dtype)
        functions = [_LimitPower(power, over=0 if is_tall(y) else 1) for y in rows]
        return inside(rho, functions, sides, rows, matrices)

    def positive(rho, sides, rows, matrices):
        rho = rho.astype(rows[0].dtype)
        by_side = _ShiftedDifference(power), _ShiftedPower(power)
        found = inside(rho, [by_side[is_tall(y)] for y in rows], sides, rows, matrices)
        # Rows outside the range of Y keep their rho^-power.
        return [
            x_power if is_tall(y) else x * rho**-power + x_power
            for x, y, x_power in zip(sides, rows, found, strict=True)
        ]

    def inside(rho, functions, sides, rows, matrices):
        spectra = by_shape(lambda m, f: spectral_function(f, m, rho), matrices, functions)
        return [
            x @ f if is_tall(y) else (x @ y.T) @ f @ y
            for x, y, f in zip(sides, rows, spectra, strict=True)
        ]

    return damping.select(positive, limit, sides, rows, [smaller_gram(y) for y in rows])


@dataclass(frozen=True)
class _LimitPower:
    """``(lambda + rho)^-p lambda^-over`` at rho = 0; 0 for zero eigenvalues."""

    power: float
    over: int = 0

    def __call__(self, eigenvalues, rho):
        keep = kept(eigenvalues) & ~(eigenvalues <= 0)
        safe = jnp.where(keep, eigenvalues, 1)
        return jnp.where(keep, (safe + rho) ** -self.power / safe**self.over, 0)


@dataclass(frozen=True)
class _ShiftedPower:
    """``(lambda + rho)^-p``."""

    power: float

    def __call__(self, eigenvalues, rho):
        return (jnp.maximum(eigenvalues, 0) + rho) ** -self.power


@dataclass(frozen=True)
class _ShiftedDifference:
    """``((lambda + rho)^-p - rho^-p)/lambda``."""

    power: float

    def __call__(self, eigenvalues, rho):
        ratio = jnp.maximum(eigenvalues, 0) / rho
        small = ratio < 1e-8
        safe = jnp.where(small, 1, ratio)
        quotient = jnp.where(small, -self.power, jnp.expm1(-self.power * jnp.log1p(safe)) / safe)
        return rho ** (-self.power - 1) * quotient

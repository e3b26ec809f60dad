"""Exact and block-diagonal Fisher, through their dual (Woodbury) form.

They and the block-tridiagonal Fisher (`ngd_theory.fisher.block_tridiagonal`) keep different blocks
``J_l^T Lambda J_m / N``: those with ``Sigma[l, m] = 1``. The L x L coupling matrix Sigma has ones everywhere, on the
diagonal, or on the three central diagonals. With ``D = blockdiag(Theta_l)``, ``Theta_l = J_l J_l^T / N``, the
push-through identity gives

    (G + rho)^-1 J^T v / N = blockdiag(J_l)^T w / N,   [(Sigma (x) Lambda) D + rho] w = 1 (x) v,

so a step costs one vjp and solves of size N*C: one for exact, one per layer for block-diagonal.
"""

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory import losses
from ngd_theory.errors import InputError, choose
from ngd_theory.fisher.base import Approximation, Look, approximation
from ngd_theory.fisher.coupled import CoupledSystem, coupled_system
from ngd_theory.fisher.damping import Damping, as_damping
from ngd_theory.fisher.kinds import Kind, TrueFisher
from ngd_theory.fisher.matrix_free import ConjugateGradients, Solution, damped_solution
from ngd_theory.fisher.solve import smallest_eigenvalue
from ngd_theory.kernels import layer_kernel, ntk
from ngd_theory.linalg import factor_copies
from ngd_theory.networks import Linearization

SOLVERS = ("auto", "cholesky", "cg")
#: Most bytes of kernels for which the solver "auto" takes Cholesky in a natural gradient.
MEMORY_LIMIT = 2**31


class DualApproximation(Approximation):
    """A Fisher approximation solved in the space of the N*C outputs."""

    kind: Kind

    @abc.abstractmethod
    def dual_systems(
        self,
        kernels: Sequence[Float[Array, "NC NC"]],
        damping: Damping,
        root: Float[Array, "N C K"] | None,
    ) -> Sequence[CoupledSystem]:
        """Systems of the module's equation, each for one or more layers.

        Parameters
        ----------
        kernels : the normalised layer kernels ``Theta_l = J_l J_l^T / N``
        damping : Damping
        root : (N, C, K) or None
            R with ``R R^T = Lambda``; None for the identity.
        """

    @abc.abstractmethod
    def dual_weights(
        self, systems: Sequence[CoupledSystem], cotangents: Float[Array, "NC k"], depth: int
    ) -> Sequence[Float[Array, "NC k"]]:
        """``w_l`` of the module's equation for each of ``depth`` layers."""

    def factor(self, lin, damping):
        """The factored systems that are made of the layer kernels."""
        return self._systems(lin, damping)

    def _systems(self, lin: Linearization, damping: Damping) -> Sequence[CoupledSystem]:
        kernels = [layer_kernel(layer) / lin.num_samples for layer in lin.layers]
        return tuple(self.dual_systems(kernels, damping, self.kind.root(lin.outputs)))

    def precondition(self, lin, cotangent, factors):
        """One vjp, with a separate cotangent for each layer."""
        systems = self.factored(lin, factors)
        weights = self.dual_weights(systems, cotangent.reshape(-1, 1), len(lin.layers))
        scaled = [w.reshape(cotangent.shape) / lin.num_samples for w in weights]
        return lin.like_params([layer.vjp(w) for layer, w in zip(lin.layers, scaled, strict=True)])

    def layer_terms(self, lin, factors, at):
        """``Theta_l(at) w_l`` with the dual weights of the identity."""
        # With conjugate gradients the factors are the damping; a map needs the kernels.
        systems = self._systems(lin, factors) if isinstance(factors, Damping) else factors
        identity = jnp.eye(lin.outputs.size, dtype=lin.outputs.dtype)
        weights = self.dual_weights(systems, identity, len(lin.layers))
        return [
            layer_kernel(there, here) @ w / lin.num_samples
            for there, here, w in zip(at.layers, lin.layers, weights, strict=True)
        ]


class GroupedApproximation(DualApproximation):
    """A dual approximation whose layers fall into groups, each with its own problem ``(Lambda Theta_g + rho) w = v``.

    A problem is solved by Cholesky from the kernels, or without kernels by conjugate gradients
    (`ngd_theory.fisher.matrix_free`). The latter need memory for the linearisation, a few tangents and
    `ConjugateGradients.rank` columns. Function-space maps are as large as the kernel and always use Cholesky. Conjugate
    gradients need rho > 0 (a traced rho of 0 gives NaN), and more iterations for a smaller rho.
    """

    solver: str | ConjugateGradients
    memory_limit: int

    def __post_init__(self):
        if not isinstance(self.solver, ConjugateGradients):
            choose(dict.fromkeys(SOLVERS), self.solver, "solver")
        if self.memory_limit < 1:
            raise InputError(f"memory_limit is {self.memory_limit}; it must be at least 1 byte")

    @abc.abstractmethod
    def groups(self, depth: int) -> Sequence[range]:
        """Indices of the layers in each group; each layer is in one group."""

    def dual_systems(self, kernels, damping, root):
        """One system per group."""
        terms = [[kernels[i] for i in group] for group in self.groups(len(kernels))]
        return [
            coupled_system(np.ones((1, 1)), [sum(rest, first)], damping, root)
            for first, *rest in terms
        ]

    def dual_weights(self, systems, cotangents, depth):
        """One solve per group."""
        found = [system.solve(cotangents)[0] for system in systems]
        groups = zip(self.groups(depth), found, strict=True)
        return [weights for group, weights in groups for _ in group]

    def factor(self, lin, damping):
        """The groups' factored systems; for conjugate gradients, which factor nothing, the damping itself."""
        by_cholesky = self.iteration(lin, damping) is None
        return self._systems(lin, damping) if by_cholesky else damping

    def precondition(self, lin, cotangent, factors):
        """One vjp, with a separate cotangent for each group."""
        if not isinstance(factors, Damping) or self.iteration(lin, factors) is None:
            return super().precondition(lin, cotangent, factors)
        solutions = self.dual_solutions(lin, cotangent, factors)
        n = lin.num_samples
        return lin.like_params(
            [
                lin.layers[i].vjp(solution.weights.reshape(cotangent.shape) / n)
                for group, solution in zip(self.groups(len(lin.layers)), solutions, strict=True)
                for i in group
            ]
        )

    def iteration(self, lin: Linearization, damping) -> ConjugateGradients | None:
        """The conjugate gradients that a natural gradient at ``lin`` uses; None for Cholesky."""
        # The limit rho -> 0 needs the kernel, whatever its size.
        if self.solver == "auto" and as_damping(damping).zero:
            return None
        itemsize = lin.outputs.dtype.itemsize
        return self._iteration(lin.outputs.size, len(lin.layers), itemsize)

    def _iteration(self, outputs: int, depth: int, itemsize: int) -> ConjugateGradients | None:
        if isinstance(self.solver, ConjugateGradients):
            return self.solver
        held = itemsize * self._kernels(outputs, depth)
        by_cholesky = held <= self.memory_limit if self.solver == "auto" else self.solver != "cg"
        return None if by_cholesky else ConjugateGradients()

    def _kernels(self, outputs: int, depth: int) -> int:
        """How many numbers the kernels of all groups, the matrices of one factorisation and a copy have."""
        return (len(self.groups(depth)) + 1 + factor_copies(outputs)) * outputs**2

    def workspace(self, sizes, num_samples, itemsize):
        """Kernels; or the preconditioner's columns, a tangent and curvature sensitivities."""
        outputs = num_samples * sizes[-1].output_dim
        iteration = self._iteration(outputs, len(sizes), itemsize)
        if iteration is None:
            return self._kernels(outputs, len(sizes))
        c = sizes[-1].output_dim
        columns = min(max(1, iteration.rank // c), num_samples) * c
        tangent = sum(s.num_inputs * s.num_units for s in sizes)
        curved = sum(outputs * s.positions * s.num_units for s in sizes)
        plain = isinstance(self.kind, TrueFisher) and losses.by_name(self.kind.loss).unit_fisher
        return 3 * columns * outputs + tangent + (0 if plain else curved)

    def dual_solutions(
        self, lin: Linearization, cotangent: Float[Array, "N C"], damping
    ) -> tuple[Solution, ...]:
        """Solve each group's problem by conjugate gradients, and report iterations and residuals.

        Parameters
        ----------
        lin : Linearization
        cotangent : (N, C)
        damping : float or scalar array
            rho > 0.

        Returns
        -------
        tuple of Solution
            One per group. With Lambda = R R^T, iterations and residual are those of the system with kernel
            ``R^T Theta R``.

        Raises
        ------
        InputError
            For a cotangent of the wrong shape, or a damping that is known to be zero.
        """
        if jnp.shape(cotangent) != lin.outputs.shape:
            raise InputError(
                f"cotangent has shape {jnp.shape(cotangent)}; the outputs have {lin.outputs.shape}"
            )
        cotangent = jnp.asarray(cotangent, lin.outputs.dtype)
        damping = as_damping(damping, lin.outputs.dtype)
        if damping.zero:
            raise InputError(
                f"{self.name!r} by conjugate gradients needs a damping above 0; the limit takes the whole kernel "
                '(solver="cholesky", or a larger memory_limit)'
            )
        iteration = self.iteration(lin, damping) or ConjugateGradients()
        rho = jnp.asarray(damping.value, lin.outputs.dtype)
        root = self.kind.root(lin.outputs)
        return tuple(
            damped_solution(iteration, [lin.layers[i] for i in group], cotangent, rho, root)
            for group in self.groups(len(lin.layers))
        )

    def breakdown(self, lin, cotangent, damping):
        """Which conjugate gradients did not converge; None for Cholesky."""
        iteration = self.iteration(lin, damping)
        if iteration is None:
            return None
        failed = [
            f"conjugate gradients of layers {group.start + 1} to {group.stop} stopped after {int(s.iterations)} "
            f"iterations at a relative residual of {float(s.residual):.1e}"
            for group, s in zip(
                self.groups(len(lin.layers)),
                _dual_solutions(self, lin, cotangent, as_damping(damping)),
                strict=True,
            )
            if not s.converged
        ]
        found = "; ".join(failed) or "a number was not finite before conjugate gradients began"
        return (
            f"{found} with {iteration}: raise the damping, use float64, give "
            'solver=ConjugateGradients(...) more max_iterations or a larger rank, or use solver="cholesky"'
        )


@jax.jit
def _dual_solutions(approximation, lin, cotangent, damping):
    return approximation.dual_solutions(lin, cotangent, damping)


@approximation
@dataclass(frozen=True)
class Exact(GroupedApproximation):
    """The whole Fisher: ``K = Theta (Lambda Theta + rho)^-1``, alpha = 1 (MSE).

    Attributes
    ----------
    kind : TrueFisher, SampledFisher or EmpiricalFisher
    solver : {"auto", "cholesky", "cg"} or ConjugateGradients
        For natural gradients. "auto" uses Cholesky if its matrices fit into ``memory_limit``.
    memory_limit : int
        Bytes.
    """

    name = "exact"
    look = Look("#000000", "o")
    predicted_losses = ("mse", "cross-entropy")
    requirements = ("distinct-inputs", "positive-definite-ntk")
    kind: Kind = field(default=TrueFisher())
    solver: str | ConjugateGradients = "auto"
    memory_limit: int = MEMORY_LIMIT

    def groups(self, depth):
        """One group of all layers, which then share the dual weights."""
        return [range(depth)]

    def damping_bias(self, lin, damping):
        """``rho / lambda_min(Theta)``, divided by the least eigenvalue of Lambda on its range."""
        kernel = smallest_eigenvalue(ntk(lin) / lin.num_samples)
        return damping / (kernel * smallest_curvature(self.kind.root(lin.outputs)))

    def isotropy_constant(self, sizes, num_samples):
        """1, or rank(J)/(NC) if the parameters cannot reach every output."""
        c = sizes[-1].output_dim
        image = sizes[0].linear_image_rank
        if image is None:
            reached = sum(s.jacobian_rank(num_samples, c) for s in sizes)
        elif any(s.positions > 1 for s in sizes):
            reached = min(image * c, sum(s.jacobian_rank(num_samples, c) for s in sizes))
        else:
            # A linear network's ranges span(delta_l) (x) span(a_l) are nested: the first grow with l while
            # the second shrink, so that layer l adds its new directions times rank(a_l).
            ranks = accumulate((s.sensitivity_rank(num_samples, c) for s in sizes), max)
            inputs = accumulate((s.input_rank(num_samples) for s in sizes), min)
            added = (after - before for before, after in pairwise([0, *ranks]))
            reached = sum(new * rank for new, rank in zip(added, inputs, strict=True))
        return min(1.0, reached / (num_samples * c))


@approximation
@dataclass(frozen=True)
class BlockDiagonal(GroupedApproximation):
    """One block per layer: ``K = sum_l Theta_l (Lambda Theta_l + rho)^-1``, alpha = L (MSE).

    Attributes
    ----------
    kind : TrueFisher, SampledFisher or EmpiricalFisher
    solver : {"auto", "cholesky", "cg"} or ConjugateGradients
        For natural gradients. "auto" uses Cholesky if its matrices fit into ``memory_limit``.
    memory_limit : int
        Bytes.
    """

    name = "block-diagonal"
    look = Look("#0072B2", "s")
    predicted_losses = ("mse", "cross-entropy")
    by_layers = True
    requirements = ("distinct-inputs", "positive-definite-layer-kernels")
    kind: Kind = field(default=TrueFisher())
    solver: str | ConjugateGradients = "auto"
    memory_limit: int = MEMORY_LIMIT

    def groups(self, depth):
        """One group per layer."""
        return [range(i, i + 1) for i in range(depth)]

    def damping_bias(self, lin, damping):
        """``rho max_l 1/lambda_min(Theta_l)``, divided by the least eigenvalue of Lambda on its range."""
        curvature = smallest_curvature(self.kind.root(lin.outputs))
        return damping / (smallest_layer_eigenvalue(lin) * curvature)

    def layer_constants(self, sizes, num_samples):
        """1 for each layer, or rank(J_l)/(NC) if the layer cannot reach every output."""
        c = sizes[-1].output_dim
        return tuple(s.jacobian_rank(num_samples, c) / (num_samples * c) for s in sizes)


def smallest_curvature(root) -> float:
    """Least eigenvalue of ``Lambda = R R^T`` above round-off, over all samples; 1 if R is None."""
    if root is None:
        return 1.0
    values = np.linalg.svd(np.asarray(root), compute_uv=False)
    floor = values.shape[-1] * np.finfo(values.dtype).eps * values.max(axis=-1, keepdims=True)
    return float(np.min(values[values > floor] ** 2, initial=np.inf))


def smallest_layer_eigenvalue(lin: Linearization) -> float:
    """Smallest eigenvalue of all ``Theta_l``; reads values."""
    return min(smallest_eigenvalue(layer_kernel(y) / lin.num_samples) for y in lin.layers)

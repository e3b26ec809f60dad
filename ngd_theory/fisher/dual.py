"""Exact, block-diagonal and block-tridiagonal Fisher, through their dual (Woodbury) form.

The three differ only in which blocks ``J_l^T Lambda J_m / N`` of the Fisher they keep: those with
``Sigma[l, m] = 1`` of an L x L coupling matrix Sigma (all ones, identity, three central diagonals).
With ``D = blockdiag(Theta_l)``, ``Theta_l = J_l J_l^T / N``, the push-through identity gives

    (G + rho)^-1 J^T v / N = blockdiag(J_l)^T w / N,   [(Sigma (x) Lambda) D + rho] w = 1 (x) v,

so a step costs one N*C-sized solve (L*N*C for block-tridiagonal) and one vjp.
"""

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory import losses
from ngd_theory.errors import InputError, choose
from ngd_theory.fisher.base import Approximation, approximation
from ngd_theory.fisher.damping import Damping, as_damping
from ngd_theory.fisher.kinds import Kind, TrueFisher, curvature_sensitivities
from ngd_theory.fisher.loops import batch_size, map_items
from ngd_theory.fisher.matrix_free import ConjugateGradients, Solution
from ngd_theory.fisher.solve import inverse_spectrum, pinv_solve, smallest_eigenvalue, solve_psd
from ngd_theory.kernels import layer_kernel, ntk
from ngd_theory.networks import LayerLinearization, Linearization
from ngd_theory.precision import full_precision

SOLVERS = ("auto", "cholesky", "cg")
#: Bytes that "auto" lets the kernels of a natural gradient take.
MEMORY_LIMIT = 2**31


class DualApproximation(Approximation):
    """A Fisher approximation solved in the space of the N*C outputs."""

    kind: Kind

    @abc.abstractmethod
    def dual_weights(
        self,
        kernels: Sequence[Float[Array, "NC NC"]],
        cotangents: Float[Array, "NC k"],
        damping: Damping,
        root: Float[Array, "N C K"] | None,
    ) -> Sequence[Float[Array, "NC k"]]:
        """``w_l`` of the module's equation for each layer.

        Parameters
        ----------
        kernels : the normalised layer kernels ``Theta_l = J_l J_l^T / N``
        cotangents : (NC, k)
        damping : Damping
        root : (N, C, K) or None
            R with ``R R^T = Lambda``; None for the identity.
        """

    def _weights(self, lin: Linearization, cotangents, damping):
        kernels = [layer_kernel(layer) / lin.num_samples for layer in lin.layers]
        return self.dual_weights(kernels, cotangents, damping, self.kind.root(lin.outputs))

    def precondition(self, lin, cotangent, damping):
        """One vjp with a cotangent of its own for each layer."""
        weights = self._weights(lin, cotangent.reshape(-1, 1), damping)
        scaled = [w.reshape(cotangent.shape) / lin.num_samples for w in weights]
        return lin.like_params([layer.vjp(w) for layer, w in zip(lin.layers, scaled, strict=True)])

    def preconditioned_map(self, lin, damping, at):
        """``sum_l Theta_l(at) w_l`` with the dual weights of the identity."""
        identity = jnp.eye(lin.outputs.size, dtype=lin.outputs.dtype)
        weights = self._weights(lin, identity, damping)
        terms = [
            layer_kernel(there, here) @ w / lin.num_samples
            for there, here, w in zip(at.layers, lin.layers, weights, strict=True)
        ]
        return sum(terms[1:], terms[0])


class GroupedApproximation(DualApproximation):
    """A dual approximation whose layers fall into groups, each with its own problem ``(Lambda Theta_g + rho) w = v``.

    Solved by Cholesky from the kernels, or without any kernel by conjugate gradients (`ngd_theory.fisher.matrix_free`):
    then a natural gradient takes memory for the linearisation, a few tangents and `ConjugateGradients.rank` columns.
    Function-space maps are of the kernel's own size and take Cholesky. Conjugate gradients are for rho > 0 (a traced
    rho of 0 gives NaN), and take the more iterations the smaller rho is.
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
        """Numbers of the layers of each group; each layer is in one."""

    def dual_weights(self, kernels, cotangents, damping, root):
        """One solve a group."""
        found = [
            (group, dual_solve(sum(kernels[i] for i in group), cotangents, damping, root))
            for group in self.groups(len(kernels))
        ]
        return [weights for group, weights in found for _ in group]

    def precondition(self, lin, cotangent, damping):
        """One vjp with a cotangent of its own for each group."""
        if self.iteration(lin, damping) is None:
            return super().precondition(lin, cotangent, damping)
        solutions = self.dual_solutions(lin, cotangent, damping)
        n = lin.num_samples
        return lin.like_params(
            [
                lin.layers[i].vjp(solution.weights.reshape(cotangent.shape) / n)
                for group, solution in zip(self.groups(len(lin.layers)), solutions, strict=True)
                for i in group
            ]
        )

    def iteration(self, lin: Linearization, damping) -> ConjugateGradients | None:
        """The conjugate gradients that a natural gradient at ``lin`` takes; None for Cholesky."""
        # The limit rho -> 0 is of the kernel, whatever it takes.
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
        """Numbers in the kernels of all groups, a factor and a copy."""
        return (len(self.groups(depth)) + 2) * outputs**2

    def workspace(self, sizes, num_samples, itemsize):
        """Kernels, or the preconditioner's columns and a tangent."""
        outputs = num_samples * sizes[-1].num_units
        iteration = self._iteration(outputs, len(sizes), itemsize)
        if iteration is None:
            return self._kernels(outputs, len(sizes))
        c = sizes[-1].num_units
        columns = min(max(1, iteration.rank // c), num_samples) * c
        tangent = sum(s.num_inputs * s.num_units for s in sizes)
        curved = sum(outputs * s.positions * s.num_units for s in sizes)
        plain = isinstance(self.kind, TrueFisher) and losses.by_name(self.kind.loss).unit_fisher
        return 3 * columns * outputs + tangent + (0 if plain else curved)

    def dual_solutions(
        self, lin: Linearization, cotangent: Float[Array, "N C"], damping
    ) -> tuple[Solution, ...]:
        """Solve each group's problem by conjugate gradients, and say how it went.

        Parameters
        ----------
        lin : Linearization
        cotangent : (N, C)
        damping : float or scalar array
            rho > 0.

        Returns
        -------
        tuple of Solution
            One a group, with iterations and residual (of the system with kernel ``R^T Theta R`` where Lambda = R R^T).

        Raises
        ------
        InputError
            For a damping that is known to be zero.
        """
        if jnp.shape(cotangent) != lin.outputs.shape:
            raise InputError(
                f"cotangent has shape {jnp.shape(cotangent)}; the outputs have {lin.outputs.shape}"
            )
        cotangent = jnp.asarray(cotangent, lin.outputs.dtype)
        damping = as_damping(damping)
        if damping.zero:
            raise InputError(
                f"{self.name!r} by conjugate gradients needs a damping above 0; the limit takes the whole kernel "
                '(solver="cholesky", or a larger memory_limit)'
            )
        iteration = self.iteration(lin, damping) or ConjugateGradients()
        rho = jnp.asarray(damping.value, lin.outputs.dtype)
        root = _at_most_square(self.kind.root(lin.outputs))
        return tuple(
            _iterate(iteration, [lin.layers[i] for i in group], cotangent, rho, root)
            for group in self.groups(len(lin.layers))
        )

    def breakdown(self, lin, cotangent, damping):
        """What conjugate gradients did not reach."""
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
        Of natural gradients; "auto" takes Cholesky where its matrices fit into ``memory_limit``.
    memory_limit : int
        Bytes.
    """

    name = "exact"
    requirements = ("distinct-inputs", "positive-definite-ntk")
    kind: Kind = field(default=TrueFisher())
    solver: str | ConjugateGradients = "auto"
    memory_limit: int = MEMORY_LIMIT

    def groups(self, depth):
        """One of all layers, which then have the same weights."""
        return [range(depth)]

    def damping_bias(self, lin, damping):
        """``rho / lambda_min(Theta)``."""
        return damping / smallest_eigenvalue(ntk(lin) / lin.num_samples)

    def isotropy_constant(self, sizes, num_samples):
        """1, or rank(J)/(NC) where the parameters cannot reach every output."""
        c = sizes[-1].num_units
        image = sizes[0].linear_image_rank
        if image is None:
            reached = sum(s.jacobian_rank(num_samples, c) for s in sizes)
        elif any(s.positions > 1 for s in sizes):
            reached = min(image * c, sum(s.jacobian_rank(num_samples, c) for s in sizes))
        else:
            # A linear network's ranges span(delta_l) (x) span(a_l) are nested: the first grow with l while
            # the second shrink, so that layer l adds its new directions times rank(a_l).
            ranks = np.maximum.accumulate([s.sensitivity_rank(num_samples, c) for s in sizes])
            added = np.diff(ranks, prepend=0)
            inputs = [s.input_rank(num_samples) for s in sizes]
            reached = sum(int(d) * min(inputs[: i + 1]) for i, d in enumerate(added))
        return min(1.0, reached / (num_samples * c))


@approximation
@dataclass(frozen=True)
class BlockDiagonal(GroupedApproximation):
    """One block a layer: ``K = sum_l Theta_l (Lambda Theta_l + rho)^-1``, alpha = L (MSE).

    Attributes
    ----------
    kind : TrueFisher, SampledFisher or EmpiricalFisher
    solver : {"auto", "cholesky", "cg"} or ConjugateGradients
        Of natural gradients; "auto" takes Cholesky where its matrices fit into ``memory_limit``.
    memory_limit : int
        Bytes.
    """

    name = "block-diagonal"
    by_layers = True
    requirements = ("distinct-inputs", "positive-definite-layer-kernels")
    kind: Kind = field(default=TrueFisher())
    solver: str | ConjugateGradients = "auto"
    memory_limit: int = MEMORY_LIMIT

    def groups(self, depth):
        """One a layer."""
        return [range(i, i + 1) for i in range(depth)]

    def damping_bias(self, lin, damping):
        """``rho max_l 1/lambda_min(Theta_l)``."""
        return damping / _smallest_layer_eigenvalue(lin)

    def layer_constants(self, sizes, num_samples):
        """1 a layer, or rank(J_l)/(NC) when the layer cannot reach every output."""
        c = sizes[-1].num_units
        return tuple(s.jacobian_rank(num_samples, c) / (num_samples * c) for s in sizes)


@approximation
@dataclass(frozen=True)
class BlockTridiagonal(DualApproximation):
    """Fisher blocks with ``abs(l - m) <= 1`` kept [KO]: alpha = ``1^T pinv(Sigma) 1`` (MSE).

    Sigma is singular for L = 3s + 2, where alpha = ceil(L/3) still at rho = 0, and indefinite for
    L >= 3, so that a damped system can be near singular: see `ngd_theory.theory.check_conditions`.

    Attributes
    ----------
    kind : TrueFisher, SampledFisher or EmpiricalFisher
    """

    name = "block-tridiagonal"
    requirements = (
        "distinct-inputs",
        "positive-definite-layer-kernels",
        "invertible-coupling",
        "well-conditioned-damped-system",
        "positive-damped-map",
    )
    kind: Kind = field(default=TrueFisher())

    def dual_weights(self, kernels, cotangents, damping, root):
        """One L*N*C solve: LU when damped (G is indefinite), eigh at rho = 0."""
        return coupled_solve(tridiagonal_coupling(len(kernels)), kernels, cotangents, damping, root)

    def workspace(self, sizes, num_samples, itemsize):
        """The kernels and their roots, and the coupled system with its factor."""
        depth, outputs = len(sizes), num_samples * sizes[-1].num_units
        return (3 * depth + 3 * depth**2) * outputs**2

    def damping_bias(self, lin, damping):
        """``rho |s|^2 / (alpha lambda_min)``, s = pinv(Sigma) 1: from ``K(0) - K(rho) ~ rho s^T D^-1 s``."""
        s = np.linalg.pinv(tridiagonal_coupling(len(lin.layers)), hermitian=True).sum(axis=1)
        return damping * float(s @ s / s.sum()) / _smallest_layer_eigenvalue(lin)

    def layer_constants(self, sizes, num_samples):
        """``(pinv(Sigma) 1)_l``, times rank(J_l)/(NC): exact where the layers reach the same outputs."""
        coupling = np.linalg.pinv(tridiagonal_coupling(len(sizes)), hermitian=True)
        reached = BlockDiagonal(self.kind).layer_constants(sizes, num_samples)
        return tuple(float(s) * r for s, r in zip(coupling.sum(axis=1), reached, strict=True))


def _smallest_layer_eigenvalue(lin: Linearization) -> float:
    return min(smallest_eigenvalue(layer_kernel(y) / lin.num_samples) for y in lin.layers)


def tridiagonal_coupling(depth: int) -> np.ndarray:
    """Sigma: the (L, L) matrix of ones on the three central diagonals."""
    index = np.arange(depth)
    return (np.abs(index[:, None] - index[None, :]) <= 1).astype(float)


def dual_solve(kernel, cotangents, damping: Damping, root=None):
    """``(Lambda Theta + rho)^-1 V``, or its limit as the natural gradient sees it (`coupled_solve`).

    With ``Lambda = I`` this is the symmetric solve of `solve_psd`.
    """
    if root is None:
        return solve_psd(kernel, cotangents, damping)
    return coupled_solve(np.ones((1, 1)), [kernel], cotangents, damping, root)[0]


@full_precision
def coupled_solve(coupling: np.ndarray, kernels, cotangents, damping: Damping, root=None):
    """``w`` with ``[(Sigma (x) Lambda) blockdiag(Theta_l) + rho] w = 1 (x) V``, a list over layers.

    With the symmetric roots ``U_l U_l = Theta_l`` the matrix ``X_lm = Sigma_lm U_l U_m`` has the non-zero
    spectrum of G, and ``w = pinv(U) (X + rho)^-1 U (1 (x) V)`` up to what ``J_l^T`` sends to zero: unlike the
    system above it stays accurate where a Theta_l or Sigma is singular. At rho = 0 ``pinv(X)`` gives the
    limit of the natural gradient, ``pinv(G) J^T V / N``. For a singular Sigma this is not
    ``(pinv(Sigma) 1)_l pinv(Theta_l) V``, which gives the same K on the training set but is no limit.

    With Lambda = R R^T and ``V = R Y + V'``, V' outside the range of R, ``w = R z + V'/rho`` where z solves
    the same system with kernels ``R^T Theta_l R`` and right-hand side ``1 (x) Y - Sigma R^T Theta V'/rho``:
    symmetric too. At rho = 0, ``w = R pinv(U) pinv(X) pinv(U) R^T Theta (1 (x) V)``.
    """
    depth = len(kernels)
    root = _at_most_square(root)
    # Python's numbers: numpy's would make float64 of float32.
    coupling = coupling.tolist()

    def reduced(invert, kernels, images):
        """``pinv(U) invert(X) pinv(U) images`` for symmetric roots U of the kernels."""
        roots, inverse_roots = zip(*[_symmetric_roots(k) for k in kernels], strict=True)
        blocks = [
            [c * u @ v for c, v in zip(row, roots, strict=True)]
            for row, u in zip(coupling, roots, strict=True)
        ]
        rhs = jnp.concatenate([u @ i for u, i in zip(inverse_roots, images, strict=True)])
        solution = jnp.split(invert(jnp.block(blocks), rhs), depth)
        return [u @ s for u, s in zip(inverse_roots, solution, strict=True)]

    def damped(rho, kernels, cotangents):
        """Weights for one right-hand side a layer."""
        if depth == 1:
            return [solve_psd(kernels[0], cotangents[0], Damping(rho, zero=False))]

        def solve(matrix, rhs):
            shift = rho.astype(matrix.dtype) * jnp.eye(matrix.shape[0], dtype=matrix.dtype)
            return jnp.linalg.solve(matrix + shift, rhs)

        return reduced(solve, kernels, [k @ v for k, v in zip(kernels, cotangents, strict=True)])

    def positive(rho, kernels, cotangents, root):
        if root is None:
            return damped(rho, kernels, [cotangents] * depth)
        inside, outside = _split_range(root, cotangents)
        outside = outside / rho.astype(outside.dtype)
        crossed = [_apply_transpose(root, k) for k in kernels]
        inner = [_apply_transpose(root, k.T) for k in crossed]
        spilled = [k @ outside for k in crossed]
        rhs = [inside - sum(c * s for c, s in zip(row, spilled, strict=True)) for row in coupling]
        return [_apply(root, z) + outside for z in damped(rho, inner, rhs)]

    def limit(kernels, cotangents, root):
        if root is None:
            return reduced(pinv_solve, kernels, [k @ cotangents for k in kernels])
        crossed = [_apply_transpose(root, k) for k in kernels]
        inner = [_apply_transpose(root, k.T) for k in crossed]
        images = [k @ cotangents for k in crossed]
        return [_apply(root, w) for w in reduced(pinv_solve, inner, images)]

    return damping.select(positive, limit, list(kernels), cotangents, root)


@full_precision
def _iterate(
    iteration: ConjugateGradients,
    layers: Sequence[LayerLinearization],
    cotangent: Float[Array, "N C"],
    rho: Float[Array, ""],
    root: Float[Array, "N C K"] | None,
) -> Solution:
    """``(Lambda Theta + rho) w = v`` for these layers' kernel, v split by the range of Lambda as in `coupled_solve`."""
    if root is None:
        return iteration.solve(layers, cotangent, rho)
    n, _, k = root.shape
    inside, outside = _split_range(root, cotangent.reshape(-1, 1))
    inside, outside = inside.reshape(n, k), outside.reshape(cotangent.shape) / rho
    curved = [
        replace(y, sensitivities=curvature_sensitivities(y.sensitivities, root)) for y in layers
    ]
    spilled = sum(c.jvp(y.vjp(outside)) for c, y in zip(curved, layers, strict=True)) / n
    solution = iteration.solve(curved, inside - spilled, rho)
    inner = _apply(root, solution.weights.reshape(-1, 1))
    return solution._replace(weights=inner[:, 0] + outside.ravel())


@full_precision
def _at_most_square(root: Float[Array, "N C K"] | None):
    """A root of the same Lambda with at most C columns: the systems below are of size N K."""
    if root is None or root.shape[2] <= root.shape[1]:
        return root
    squares = jnp.einsum("nck,ndk->ncd", root, root)
    size = batch_size(*squares.shape[1:], itemsize=root.itemsize)
    eigenvalues, vectors = map_items(jnp.linalg.eigh, squares, size)
    return vectors * jnp.sqrt(jnp.maximum(eigenvalues, 0))[:, None, :]


@full_precision
def _split_range(root: Float[Array, "N C K"], v: Float[Array, "NC k"]):
    """``Y = R^T pinv(R R^T) V`` and ``V' = V - R Y``; round-off in V' is zero.

    What the pseudo-inverse cuts off stays in V', so that the split is exact in any case.
    """
    n, c, k = root.shape
    samples = v.reshape(n, c, -1)
    squares = jnp.einsum("nck,ndk->ncd", root, root)
    size = batch_size(c, c + samples.shape[-1], itemsize=root.itemsize)
    solved = map_items(lambda pair: pinv_solve(*pair), (squares, samples), size)
    inside = jnp.einsum("nck,ncj->nkj", root, solved)
    outside = samples - jnp.einsum("nck,nkj->ncj", root, inside)
    floor = 10 * c * jnp.finfo(v.dtype).eps * jnp.max(jnp.abs(samples), axis=1, keepdims=True)
    outside = jnp.where(jnp.abs(outside) > floor, outside, 0)
    return inside.reshape(n * k, -1), outside.reshape(n * c, -1)


def _symmetric_roots(kernel):
    """Symmetric square root of a kernel and its pseudo-inverse."""
    eigenvalues, vectors = jnp.linalg.eigh(kernel)
    inverse = jnp.sqrt(jnp.maximum(inverse_spectrum(eigenvalues, kernel.shape[0]), 0))
    root = jnp.where(inverse > 0, jnp.sqrt(jnp.maximum(eigenvalues, 0)), 0)
    return (vectors * root) @ vectors.T, (vectors * inverse) @ vectors.T


def _apply(blocks: Float[Array, "N C K"], x: Float[Array, "NK k"]) -> Float[Array, "NC k"]:
    """Block-diagonal (over samples) matrix times x."""
    n, c, k = blocks.shape
    return jnp.einsum("nck,nkj->ncj", blocks, x.reshape(n, k, -1)).reshape(n * c, -1)


def _apply_transpose(
    blocks: Float[Array, "N C K"], x: Float[Array, "NC k"]
) -> Float[Array, "NK k"]:
    return _apply(jnp.swapaxes(blocks, 1, 2), x)

"""Function-space maps of a few samples at a large damping by dense algebra, to check where the damping enters.

Each reference follows the definition of its G (docs/theory.md, sections 3, 6 and 7). It uses the factors of the layers
and dense solves in NumPy, and no code of `ngd_theory.fisher`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ngd_theory import losses, networks

#: Rows of the small map, which has at least one sample. There is no map with more than `MOST_ROWS`.
ROWS, MOST_ROWS = 8, 64


@dataclass(frozen=True)
class DampedMap:
    """K of a few samples. The damping is the mean eigenvalue of the matrices that the approximation inverts.

    Attributes
    ----------
    problem : Problem
        Input of the reference.
    measured : (nC, nC) array
        K as the approximation computes it.
    reference : (nC, nC) array
        K by dense algebra.
    """

    problem: "Problem"
    measured: np.ndarray
    reference: np.ndarray

    @property
    def error(self) -> float:
        """``||measured - reference|| / ||reference||``."""
        return float(
            np.linalg.norm(self.measured - self.reference) / np.linalg.norm(self.reference)
        )


@dataclass(frozen=True)
class Problem:
    """Layers' factors of n samples, as NumPy arrays.

    Attributes
    ----------
    inputs, sensitivities : sequence of (n, T, P) and of (n, C, T, M) arrays
    fisher : (nC, nC) array or None
        Lambda; None is I.
    damping : float
    biases : sequence of bool
        Whether the last input of a layer belongs to a bias.
    sharing : {"expand", "reduce"}
        How K-FAC treats positions that share a weight: as separate rows, or by the mean of their inputs and the sum of
        their sensitivities.
    """

    inputs: Sequence[np.ndarray]
    sensitivities: Sequence[np.ndarray]
    fisher: np.ndarray | None
    damping: float
    sharing: str = "expand"
    biases: Sequence[bool] = ()

    @property
    def size(self) -> tuple[int, int]:
        """The numbers n and nC."""
        n, c = self.sensitivities[0].shape[:2]
        return n, n * c

    @property
    def weights(self) -> np.ndarray:
        """Lambda, (nC, nC)."""
        return np.eye(self.size[1]) if self.fisher is None else self.fisher

    def unit_kernels(self, layer: int) -> np.ndarray:
        """``J_i J_i^T / n`` of every unit i, (M, nC, nC)."""
        n, rows = self.size
        a, delta = self.inputs[layer], self.sensitivities[layer]
        gram = np.einsum("ntp,msp->ntms", a, a, optimize=True)
        kernels = np.einsum("nctu,ntms,mdsu->uncmd", delta, gram, delta, optimize=True)
        return kernels.reshape(-1, rows, rows) / n

    def layer_kernels(self) -> list[np.ndarray]:
        """``J_l J_l^T / n``, (nC, nC) each."""
        return [self.unit_kernels(layer).sum(0) for layer in range(len(self.inputs))]

    def damped(self, kernel: np.ndarray) -> np.ndarray:
        """``J (J^T Lambda J / n + rho)^-1 J^T / n`` from ``J J^T / n``."""
        seen = kernel if self.fisher is None else kernel @ self.fisher
        return np.linalg.solve(seen + self.damping * np.eye(kernel.shape[-1]), kernel)


def _exact(problem: Problem) -> np.ndarray:
    return problem.damped(np.sum(problem.layer_kernels(), axis=0))


def _block_diagonal(problem: Problem) -> np.ndarray:
    return np.sum([problem.damped(kernel) for kernel in problem.layer_kernels()], axis=0)


def neighbours(left: int, right: int) -> bool:
    """Whether two layers are coupled in block-tridiagonal G."""
    return abs(left - right) <= 1


def block_tridiagonal(problem: Problem, coupled: Callable[[int, int], bool] = neighbours):
    """K in coordinates of each layer's row space: ``J_l = Z_l Q_l``, ``Z_l Z_l^T = J_l J_l^T``."""
    _, rows = problem.size
    roots = []
    for kernel in problem.layer_kernels():
        values, vectors = np.linalg.eigh(kernel)
        roots.append(vectors * np.sqrt(np.maximum(values, 0)))
    blocks = [
        [a.T @ problem.weights @ b * coupled(i, j) for j, b in enumerate(roots)]
        for i, a in enumerate(roots)
    ]
    whole = np.block(blocks) + problem.damping * np.eye(len(roots) * rows)
    z = np.concatenate(roots, axis=1)
    return z @ np.linalg.solve(whole, z.T)


def _unit_wise(problem: Problem) -> np.ndarray:
    layers = range(len(problem.inputs))
    return np.sum([problem.damped(problem.unit_kernels(layer)).sum(0) for layer in layers], axis=0)


def _span(rows: np.ndarray) -> np.ndarray:
    """Rows (..., P) in an orthonormal basis of their span, (..., k). Outside it a factor is only its damping."""
    triangle: Any = np.linalg.qr(rows.reshape(-1, rows.shape[-1]).T, mode="r")
    return triangle.T.reshape(*rows.shape[:-1], -1)


def _ratio(ratio: float) -> float:
    """``pi`` of ``pi^2 = (tr A / dim A)/(tr B / dim B)``."""
    return ratio**0.5


def _factor_dampings(problem: Problem, layer: int, moments, pi) -> tuple[float, float]:
    """``pi sqrt(rho)`` and ``sqrt(rho)/pi`` of a layer's A and B. The dimensions are those of the whole factors."""
    sizes = problem.inputs[layer].shape[-1], problem.sensitivities[layer].shape[-1]
    mean_a, mean_b = (np.trace(m) / size for m, size in zip(moments, sizes, strict=True))
    split, root = pi(mean_a / mean_b), problem.damping**0.5
    return split * root, root / split


def kfac(problem: Problem, pi: Callable[[float], float] = _ratio):
    """K of K-FAC, with the factors ``A + pi sqrt(rho)`` and ``B + sqrt(rho)/pi``.

    A sums ``a a^T`` over positions, B averages ``delta^T Lambda delta`` over positions; both are averaged over samples.
    With ``sharing`` "reduce" there is one position, with the mean of a and the sum of delta.
    """
    n, rows = problem.size
    total = np.zeros((rows, rows))
    for layer, (a, delta) in enumerate(zip(problem.inputs, problem.sensitivities, strict=True)):
        x = _span(a)
        y = _span(delta).reshape(rows, delta.shape[2], -1)
        seen_x, seen_y = x, y
        if problem.sharing == "reduce":
            seen_x, seen_y = x.mean(1, keepdims=True), y.sum(1, keepdims=True)
        at_positions = [
            seen_y[:, t].T @ problem.weights @ seen_y[:, t] for t in range(seen_y.shape[1])
        ]
        moments = np.einsum("ntp,ntq->pq", seen_x, seen_x) / n, np.mean(at_positions, axis=0) / n
        dampings = _factor_dampings(problem, layer, moments, pi)
        left, right = (
            z @ np.linalg.solve(m + s * np.eye(len(m)), z.T)
            for z, m, s in zip(
                (x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])),
                moments,
                dampings,
                strict=True,
            )
        )
        # (n, T, n, T) of the inputs and (n, C, T, n, C, T) of the sensitivities.
        t, c = x.shape[1], rows // n
        left, right = left.reshape(n, t, n, t), right.reshape(n, c, t, n, c, t)
        total += np.einsum("ntms,nctmds->ncmd", left, right).reshape(rows, rows) / n
    return total


def kfac_tridiagonal(problem: Problem, pi: Callable[[float], float] = _ratio):
    """``Xi^T diag(S^-1) Xi``, ``Psi_i = F_{i,i+1} F_{i+1,i+1}^-1``, ``S_i = F_ii - Psi_i F_{i+1,i+1} Psi_i^T``.

    Xi is unit upper block-bidiagonal, with blocks ``-Psi_i``. The blocks of F are ``A_ij (x) B_ij`` in bases of each
    layer's rows. Those on the diagonal are damped as in `kfac`.
    """
    n, rows = problem.size
    x = [_span(a[:, 0]) for a in problem.inputs]
    y = [_span(delta[:, :, 0]).reshape(rows, -1) for delta in problem.sensitivities]

    def factors(i, j):
        return x[i].T @ x[j] / n, y[i].T @ problem.weights @ y[j] / n

    def own(i):
        moments = factors(i, i)
        dampings = _factor_dampings(problem, i, moments, pi)
        return np.kron(*(m + s * np.eye(len(m)) for m, s in zip(moments, dampings, strict=True)))

    # J_i^T in these bases, with one column for each sample and output.
    columns = [
        np.einsum("np,ncq->pqnc", a, b.reshape(n, rows // n, -1)) for a, b in zip(x, y, strict=True)
    ]
    columns = [j.reshape(-1, rows) for j in columns]
    total = np.zeros((rows, rows))
    for i, column in enumerate(columns):
        block, rest = own(i), column
        if i + 1 < len(columns):
            after = own(i + 1)
            psi = np.kron(*factors(i, i + 1)) @ np.linalg.inv(after)
            block, rest = block - psi @ after @ psi.T, column - psi @ columns[i + 1]
        total += rest.T @ np.linalg.solve(block, rest) / n
    return total


def entry_wise(problem: Problem, moment: Callable[[np.ndarray], np.ndarray] = np.square):
    """``(1/n) J diag(1/(h + rho)) J^T``, h the mean of the squared entries; a few units at a time."""
    n, rows = problem.size
    total = np.zeros((rows, rows))
    for a, delta in zip(problem.inputs, problem.sensitivities, strict=True):
        for some in np.array_split(delta, max(1, delta.shape[-1] // 128), axis=-1):
            j = np.einsum("nctu,ntp->ncup", some, a, optimize=True).reshape(rows, -1)
            total += (j / (moment(j).sum(0) / n + problem.damping)) @ j.T / n
    return total


def quasi_diagonal(problem: Problem):
    """``(1/n) J (diag(e) + u u^T)^-1 J^T`` of each unit, where the row of the bias in its block gives ``u u^T``."""
    n, rows = problem.size
    total = np.zeros((rows, rows))
    layers = zip(problem.inputs, problem.sensitivities, problem.biases, strict=True)
    for a, delta, has_bias in layers:
        for some in np.array_split(delta, max(1, delta.shape[-1] // 128), axis=-1):
            j = np.einsum("nctu,ntp->ncup", some, a, optimize=True).reshape(rows, -1, a.shape[-1])
            row = np.einsum("rup,ru->up", j, j[:, :, -1]) / n * has_bias
            corner = row[:, -1:]
            u = row / np.sqrt(np.where(corner > 0, corner, 1))
            e = (j**2).sum(0) / n - u**2 + problem.damping
            seen = np.einsum("rup,up->ru", j, u / e)
            left = seen / (1 + np.sum(u**2 / e, axis=1))
            scaled = (j / e).reshape(rows, -1)
            total += (scaled @ j.reshape(rows, -1).T - left @ seen.T) / n
    return total


def _by_layers(problem: Problem, layer: Callable[[np.ndarray, np.ndarray], np.ndarray]):
    """``sum_l J_l G_l^-1 J_l^T / n`` of dense layers: ``layer`` maps rows a (n, p) and delta (nC, m) to a term."""
    n, rows = problem.size
    total = np.zeros((rows, rows))
    for a, delta in zip(problem.inputs, problem.sensitivities, strict=True):
        total += layer(_span(a[:, 0]), _span(delta[:, :, 0].reshape(rows, -1))) / n
    return total


def _each_output(samples: np.ndarray, rows: int) -> np.ndarray:
    """Repeat the row of each sample once for each output."""
    return np.repeat(samples, rows // len(samples), axis=0)


def kfac_input(problem: Problem):
    """``(A + rho) (x) I``."""

    def layer(a, delta):
        h = a @ np.linalg.inv(a.T @ a / len(a) + problem.damping * np.eye(a.shape[1])) @ a.T
        return _each_output(_each_output(h, len(delta)).T, len(delta)) * (delta @ delta.T)

    return _by_layers(problem, layer)


def kfac_output(problem: Problem):
    """``I (x) (B + rho)``."""

    def layer(a, delta):
        damped = delta.T @ delta / len(a) + problem.damping * np.eye(delta.shape[1])
        whole = delta @ np.linalg.inv(damped) @ delta.T
        return _each_output(_each_output(a @ a.T, len(delta)).T, len(delta)) * whole

    return _by_layers(problem, layer)


def ekfac(problem: Problem, moment: Callable[[np.ndarray], np.ndarray] = np.square):
    """``V diag(s + rho) V^T``: V the eigenvectors of A and B, s the mean squares of the Jacobian's rows in them."""

    def layer(a, delta):
        bases = [np.linalg.eigh(x.T @ x)[1] for x in (a, delta)]
        a, delta = a @ bases[0], delta @ bases[1]
        j = _each_output(a, len(delta))[:, :, None] * delta[:, None]
        j = j.reshape(len(delta), -1)
        return (j / (moment(j).sum(0) / len(a) + problem.damping)) @ j.T

    return _by_layers(problem, layer)


def shampoo(problem: Problem, power: float = 0.5):
    """``(A + rho)^p (x) (B + rho)^p`` of the second moments of the Jacobian's rows as matrices."""

    def layer(a, delta):
        n, here = len(a), []
        of_a = (delta**2).sum(1).reshape(n, -1).sum(1)
        of_delta = _each_output((a**2).sum(1), len(delta))
        for x, weights in ((a, of_a), (delta, of_delta)):
            values, vectors = np.linalg.eigh((x.T * weights) @ x / n)
            powers = (np.maximum(values, 0) + problem.damping) ** -power
            here.append(x @ (vectors * powers) @ vectors.T @ x.T)
        return _each_output(_each_output(here[0], len(delta)).T, len(delta)) * here[1]

    return _by_layers(problem, layer)


@dataclass(frozen=True)
class Reference:
    """Dense algebra of one approximation.

    Attributes
    ----------
    map : ``Problem -> (nC, nC) array``
        K.
    systems : ``Problem -> int``
        Number of eigenvalues of all matrices that it inverts. Their sum is the trace of all layers' kernels.
    any_fisher : bool
        Whether ``map`` supports a Lambda other than I.
    any_positions : bool
        Whether ``map`` supports layers with several positions.
    """

    map: Callable[..., Any]
    systems: Callable[[Problem], int]
    any_fisher: bool = True
    any_positions: bool = True


def _layers(problem: Problem) -> int:
    return len(problem.inputs) * problem.size[1]


def _units(problem: Problem) -> int:
    return sum(delta.shape[-1] for delta in problem.sensitivities) * problem.size[1]


def _entries(problem: Problem) -> int:
    pairs = zip(problem.inputs, problem.sensitivities, strict=True)
    return sum(a.shape[-1] * delta.shape[-1] for a, delta in pairs)


#: By the name of the approximation.
REFERENCES: dict[str, Reference] = {
    "identity": Reference(lambda problem: np.sum(problem.layer_kernels(), axis=0), _layers),
    "exact": Reference(_exact, _layers),
    "block-diagonal": Reference(_block_diagonal, _layers),
    "block-tridiagonal": Reference(block_tridiagonal, _layers),
    "unit-wise": Reference(_unit_wise, _units, any_fisher=False),
    "kfac": Reference(kfac, _layers),
    "kfac-tridiagonal": Reference(kfac_tridiagonal, _layers),
    "entry-wise": Reference(entry_wise, _entries, any_fisher=False),
    "quasi-diagonal": Reference(quasi_diagonal, _entries, any_fisher=False),
    **{
        name: Reference(map, _layers, any_fisher=False, any_positions=False)
        for name, map in (
            ("kfac-input", kfac_input),
            ("kfac-output", kfac_output),
            ("ekfac", ekfac),
            ("shampoo", shampoo),
        )
    },
}


def no_reference(name: str, network: networks.Network, loss: str) -> str | None:
    """Why there is no damped map to compare with, and what to do; None if there is one."""
    found = REFERENCES.get(name)
    if found is None:
        return (
            f"{name} has no dense reference: add one to ngd_theory.experiment.damped.REFERENCES "
            "(docs/how-to/new_approximation.md)"
        )
    if not (losses.by_name(loss).unit_fisher or found.any_fisher):
        return f"the dense reference of {name} is that of the MSE loss"
    if not (found.any_positions or max(network.positions) == 1):
        return f"the dense reference of {name} is that of layers with one position"
    if (output_dim := network.output_dim) > MOST_ROWS:
        return (
            f"one sample has {output_dim} outputs, and dense algebra takes at most {MOST_ROWS} rows"
        )
    return None


def damped_map(approximation, network, params, x, y, loss: str) -> DampedMap | None:
    """Both maps on the first samples of ``x`` and ``y``; None if `no_reference` gives a reason."""
    if no_reference(approximation.name, network, loss) is not None:
        return None
    reference, few = REFERENCES[approximation.name], max(1, ROWS // network.output_dim)
    x, y = (jnp.asarray(np.asarray(a)[:few]) for a in (x, y))
    lin = networks.linearize(network, params, x)
    inputs = [np.asarray(layer.inputs, float) for layer in lin.layers]
    sensitivities = [np.asarray(layer.sensitivities, float) for layer in lin.layers]
    sharing = getattr(approximation, "sharing", "expand")
    fisher = _hessian(loss, lin.outputs, y)
    biases = [getattr(layer.layout, "has_bias", False) for layer in lin.layers]
    problem = Problem(inputs, sensitivities, fisher, 1.0, sharing, biases)
    trace = float(np.sum([np.trace(k) for k in problem.layer_kernels()]))
    problem = replace(problem, damping=trace / reference.systems(problem))
    measured = np.asarray(approximation.function_space_map(lin, problem.damping), float)
    return DampedMap(problem, measured, reference.map(problem))


def _hessian(loss: str, outputs, targets) -> np.ndarray | None:
    """Lambda: N times the second derivative of the loss in all outputs; None for MSE, where it is I."""
    objective = losses.by_name(loss)
    if objective.unit_fisher:
        return None
    second = jax.hessian(lambda f: len(f) * objective.value(f, targets))(outputs)
    return np.asarray(second, float).reshape(outputs.size, outputs.size)

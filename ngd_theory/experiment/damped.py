"""Function-space maps at a large damping, on a few samples, by dense algebra: a second opinion on where damping enters.

Each reference is written from the definition of its G (docs/theory.md, section 3), with Gram matrices of the layers'
factors and dense solves in NumPy; nothing of `ngd_theory.fisher` is in it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from ngd_theory import losses, networks

#: Rows of the small map, of one sample at least; with more than `MOST_ROWS` there is none.
ROWS, MOST_ROWS = 8, 64


@dataclass(frozen=True)
class DampedMap:
    """K of a few samples, damped by the mean eigenvalue of a layer's kernel.

    Attributes
    ----------
    problem : Problem
        What the reference is made of.
    measured : (nC, nC) array
        By the approximation.
    reference : (nC, nC) array
        By dense algebra.
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
    """

    inputs: Sequence[np.ndarray]
    sensitivities: Sequence[np.ndarray]
    fisher: np.ndarray | None
    damping: float

    @property
    def size(self) -> tuple[int, int]:
        """The numbers n and nC."""
        n, c = self.sensitivities[0].shape[:2]
        return n, n * c

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
    """In coordinates of each layer's row space: ``J_l = Z_l Q_l``, ``Z_l Z_l^T = J_l J_l^T``."""
    _, rows = problem.size
    roots = []
    for kernel in problem.layer_kernels():
        values, vectors = np.linalg.eigh(kernel)
        roots.append(vectors * np.sqrt(np.maximum(values, 0)))
    fisher = np.eye(rows) if problem.fisher is None else problem.fisher
    blocks = [
        [a.T @ fisher @ b * coupled(i, j) for j, b in enumerate(roots)] for i, a in enumerate(roots)
    ]
    whole = np.block(blocks) + problem.damping * np.eye(len(roots) * rows)
    z = np.concatenate(roots, axis=1)
    return z @ np.linalg.solve(whole, z.T)


def _unit_wise(problem: Problem) -> np.ndarray:
    layers = range(len(problem.inputs))
    return np.sum([problem.damped(problem.unit_kernels(layer)).sum(0) for layer in layers], axis=0)


def kfac(problem: Problem, pi: Callable[[float], float] = lambda ratio: ratio**0.5):
    """``A + pi sqrt(rho)``, ``B + sqrt(rho)/pi``, ``pi^2 = (tr A / dim A)/(tr B / dim B)``; dense layers."""
    n, rows = problem.size
    root, total = problem.damping**0.5, np.zeros((rows, rows))
    for a, delta in zip(problem.inputs, problem.sensitivities, strict=True):
        a, delta = a[:, 0], delta[:, :, 0].reshape(rows, -1)
        mean_a, mean_b = (np.sum(x**2) / n / x.shape[1] for x in (a, delta))
        split = pi(mean_a / mean_b)
        # x (x^T x/n + s)^-1 x^T = n H (H + s)^-1 with H = x x^T/n.
        whitened = [
            x @ x.T @ np.linalg.inv(x @ x.T / n + s * np.eye(len(x)))
            for x, s in ((a, split * root), (delta, root / split))
        ]
        total += np.repeat(np.repeat(whitened[0], rows // n, 0), rows // n, 1) * whitened[1] / n
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


def _coordinates(rows: np.ndarray) -> np.ndarray:
    """Rows in an orthonormal basis of their span."""
    return rows @ np.linalg.qr(rows.T)[0]


def _by_layers(problem: Problem, layer: Callable[[np.ndarray, np.ndarray], np.ndarray]):
    """``sum_l J_l G_l^-1 J_l^T / n`` of dense layers: ``layer`` maps rows a (n, p) and delta (nC, m) to a term."""
    n, rows = problem.size
    total = np.zeros((rows, rows))
    for a, delta in zip(problem.inputs, problem.sensitivities, strict=True):
        total += layer(_coordinates(a[:, 0]), _coordinates(delta[:, :, 0].reshape(rows, -1))) / n
    return total


def _each_output(samples: np.ndarray, rows: int) -> np.ndarray:
    """A row a sample, once for each of its outputs."""
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


def _is_dense(problem: Problem) -> bool:
    return all(a.shape[1] == 1 for a in problem.inputs)


#: By name: the map, and whether it is defined for a problem.
REFERENCES: dict[str, tuple[Callable[[Problem], Any], Callable[[Problem], bool]]] = {
    "identity": (lambda problem: np.sum(problem.layer_kernels(), axis=0), lambda problem: True),
    "exact": (_exact, lambda problem: True),
    "block-diagonal": (_block_diagonal, lambda problem: True),
    "block-tridiagonal": (block_tridiagonal, lambda problem: True),
    "unit-wise": (_unit_wise, lambda problem: problem.fisher is None),
    "kfac": (kfac, lambda problem: problem.fisher is None and _is_dense(problem)),
    "entry-wise": (entry_wise, lambda problem: problem.fisher is None),
    **{
        name: (reference, lambda problem: problem.fisher is None and _is_dense(problem))
        for name, reference in (
            ("kfac-input", kfac_input),
            ("kfac-output", kfac_output),
            ("ekfac", ekfac),
            ("shampoo", shampoo),
        )
    },
}


def damped_map(approximation, network, params, x, y, loss: str) -> DampedMap | None:
    """Both maps on the first samples of ``x`` and ``y``; None for an approximation without a reference here."""
    few = max(1, ROWS // network.output_dim)
    if few * network.output_dim > MOST_ROWS:
        return None
    lin = networks.linearize(network, params, x[:few])
    inputs = [np.asarray(layer.inputs, float) for layer in lin.layers]
    sensitivities = [np.asarray(layer.sensitivities, float) for layer in lin.layers]
    problem = Problem(inputs, sensitivities, _hessian(loss, lin.outputs, y[:few]), 1.0)
    reference, defined = REFERENCES.get(approximation.name, (None, lambda problem: False))
    if reference is None or not defined(problem):
        return None
    mean = float(np.mean([np.trace(k) for k in problem.layer_kernels()])) / problem.size[1]
    problem = replace(problem, damping=mean)
    measured = np.asarray(approximation.function_space_map(lin, mean), float)
    return DampedMap(problem, measured, reference(problem))


def _hessian(loss: str, outputs, targets) -> np.ndarray | None:
    """Lambda as the second derivative of the loss by all outputs, times N; None for MSE's I."""
    objective = losses.by_name(loss)
    if objective.unit_fisher:
        return None
    second = jax.hessian(lambda f: len(f) * objective.value(f, targets))(outputs)
    return np.asarray(second, float).reshape(outputs.size, outputs.size)

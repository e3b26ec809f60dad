"""A dense, slow float64 reference for every Fisher approximation, written apart from the package.

Jacobians are autodiff's (`jax.jacrev` of ``network.apply``), layer inputs and sensitivities come from
the textbook forward and backward pass below in NumPy, the Fisher is a (P, P) matrix, an approximation
is a mask of its blocks or a `np.kron`, and a natural gradient is one dense solve. Nothing here reads
``Linearization.layers``.

A layer's parameters are one (M, P) matrix, ``[W^T, b]``: row i belongs to unit i, its vector is
row-major, so that K-FAC's block is ``np.kron(B, A)``.
"""

from dataclasses import dataclass
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special


def _normal_density(u):
    return np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi)


#: Activation -> (value, derivative).
ACTIVATIONS = {
    "relu": (lambda u: np.maximum(u, 0), lambda u: (u > 0).astype(float)),
    "tanh": (np.tanh, lambda u: 1 / np.cosh(u) ** 2),
    "erf": (special.erf, lambda u: 2 / np.sqrt(np.pi) * np.exp(-(u**2))),
    "gelu": (
        lambda u: u * special.ndtr(u),
        lambda u: special.ndtr(u) + u * _normal_density(u),
    ),
    "identity": (lambda u: u, np.ones_like),
}


def forward_backward(activation, weight_std, bias_std, params, x):
    """Outputs (N, C), scaled inputs [(N, P)] and sensitivities [(N, C, M)] of a perceptron."""
    value, derivative = ACTIVATIONS[activation]
    inputs, slopes, h = [], [], np.asarray(x)
    for layer in params:
        weight = np.asarray(layer["weight"])
        scaled = weight_std / np.sqrt(len(weight)) * h
        u = scaled @ weight
        if "bias" in layer:
            u = u + bias_std * np.asarray(layer["bias"])
            scaled = np.concatenate([scaled, np.full((len(h), 1), bias_std)], axis=1)
        inputs.append(scaled)
        slopes.append(derivative(u))
        h = value(u)
    n, c = u.shape
    delta = np.broadcast_to(np.eye(c), (n, c, c))
    sensitivities = [delta]
    for layer, slope in zip(params[:0:-1], slopes[-2::-1], strict=True):
        weight = np.asarray(layer["weight"])
        delta = (delta @ weight.T) * (weight_std / np.sqrt(len(weight))) * slope[:, None, :]
        sensitivities.insert(0, delta)
    return u, inputs, sensitivities


def layer_matrix(layer):
    """``[W^T, b]``: (M, P), one row a unit; of a convolution, its kernel row by row."""
    weight = layer["weight"].reshape(-1, layer["weight"].shape[-1])
    columns = [weight.T, *([layer["bias"][:, None]] if "bias" in layer else [])]
    return jnp.concatenate(columns, axis=1)


def from_layer_matrix(matrix, like):
    """The inverse of `layer_matrix`."""
    fan_in = np.prod(like["weight"].shape[:-1])
    weight = {"weight": matrix[:, :fan_in].T.reshape(like["weight"].shape)}
    return {**weight, "bias": matrix[:, -1]} if "bias" in like else weight


def flatten(params):
    """Parameters, or a gradient, as one vector."""
    return np.concatenate([np.asarray(layer_matrix(layer)).ravel() for layer in params])


def unflatten(vector, like):
    """The inverse of `flatten`."""
    layers, start, vector = [], 0, jnp.asarray(vector)
    for layer in like:
        shape = layer_matrix(layer).shape
        stop = start + shape[0] * shape[1]
        layers.append(from_layer_matrix(vector[start:stop].reshape(shape), layer))
        start = stop
    return tuple(layers)


def layer_jacobians(network, params, x):
    """``J_l`` of every layer, (N*C, M*P), by reverse-mode autodiff of ``network.apply``."""

    def apply(matrices):
        pairs = zip(matrices, params, strict=True)
        return network.apply(tuple(from_layer_matrix(m, like) for m, like in pairs), x)

    jacobians = jax.jit(jax.jacrev(apply))([layer_matrix(layer) for layer in params])
    return [np.asarray(j).reshape(j.shape[0] * j.shape[1], -1) for j in jacobians]


def pseudo_inverse(matrix):
    """pinv of a symmetric matrix, which must have a clear gap between zero and the rest."""
    eigenvalues, vectors = np.linalg.eigh(matrix)
    size = np.abs(eigenvalues) / max(np.abs(eigenvalues).max(), 1e-300)
    zero = size < 1e-13
    assert not np.any(~zero & (size < 1e-8)), (
        "ill-posed case: an eigenvalue is neither zero nor not"
    )
    inverse = np.where(zero, 0, 1 / np.where(zero, 1, eigenvalues))
    return (vectors * inverse) @ vectors.T


def inverse_if_sound(wide):
    """The inverse of a block whose entries have unlike sizes, none of which is another; else `pseudo_inverse`."""
    sizes = np.sqrt(np.diag(wide).astype(float))
    if np.all(sizes > 0):
        scaled = wide.astype(float) / np.outer(sizes, sizes)
        if np.linalg.eigvalsh(scaled).min() > 1e-6:
            return accurate_solve(scaled, np.eye(len(wide))) / np.outer(sizes, sizes)
    return pseudo_inverse(wide.astype(float))


def accurate_solve(wide, rhs):
    """``np.linalg.solve`` with a matrix in extended precision, by iterative refinement."""
    inverse = np.linalg.inv(wide.astype(float))
    solution = (inverse @ rhs).astype(np.longdouble)
    for _ in range(4):
        residual = (rhs - wide @ solution).astype(float)
        solution = solution + inverse @ residual
    return solution.astype(float)


def accurate_inverse(wide, rhs):
    """``wide^-1 rhs`` for a positive definite matrix, by Gauss-Jordan in extended precision."""
    size = len(wide)
    system = np.concatenate([wide, np.asarray(rhs, np.longdouble)], axis=1).astype(np.longdouble)
    for pivot in range(size):
        system[pivot] /= system[pivot, pivot]
        others = np.arange(size) != pivot
        system[others] -= np.outer(system[others, pivot], system[pivot])
    return system[:, size:]


#: Approximations of `family_preconditioner`.
KRONECKER_FAMILY = ("kfac-input", "kfac-output", "ekfac", "shampoo")


def powered(matrix, damping, power):
    """``(matrix + damping)^power`` of a symmetric matrix; at damping 0 on its range."""
    eigenvalues, vectors = np.linalg.eigh(matrix)
    if damping > 0:
        return (vectors * (np.maximum(eigenvalues, 0) + damping) ** power) @ vectors.T
    zero = eigenvalues < 1e-13 * max(eigenvalues.max(), 1e-300)
    inverse = np.where(zero, 0, np.where(zero, 1, eigenvalues) ** power)
    return (vectors * inverse) @ vectors.T


def softmax_fisher(outputs):
    """Lambda of cross-entropy: (N, C, C) blocks ``diag p - p p^T``."""
    p = special.softmax(outputs, axis=1)
    return np.stack([np.diag(row) - np.outer(row, row) for row in p])


@dataclass(frozen=True)
class DenseFisher:
    """Jacobians and output Fisher of a network at N samples, all dense.

    ``jacobian`` (N*C, P); ``layer`` and ``unit`` (P,) tell each parameter's layer and output unit;
    ``inputs`` [(N, P_l)] and ``sensitivities`` [(N, C, M_l)], or with positions [(N, T_l, P_l)] and
    [(N, C, T_l, M_l)]; ``output_fisher`` (N, C, C).
    """

    jacobian: np.ndarray
    layer: np.ndarray
    unit: np.ndarray
    inputs: list
    sensitivities: list
    output_fisher: np.ndarray

    @classmethod
    def of(cls, network, activation, weight_std, bias_std, params, x):
        """Of a perceptron, at the parameters and inputs given, with Lambda = I."""
        _, a, delta = forward_backward(activation, weight_std, bias_std, params, x)
        return cls.from_factors(network, params, x, a, delta)

    @classmethod
    def from_factors(cls, network, params, x, a, delta):
        """The same with the layer inputs and sensitivities given, with a positions axis or without."""
        jacobians = layer_jacobians(network, params, x)
        shapes = [layer_matrix(p).shape for p in params]
        layer = np.repeat(np.arange(len(shapes)), [m * p for m, p in shapes])
        units = np.cumsum([0] + [m for m, _ in shapes[:-1]])
        unit = np.concatenate(
            [u + np.repeat(np.arange(m), p) for u, (m, p) in zip(units, shapes, strict=True)]
        )
        n, c = delta[-1].shape[:2]
        lam = np.broadcast_to(np.eye(c), (n, c, c))
        return cls(np.concatenate(jacobians, axis=1), layer, unit, a, delta, lam)

    def rows(self, samples):
        """Rows of J of the samples in the slice ``samples``."""
        n, c, _ = self.output_fisher.shape
        return self.jacobian.reshape(n, c, -1)[samples].reshape(-1, len(self.layer))

    def take(self, samples):
        """The same at some of the samples: a slice or their numbers."""
        return type(self)(
            self.rows(samples),
            self.layer,
            self.unit,
            [a[samples] for a in self.inputs],
            [delta[samples] for delta in self.sensitivities],
            self.output_fisher[samples],
        )

    def first(self, n):
        """The same at the first ``n`` samples."""
        return self.take(slice(n))

    def with_output_fisher(self, output_fisher):
        """The same with another Lambda."""
        return type(self)(
            self.jacobian, self.layer, self.unit, self.inputs, self.sensitivities, output_fisher
        )

    @property
    def num_samples(self):
        return self.output_fisher.shape[0]

    @cached_property
    def fisher(self):
        """``J^T Lambda J / N``, in extended precision: damping divides its rounding by rho."""
        n, c, _ = self.output_fisher.shape
        wide = self.jacobian.astype(np.longdouble)
        scaled = self.output_fisher @ wide.reshape(n, c, -1)
        return wide.T @ scaled.reshape(n * c, -1) / n

    def block(self, index):
        """Columns of layer ``index`` (0-based)."""
        return np.flatnonzero(self.layer == index)

    def masked(self, name):
        """The Fisher with the blocks that the approximation ``name`` keeps."""
        if name == "quasi-diagonal":
            return self.quasi_diagonal()
        distance = np.abs(self.layer[:, None] - self.layer[None, :])
        kept = {
            "exact": distance >= 0,
            "block-diagonal": distance == 0,
            "block-tridiagonal": distance <= 1,
            "unit-wise": self.unit[:, None] == self.unit[None, :],
            "entry-wise": np.eye(len(self.layer), dtype=bool),
        }[name]
        return np.where(kept, self.fisher, 0)

    def quasi_diagonal(self):
        """Each unit's block with Ollivier's entries: the bias's row, the diagonal, products of the row elsewhere.

        The bias is the last parameter of its unit, where the layer's last input is a constant.
        """
        g = np.zeros_like(self.fisher)
        for unit in np.unique(self.unit):
            index = np.flatnonzero(self.unit == unit)
            block = self.fisher[np.ix_(index, index)]
            kept = np.diag(np.diag(block))
            constant = self.inputs[self.layer[index[0]]][..., -1]
            if np.ptp(constant) == 0 and block[-1, -1] > 0:
                kept = np.outer(block[-1], block[-1]) / block[-1, -1]
                np.fill_diagonal(kept, np.diag(block))
            g[np.ix_(index, index)] = kept
        return g

    def kronecker_factors(self, output_factor="fisher", sharing="expand"):
        """K-FAC's (A_l, B_l), sums over the samples and positions written out."""
        n = self.num_samples
        factors = []
        for index, (a, delta) in enumerate(zip(self.inputs, self.sensitivities, strict=True)):
            factor_a = np.zeros((a.shape[-1],) * 2)
            factor_b = np.zeros((delta.shape[-1],) * 2)
            for i in range(n):
                rows = np.atleast_2d(a[i])
                scores = delta[i].reshape(delta.shape[1], len(rows), -1).swapaxes(0, 1)
                if sharing == "reduce":
                    rows, scores = rows.mean(0)[None], scores.sum(0)[None]
                for row, score in zip(rows, scores, strict=True):
                    factor_a += np.outer(row, row) / n
                    factor_b += score.T @ self.output_fisher[i] @ score / (n * len(rows))
            if output_factor == "uniform" and index == len(self.inputs) - 1:
                factor_b = factor_b / n
            factors.append((factor_a, factor_b))
        return factors

    def preconditioner(
        self,
        name,
        damping,
        output_factor="fisher",
        damping_split="factored",
        sharing="expand",
        power=0.5,
    ):
        """``(G + damping I)^-1`` on the range of J^T, applied: a function of (P, k) columns."""
        if name == "identity":
            return lambda columns: columns
        if name in KRONECKER_FAMILY:
            return self.family_preconditioner(name, damping, power)
        if name == "kfac-tridiagonal":
            return self.tridiagonal_preconditioner(damping, damping_split)
        if name != "kfac":
            g = self.masked(name)
            if damping == 0:
                # Block by block where G is block-diagonal: what is zero depends on the block's scale.
                label = {
                    "block-diagonal": self.layer,
                    "unit-wise": self.unit,
                    "quasi-diagonal": self.unit,
                    "entry-wise": np.arange(len(self.layer)),
                }.get(name, np.zeros_like(self.layer))
                inverse = np.zeros(g.shape)
                for block in (np.ix_(label == i, label == i) for i in np.unique(label)):
                    inverse[block] = inverse_if_sound(g[block])
                return lambda columns: inverse @ columns
            return lambda columns: accurate_solve(g + damping * np.eye(len(g)), columns)
        blocks = []
        for a, b in self.kronecker_factors(output_factor, sharing):
            if damping == 0:
                blocks.append(np.kron(pseudo_inverse(b), pseudo_inverse(a)))
                continue
            mean_a, mean_b = np.trace(a) / len(a), np.trace(b) / len(b)
            factored = damping_split == "factored" and mean_a > 0 and mean_b > 0
            pi = np.sqrt(mean_a / mean_b) if factored else 1.0
            a = a + pi * np.sqrt(damping) * np.eye(len(a))
            b = b + np.sqrt(damping) / pi * np.eye(len(b))
            blocks.append(
                np.kron(accurate_solve(b, np.eye(len(b))), accurate_solve(a, np.eye(len(a))))
            )

        def apply(columns):
            parts = [block @ columns[self.block(i)] for i, block in enumerate(blocks)]
            return np.concatenate(parts)

        return apply

    def kronecker_block(self, i, j):
        """F-tilde of layers i and j: the Kronecker product of averaged outer products."""
        n = self.num_samples
        first, second = (self.inputs[k].astype(np.longdouble) for k in (i, j))
        a = sum(np.outer(first[s], second[s]) for s in range(n)) / n
        left, right = (self.sensitivities[k].astype(np.longdouble) for k in (i, j))
        b = sum(left[s].T @ self.output_fisher[s] @ right[s] for s in range(n)) / n
        return a, b

    def tridiagonal_preconditioner(self, damping, damping_split="factored"):
        """F-hat's inverse from dense blocks, in extended precision: Psi_i, S_i and Xi as matrices."""
        depth, wide = len(self.inputs), np.longdouble
        diagonal = []
        for i in range(depth):
            a, b = self.kronecker_block(i, i)
            mean_a, mean_b = (np.trace(m) / len(m) or 1.0 for m in (a, b))
            # What is called the limit: the damping that float64 resolves.
            root = max(damping, np.finfo(float).eps ** (7 / 8) * mean_a * mean_b) ** 0.5
            pi = (mean_a / mean_b) ** 0.5 if damping_split == "factored" else 1.0
            a, b = a + pi * root * np.eye(len(a)), b + root / pi * np.eye(len(b))
            diagonal.append(np.kron(b.astype(wide), a.astype(wide)))
        size = len(self.layer)
        xi, inverse = np.eye(size, dtype=wide), np.zeros((size, size), wide)
        for i in range(depth):
            remainder = diagonal[i]
            if i < depth - 1:
                a, b = self.kronecker_block(i, i + 1)
                across = np.kron(b.astype(wide), a.astype(wide))
                psi = accurate_inverse(diagonal[i + 1], across.T).T
                xi[np.ix_(self.block(i), self.block(i + 1))] = -psi
                remainder = remainder - psi @ across.T
            here = np.ix_(self.block(i), self.block(i))
            inverse[here] = accurate_inverse(remainder, np.eye(len(remainder)))
        return lambda columns: (xi.T @ (inverse @ (xi @ columns))).astype(float)

    def sample_gradients(self, index):
        """``R_n^T J_l`` of every sample as (M, P) matrices, Lambda_n = R_n R_n^T: (N, C, M, P)."""
        n, c, _ = self.output_fisher.shape
        m, p = self.sensitivities[index].shape[-1], self.inputs[index].shape[-1]
        rows = self.jacobian[:, self.block(index)].reshape(n, c, m * p)
        values, vectors = np.linalg.eigh(self.output_fisher)
        roots = vectors * np.sqrt(np.maximum(values, 0))[:, None, :]
        return np.einsum("nck,ncj->nkj", roots, rows).reshape(n, c, m, p)

    def family_preconditioner(self, name, damping, power=0.5):
        """G of each layer as a matrix of its parameters, inverted: damped as the definition says."""
        wide, blocks = np.longdouble, []
        for index, (a, b) in enumerate(self.kronecker_factors()):
            if name == "kfac-input":
                b = np.eye(len(b))
            if name == "kfac-output":
                a = np.eye(len(a))
            if name == "shampoo":
                g = self.sample_gradients(index)
                n = self.num_samples
                b = np.einsum("nkmp,nkqp->mq", g, g) / n
                a = np.einsum("nkmp,nkmq->pq", g, g) / n
                powers = [powered(x, damping, -power) for x in (b, a)]
                blocks.append(partial(np.matmul, np.kron(*powers)))
                continue
            if name == "ekfac":
                fisher = self.fisher[np.ix_(self.block(index), self.block(index))].astype(float)
                basis = np.kron(np.linalg.eigh(b)[1], np.linalg.eigh(a)[1])
                moments = np.einsum("ik,ij,jk->k", basis, fisher, basis, optimize=True)
                if damping == 0:
                    zero = moments <= 1e-13 * moments.max()
                    inverse = np.where(zero, 0, 1 / np.where(zero, 1, moments))
                else:
                    inverse = 1 / (moments + damping)
                blocks.append(partial(np.matmul, (basis * inverse) @ basis.T))
                continue
            g = np.kron(b, a)
            if damping == 0:
                blocks.append(partial(np.matmul, pseudo_inverse(g)))
            else:
                # Not by the inverse, whose entries are of order 1/damping.
                shifted = g.astype(wide) + damping * np.eye(len(g), dtype=wide)
                blocks.append(partial(accurate_solve, shifted))
        return lambda columns: np.concatenate(
            [solve(columns[self.block(index)]) for index, solve in enumerate(blocks)]
        )

    def solution(self, name, damping, **options):
        """``(G + damping I)^-1 J^T / N``: (P, N*C)."""
        return self.preconditioner(name, damping, **options)(self.jacobian.T) / self.num_samples

    def natural_gradient(self, name, damping, cotangent, **options):
        """``(G + damping I)^-1 J^T cotangent / N``: (P,).

        Not by `solution`, whose columns are of order 1/damping where they leave the range of G.
        """
        gradient = self.jacobian.T @ np.asarray(cotangent).ravel()
        return self.preconditioner(name, damping, **options)(gradient) / self.num_samples

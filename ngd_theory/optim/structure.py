"""The structure of a trained classifier's Fisher and of K-FAC's approximations of it.

The study of Martens & Grosse (2015), figures 2, 3, 5 and 6: how near F-tilde is to the exact Fisher, that
F-tilde^-1 is nearly block-tridiagonal while F-tilde is not, and how near F-breve and F-hat and their inverses are
to F-tilde and F-tilde^-1 (docs/theory.md section 6).
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from scipy.linalg import get_lapack_funcs

from ngd_theory import data, losses
from ngd_theory.errors import InputError, choose
from ngd_theory.fisher.factored_damping import factored_damping
from ngd_theory.fisher.kinds import curvature_sensitivities
from ngd_theory.fisher.kronecker import (
    FactorDamping,
    KroneckerFisher,
    TridiagonalInverse,
    invert_diagonal,
    invert_tridiagonal,
    kronecker_fisher,
)
from ngd_theory.networks import LayerLinearization, Network, activations, linearize, sparse_init
from ngd_theory.networks.layers import Dense
from ngd_theory.networks.network import Block
from ngd_theory.optim.kfac import kfac

#: Inputs, hidden units and classes of the paper's example network.
WIDTHS = (256, 20, 20, 20, 20, 20, 10)
#: gamma of `structure_rows` and the figures: gamma^2 is the smallest that a diagonal block's entries grow by.
GAMMA = 0.1
#: Share of the loss of guessing where training stops: about one row in twenty is wrong there, as in the paper.
UNTIL = 0.1

#: Matrix -> what it approximates.
REFERENCES = {
    "kronecker": "exact",
    "kronecker-inverse": "exact-inverse",
    "block-diagonal": "kronecker-damped",
    "block-tridiagonal": "kronecker-damped",
    "block-diagonal-inverse": "kronecker-inverse",
    "block-tridiagonal-inverse": "kronecker-inverse",
}
MATRICES = (
    *("exact", "kronecker", "kronecker-damped", "block-diagonal", "block-tridiagonal"),
    *("exact-inverse", "kronecker-inverse"),
    *("block-diagonal-inverse", "block-tridiagonal-inverse"),
)


def small_digits_network(widths: Sequence[int] = WIDTHS) -> Network:
    """Build the paper's 256-20-20-20-20-20-10 tanh classifier, ``u = W h + b`` in every layer.

    Its outputs are logits. `sparse_init` draws parameters that fit.

    Parameters
    ----------
    widths : sequence of int
        Inputs, hidden units and outputs.

    Examples
    --------
    >>> sum(size.num_inputs * size.num_units for size in small_digits_network().layer_sizes)
    7030
    """
    if len(widths) < 2 or not all(int(width) == width and width >= 1 for width in widths):
        raise InputError(f"widths are {widths}; two or more whole numbers of at least 1 are needed")
    phi = activations.by_name("tanh")
    blocks = [
        Block(
            Dense(int(p), int(m), weight_std=p**0.5, bias_std=1.0),
            (phi,),
            phi.active_fraction,
            linear=False,
        )
        for p, m in pairwise(widths)
    ]
    blocks[-1] = Block(blocks[-1].affine)
    return Network((int(widths[0]),), tuple(blocks), phi.name)


def area_resampling(size: int, new_size: int) -> Float[np.ndarray, "new_size size"]:
    """R with ``R image R^T`` the image at another size: every new pixel is the mean over its area.

    Pixels are squares of constant value; rows of R add up to 1, and its columns to new_size/size.
    """
    edges = np.arange(new_size + 1) * (size / new_size)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(overlap, 0, None) * (new_size / size)


def small_digits(
    num_images: int = 5000, *, seed: int = 0, data_dir: str | os.PathLike[str] | None = None
) -> tuple[Float[np.ndarray, "N 256"], Float[np.ndarray, "N 10"]]:
    """MNIST training images of 16 x 16 pixels in [0, 1], by area from 28 x 28, and one-hot targets.

    Parameters
    ----------
    num_images : int
        As many of each class.
    seed : int
        Draws them.
    data_dir : path, optional
        See `ngd_theory.data.load`.
    """
    found = data.load(
        "mnist",
        num_train=num_images,
        seed=seed,
        targets="one-hot",
        standardise=False,
        unit_norm=False,
        data_dir=data_dir,
    )
    height, width = found.input_shape[:2]
    shrink = area_resampling(height, 16), area_resampling(width, 16)
    images = shrink[0] @ found.inputs.reshape(-1, height, width) @ shrink[1].T
    return images.reshape(num_images, -1), found.targets


@dataclass(frozen=True)
class PartlyTrained:
    """A classifier part of the way to its minimum.

    Attributes
    ----------
    params : like ``network.init(key)``
    steps : int
        Taken.
    initial_loss, loss : float
        Mean cross-entropy of all rows before and after.
    error : float
        Share of the rows that are in another class than the largest output says.
    """

    params: Any
    steps: int
    initial_loss: float
    loss: float
    error: float


def partly_trained(
    network: Network,
    x: Float[Array, "N *S"] | np.ndarray,
    y: Float[Array, "N C"] | np.ndarray,
    *,
    seed: int = 0,
    until: float = UNTIL,
    batch_size: int = 500,
    max_steps: int = 1000,
    damping: float = 0.1,
) -> PartlyTrained:
    """Train from a sparse start with K-FAC until the loss is ``until`` times that of guessing, ln C.

    Not a share of the initial loss, which a sparse start puts above that of guessing.

    Parameters
    ----------
    network : Network
    x, y : (N, *input_shape), (N, C)
        One-hot targets.
    seed : int
        Of the parameters, the batches and the sampled targets.
    until : float
    batch_size : int
        Rows drawn without replacement for every step; all rows if there are fewer.
    max_steps : int
        Training stops there at the latest.
    damping : float
        Initial lambda; gamma starts at its root. Both adapt.
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    loss = losses.CROSS_ENTROPY
    params = sparse_init(network, jax.random.key(seed), dtype=x.dtype)
    optimizer = kfac(network, loss, damping=damping, seed=seed)

    @jax.jit
    def step(params, state, x, y):
        gradient = jax.grad(lambda p: loss.value(network.apply(p, x), y))(params)
        updates, state = optimizer.update(gradient, state, params, x=x, y=y)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def evaluate(params):
        outputs = network.apply(params, x)
        return loss.value(outputs, y), jnp.mean(outputs.argmax(-1) != y.argmax(-1))

    random = np.random.default_rng(seed)
    state, steps = optimizer.init(params), 0
    initial, error = map(float, evaluate(params))
    value = initial
    while value > until * np.log(y.shape[1]) and steps < max_steps:
        rows = random.permutation(len(x))[:batch_size]
        params, state = step(params, state, x[rows], y[rows])
        steps += 1
        value, error = map(float, evaluate(params))
    return PartlyTrained(params, steps, initial, value, error)


@dataclass(frozen=True, eq=False)
class FisherStructure:
    """Blocks of the exact Fisher, of F-tilde, F-breve and F-hat, and of their inverses.

    `MATRICES` names the matrices. ``exact`` and ``kronecker`` (F-tilde) are undamped; ``kronecker-damped`` is F-tilde
    with damped diagonal blocks, ``block-diagonal`` (F-breve) its diagonal, ``block-tridiagonal`` F-hat; and
    ``*-inverse`` are the inverses of these, ``exact-inverse`` that of the exact Fisher with the same matrices added
    to its diagonal blocks as F-tilde gets.

    Attributes
    ----------
    sizes : tuple of int
        Parameters of each layer.
    num_samples : int
    damping : float
        gamma.
    means : dict of (L, L) arrays
        Mean absolute entry of every block, all layers.
    norms : dict of (L, L) arrays
        Frobenius norm of every block.
    distances : dict of (L, L) arrays
        Frobenius norm of the difference from the matrix of `REFERENCES`.
    dense : dict of (p, p) arrays
        The matrices between the parameters of the middle layers, each row by row of its (P, M) matrix. An inverse is
        that of the whole matrix and then cut out.
    """

    sizes: tuple[int, ...]
    num_samples: int
    damping: float
    means: dict[str, np.ndarray]
    norms: dict[str, np.ndarray]
    distances: dict[str, np.ndarray]
    dense: dict[str, np.ndarray]

    @property
    def middle(self) -> tuple[int, ...]:
        """Layers in `dense`, counted from 0: all but the first and the last, as the paper shows."""
        return tuple(range(len(self.sizes)))[1:-1]

    def pair_errors(self, name: str) -> Float[np.ndarray, "L L"]:
        """``|X_ij - Y_ij| / |Y_ij|`` of a matrix X and its reference Y, Frobenius norms; NaN where Y_ij is 0."""
        reference = self.norms[choose(REFERENCES, name, "approximation")]
        scale = np.where(reference > 0, reference, np.nan)
        return self.distances[name] / scale

    def error(self, name: str, layers: Sequence[int] | None = None) -> float:
        """``|X - Y| / |Y|`` over the blocks between ``layers``, the middle ones if None."""
        reference = self.norms[choose(REFERENCES, name, "approximation")]
        pairs = self._pairs(layers)
        return float(np.linalg.norm(self.distances[name][pairs]) / np.linalg.norm(reference[pairs]))

    def off_tridiagonal_share(self, name: str, layers: Sequence[int] | None = None) -> float:
        """Share of the block means that lies off the three central block diagonals.

        Parameters
        ----------
        name : one of `MATRICES`
        layers : sequence of int, optional
            The middle ones if None.
        """
        pairs = self._pairs(layers)
        far = np.abs(np.subtract(*pairs)) > 1
        means = self.means[name][pairs]
        return float(means[far].sum() / means.sum())

    def _pairs(self, layers: Sequence[int] | None):
        chosen = self.middle if layers is None else tuple(layers)
        return np.ix_(chosen, chosen)


def fisher_structure(
    network: Network,
    params,
    x: Float[Array, "N *S"] | np.ndarray,
    *,
    loss: str | losses.Loss = "cross-entropy",
    damping: float = GAMMA,
) -> FisherStructure:
    """Compare the exact Fisher with K-FAC's approximations, block by block.

    All expectations over targets are exact. Block means, norms and distances are of all L layers, the inverses of
    the whole matrices; entries are kept for layers 2 .. L-1 only, as the paper shows (the first layer is large).
    Two inverses of the size of all parameters are held at a time: `small_digits_network` with 5,000 rows takes
    2.6 GB and a minute on one core.

    Parameters
    ----------
    network : Network
        Of dense layers, three or more.
    params : like ``network.init(key)``
    x : (N, *input_shape)
    loss : {"mse", "cross-entropy", "sigmoid-cross-entropy"} or Loss
    damping : float
        gamma of the factored Tikhonov damping, as in `ngd_theory.optim.kfac`: the diagonal blocks' factors become
        ``A + pi gamma`` and ``B + gamma/pi``. Positive.

    Raises
    ------
    InputError
        For convolutions, fewer than three layers, a damping that is not positive, or without float64.
    """
    if not 0 < damping < float("inf"):
        raise InputError(f"damping is {damping}; it must be positive and finite")
    if network.depth < 3:
        raise InputError(f"the network has {network.depth} layers; three are needed")
    lin = linearize(network, params, jnp.asarray(x))
    if lin.outputs.dtype != jnp.float64:
        raise InputError(
            "fisher_structure needs float64: jax.config.update('jax_enable_x64', True) first"
        )
    root = losses.by_name(loss).fisher_root(lin.outputs)
    layers = [
        replace(y, sensitivities=curvature_sensitivities(y.sensitivities, root)) for y in lin.layers
    ]
    undamped = kronecker_fisher(layers)
    dampings = [
        factored_damping(jnp.trace(a) / len(a), jnp.trace(b) / len(b), damping)
        for a, b in (undamped.block(i, i) for i in range(undamped.depth))
    ]
    tilde = _damped(undamped, dampings)
    sizes = [y.layout.num_inputs * y.layout.num_units for y in lin.layers]
    exact = _whole(sizes, _exact_block(layers))
    blocks: dict[str, _Block] = {
        "exact": _part(sizes, exact),
        "kronecker": _kronecker_block(undamped),
        "kronecker-damped": _kronecker_block(tilde),
        "block-diagonal": _diagonal(sizes, _kronecker_block(tilde)),
    }
    hat = invert_tridiagonal(undamped, dampings)
    blocks["block-tridiagonal"] = _kronecker_block(_completed(tilde, hat))
    recorded = _Record(sizes)
    for name in blocks:
        recorded.add(name, blocks)
    # What damping adds to the diagonal blocks of F-tilde, the exact Fisher gets too.
    for i in range(network.depth):
        here = _part(sizes, exact)(i, i)
        here += blocks["kronecker-damped"](i, i) - blocks["kronecker"](i, i)
    breve = invert_diagonal(undamped, dampings)
    blocks |= {
        "exact-inverse": _part(sizes, _inverted(exact)),
        "kronecker-inverse": _part(sizes, _inverted(_whole(sizes, blocks["kronecker-damped"]))),
        "block-diagonal-inverse": _diagonal(
            sizes, lambda i, j: np.kron(breve.inputs[i], breve.sensitivities[i])
        ),
        "block-tridiagonal-inverse": _tridiagonal_block(hat, sizes),
    }
    # Each is let go when it was last needed.
    recorded.add("exact-inverse", blocks)
    recorded.add("kronecker-inverse", blocks)
    del exact, blocks["exact"], blocks["exact-inverse"]
    recorded.add("block-diagonal-inverse", blocks)
    recorded.add("block-tridiagonal-inverse", blocks)
    return FisherStructure(
        tuple(sizes),
        len(x),
        float(damping),
        recorded.means,
        recorded.norms,
        recorded.distances,
        recorded.dense,
    )


def structure_rows(
    seed: int = 0,
    *,
    num_images: int = 5000,
    damping: float = GAMMA,
    until: float = UNTIL,
    widths: Sequence[int] = WIDTHS,
    data_dir: str | os.PathLike[str] | None = None,
) -> list[dict[str, float | int | str]]:
    """Train the paper's classifier part of the way and tabulate the structure of its Fisher.

    Parameters
    ----------
    seed : int
        Of images, parameters, batches and sampled targets.
    num_images, data_dir
        See `small_digits`; the Fisher is an average over them all.
    damping : float
        gamma.
    until : float
        See `partly_trained`.
    widths : sequence of int
        See `small_digits_network`; 256 inputs, 10 outputs.

    Returns
    -------
    list of dict
        See `rows`; each row also has ``seed``, and the ``steps``, ``train_loss`` and ``train_error`` of the network.
    """
    network = small_digits_network(widths)
    x, y = small_digits(num_images, seed=seed, data_dir=data_dir)
    trained = partly_trained(network, x, y, seed=seed, until=until)
    about = {
        "seed": seed,
        "steps": trained.steps,
        "train_loss": trained.loss,
        "train_error": trained.error,
    }
    found = fisher_structure(network, trained.params, x, damping=damping)
    return [{**about, **row} for row in rows(found)]


def rows(structure: FisherStructure) -> list[dict[str, float | int | str]]:
    """The numbers of a structure as a table.

    Returns
    -------
    list of dict
        ``matrix`` (of `MATRICES`), ``layer`` and ``other`` (from 1; 0 for a number of many layers), ``quantity`` and
        ``value``. Of a pair ``layer <= other``: ``mean`` (absolute entry), ``norm``, ``relative_error`` (against the
        reference of `REFERENCES`, where that is not 0). Of a matrix, over the middle layers and, as ``*_all``, over
        all: ``relative_error`` and ``off_tridiagonal_share``.
    """
    every = range(len(structure.sizes))
    table: list[dict[str, float | int | str]] = []

    def add(matrix: str, quantity: str, value: float, layer: int = 0, other: int = 0) -> None:
        table.append(
            {
                "matrix": matrix,
                "layer": layer,
                "other": other,
                "quantity": quantity,
                "value": float(value),
                "damping": structure.damping,
            }
        )

    for name in MATRICES:
        for layers, end in ((None, ""), (every, "_all")):
            add(name, f"off_tridiagonal_share{end}", structure.off_tridiagonal_share(name, layers))
            if name in REFERENCES:
                add(name, f"relative_error{end}", structure.error(name, layers))
        errors = structure.pair_errors(name) if name in REFERENCES else None
        for i in every:
            for j in every[i:]:
                add(name, "mean", structure.means[name][i, j], i + 1, j + 1)
                add(name, "norm", structure.norms[name][i, j], i + 1, j + 1)
                if errors is not None and np.isfinite(errors[i, j]):
                    add(name, "relative_error", errors[i, j], i + 1, j + 1)
    return table


#: Block (i, j), i <= j, of a symmetric matrix.
_Block = Callable[[int, int], np.ndarray]


class _Record:
    """Numbers of blocks that need not be held together."""

    def __init__(self, sizes: Sequence[int]):
        self.sizes = sizes
        self.means: dict[str, np.ndarray] = {}
        self.norms: dict[str, np.ndarray] = {}
        self.distances: dict[str, np.ndarray] = {}
        self.dense: dict[str, np.ndarray] = {}

    def add(self, name: str, blocks: dict[str, _Block]) -> None:
        """Look at every block of the matrix ``name`` and of its reference once."""
        depth = len(self.sizes)
        means, norms, distances = np.zeros((3, depth, depth))
        reference = REFERENCES.get(name)
        middle = self.sizes[1:-1]
        dense = np.zeros((sum(middle), sum(middle)))
        for j in range(depth):
            for i in range(j + 1):
                block = blocks[name](i, j)
                means[i, j] = means[j, i] = np.abs(block).mean()
                norms[i, j] = norms[j, i] = np.linalg.norm(block)
                if reference is not None:
                    apart = np.linalg.norm(block - blocks[reference](i, j))
                    distances[i, j] = distances[j, i] = apart
                if 0 < i and j < depth - 1:
                    _part(middle, dense)(i - 1, j - 1)[:] = block
                    _part(middle, dense)(j - 1, i - 1)[:] = block.T
        self.means[name], self.norms[name], self.dense[name] = means, norms, dense
        if reference is not None:
            self.distances[name] = distances


def _part(sizes: Sequence[int], whole: np.ndarray) -> _Block:
    """Blocks of a matrix, as views."""
    ends = np.cumsum([0, *sizes])
    return lambda i, j: whole[ends[i] : ends[i + 1], ends[j] : ends[j + 1]]


def _whole(sizes: Sequence[int], block: _Block) -> np.ndarray:
    """Matrix of the blocks on and above the diagonal, zero below."""
    whole = np.zeros((sum(sizes), sum(sizes)))
    for j in range(len(sizes)):
        for i in range(j + 1):
            _part(sizes, whole)(i, j)[:] = block(i, j)
    return whole


def _inverted(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a symmetric positive definite matrix from its upper triangle, in its place: both triangles."""
    # The transpose of a C array is a Fortran array, which LAPACK overwrites.
    factorise, invert = get_lapack_funcs(("potrf", "potri"), (matrix,))
    factor, failed = factorise(matrix.T, lower=1, overwrite_a=1)
    if not failed:
        factor, failed = invert(factor, lower=1, overwrite_c=1)
    if failed:
        raise InputError("the damped Fisher is not positive definite in float64; raise the damping")
    upper = factor.T
    for k in range(len(upper)):
        upper[k + 1 :, k] = upper[k, k + 1 :]
    return upper


def _sum_of_products(
    a: Float[np.ndarray, "N P"], b: Float[np.ndarray, "N Q"], inner: Float[np.ndarray, "N M K"]
) -> np.ndarray:
    """``sum_n (a_n b_n^T) (x) inner_n``, never more than (N, Q) numbers a time beside it."""
    flat = inner.reshape(len(inner), -1)
    out = np.empty((a.shape[1], inner.shape[1], b.shape[1], inner.shape[2]))
    for p, column in enumerate(a.T):
        product = (column[:, None] * b).T @ flat
        out[p] = product.reshape(b.shape[1], *inner.shape[1:]).swapaxes(0, 1)
    return out.reshape(out.shape[0] * out.shape[1], -1)


def _exact_block(layers: Sequence[LayerLinearization]) -> _Block:
    """``(1/N) sum_n (a_i a_j^T) (x) sum_k delta_i delta_j^T``."""
    inputs = [np.asarray(layer.inputs)[:, 0] for layer in layers]
    sensitivities = [np.asarray(layer.sensitivities)[:, :, 0] for layer in layers]

    def block(i, j):
        inner = sensitivities[i].swapaxes(1, 2) @ sensitivities[j] / len(inputs[i])
        return _sum_of_products(inputs[i], inputs[j], inner)

    return block


def _kronecker_block(fisher: KroneckerFisher) -> _Block:
    return lambda i, j: np.kron(*map(np.asarray, fisher.block(i, j)))


def _diagonal(sizes: Sequence[int], block: _Block) -> _Block:
    """The blocks on the diagonal, zeros elsewhere."""
    return lambda i, j: block(i, j) if i == j else np.zeros((sizes[i], sizes[j]))


def _damped(fisher: KroneckerFisher, damping: Sequence[FactorDamping]) -> KroneckerFisher:
    """The same with ``rho`` added to both factors of every diagonal block."""

    def add(factors, rhos):
        return tuple(
            (own[0] + rho * jnp.eye(len(own[0]), dtype=own[0].dtype), *own[1:])
            for own, rho in zip(factors, rhos, strict=True)
        )

    rhos_a, rhos_b = zip(*damping, strict=True)
    return KroneckerFisher(add(fisher.inputs, rhos_a), add(fisher.sensitivities, rhos_b))


def _completed(fisher: KroneckerFisher, inverse: TridiagonalInverse) -> KroneckerFisher:
    """F-hat, ``Fh_ij = Psi_i .. Psi_{j-1} Ft_jj`` for i < j: a Kronecker product in every block.

    Parameters
    ----------
    fisher : KroneckerFisher
        F-tilde with damped diagonal blocks.
    inverse : TridiagonalInverse
        Of F-hat.
    """

    def complete(factors, regressions):
        rows: list[tuple[Array, ...]] = [(factors[-1][0],)]
        for own, psi in zip(factors[-2::-1], regressions[::-1], strict=True):
            rows.insert(0, (own[0], *(psi @ below for below in rows[0])))
        return tuple(rows)

    psi_a, psi_b = zip(*(stage.regression for stage in inverse.stages[:-1]), strict=True)
    return KroneckerFisher(complete(fisher.inputs, psi_a), complete(fisher.sensitivities, psi_b))


def _tridiagonal_block(inverse: TridiagonalInverse, sizes: Sequence[int]) -> _Block:
    """Blocks of ``Xi^T diag(S^-1) Xi``: ``S_i^-1 + Psi_{i-1}^T S_{i-1}^-1 Psi_{i-1}`` and ``-S_i^-1 Psi_i``.

    With the basis (a, b) and weights w of a stage, ``S^-1 = sum_p (a_p a_p^T) (x) b diag(w_p) b^T``.
    """
    stages = [jax.tree.map(np.asarray, stage) for stage in inverse.stages]

    def block(i, j):
        if j > i + 1:
            return np.zeros((sizes[i], sizes[j]))
        (a, b), weights = stages[i].basis, stages[i].weights
        inner = (b * weights[:, None]) @ b.T
        if j > i:
            psi_a, psi_b = stages[i].regression
            return -_sum_of_products(a.T, a.T @ psi_a, inner @ psi_b)
        found = _sum_of_products(a.T, a.T, inner)
        if i:
            (a, b), weights = stages[i - 1].basis, stages[i - 1].weights
            psi_a, psi_b = stages[i - 1].regression
            a, b = a.T @ psi_a, b.T @ psi_b
            found += _sum_of_products(a, a, (b.T * weights[:, None]) @ b)
        return found

    return block

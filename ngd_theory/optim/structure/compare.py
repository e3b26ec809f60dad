"""Exact Fisher, F-tilde, F-breve, F-hat and their inverses, block by block."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory import losses
from ngd_theory.errors import InputError, choose
from ngd_theory.fisher.factored_damping import factored_damping
from ngd_theory.fisher.kinds import curvature_sensitivities
from ngd_theory.fisher.kronecker import invert_diagonal, invert_tridiagonal, kronecker_fisher
from ngd_theory.networks import Network, linearize
from ngd_theory.optim.structure.blocks import (
    REFERENCES,
    BlockOf,
    Record,
    completed,
    damped,
    diagonal_blocks,
    exact_block,
    inverse_tridiagonal_block,
    inverted,
    kronecker_block,
    part,
    whole_matrix,
)
from ngd_theory.optim.structure.problem import (
    UNTIL,
    WIDTHS,
    partly_trained,
    small_digits,
    small_digits_network,
)

#: gamma of `structure_rows` and the figures. The diagonal entries of a diagonal block grow by at least gamma^2.
GAMMA = 0.1
MATRICES = (
    *("exact", "kronecker", "kronecker-damped", "block-diagonal", "block-tridiagonal"),
    *("exact-inverse", "kronecker-inverse"),
    *("block-diagonal-inverse", "block-tridiagonal-inverse"),
)


@dataclass(frozen=True, eq=False)
class FisherStructure:
    """Blocks of the exact Fisher, of F-tilde, F-breve and F-hat, and of their inverses.

    `MATRICES` names the matrices. ``exact`` and ``kronecker`` (F-tilde) are undamped. ``kronecker-damped`` is F-tilde
    with damped diagonal blocks, ``block-diagonal`` (F-breve) has only these blocks, ``block-tridiagonal`` is F-hat.
    ``*-inverse`` are inverses of damped matrices: ``kronecker-inverse`` that of ``kronecker-damped``, ``exact-inverse``
    that of the exact Fisher after the same matrices were added to its diagonal blocks as to those of F-tilde.

    Attributes
    ----------
    sizes : tuple of int
        Number of parameters of each layer.
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
        The part of each matrix for the middle layers; parameters are in the row-by-row order of each (P, M) matrix. An
        inverse is computed for the whole matrix, then the part is cut out.
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

    All expectations over targets are exact. Block means, norms and distances cover all L layers, and inverses are those
    of the whole matrices. Entries are kept only for layers 2 .. L-1, which the paper shows (the first layer is large).
    Two inverses of the size of all parameters are in memory at a time: `small_digits_network` with 5,000 rows takes
    2.6 GB and a minute on one core.

    Parameters
    ----------
    network : Network
        Three or more dense layers.
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
    tilde = damped(undamped, dampings)
    sizes = [y.layout.num_inputs * y.layout.num_units for y in lin.layers]
    exact = whole_matrix(sizes, exact_block(layers))
    blocks: dict[str, BlockOf] = {
        "exact": part(sizes, exact),
        "kronecker": kronecker_block(undamped),
        "kronecker-damped": kronecker_block(tilde),
        "block-diagonal": diagonal_blocks(sizes, kronecker_block(tilde)),
    }
    hat = invert_tridiagonal(undamped, dampings)
    blocks["block-tridiagonal"] = kronecker_block(completed(tilde, hat))
    recorded = Record(sizes)
    for name in blocks:
        recorded.add(name, blocks)
    # The diagonal blocks of the exact Fisher get the same addition as those of F-tilde.
    for i in range(network.depth):
        here = part(sizes, exact)(i, i)
        here += blocks["kronecker-damped"](i, i) - blocks["kronecker"](i, i)
    breve = invert_diagonal(undamped, dampings)
    blocks |= {
        "exact-inverse": part(sizes, inverted(exact)),
        "kronecker-inverse": part(sizes, inverted(whole_matrix(sizes, blocks["kronecker-damped"]))),
        "block-diagonal-inverse": diagonal_blocks(
            sizes, lambda i, j: np.kron(breve.inputs[i], breve.sensitivities[i])
        ),
        "block-tridiagonal-inverse": inverse_tridiagonal_block(hat, sizes),
    }
    # Each matrix is freed after its last use.
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
        Seed of images, parameters, batches and sampled targets.
    num_images, data_dir
        See `small_digits`; the Fisher is an average over all images.
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
        Keys: ``matrix`` (of `MATRICES`), ``layer`` and ``other`` (from 1; 0 for a number of many layers), ``quantity``,
        ``value`` and ``damping``. Quantities of a pair ``layer <= other``: ``mean`` (absolute entry), ``norm``,
        ``relative_error`` (against the matrix of `REFERENCES`, if that is not 0). Quantities of a whole matrix:
        ``relative_error`` and ``off_tridiagonal_share`` over the middle layers, and as ``*_all`` over all layers.
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

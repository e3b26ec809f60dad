"""The conditions under which a map is isotropic, measured on the network at hand.

`CHECKS` maps the names that an approximation lists in ``requirements`` to the functions that measure
them: a new condition is one function and one entry.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ngd_theory.errors import InputError, require_type
from ngd_theory.fisher import Approximation, tridiagonal_coupling
from ngd_theory.fisher.base import require_approximation
from ngd_theory.fisher.solve import gram_floor, gram_rank, round_off
from ngd_theory.kernels import layer_kernel
from ngd_theory.networks import Linearization, Network
from ngd_theory.theory.constants import unit_wise_dispersion


@dataclass(frozen=True)
class Condition:
    """One condition, checked.

    Attributes
    ----------
    name : str
    holds : bool
    measured : float
        What was measured: an eigenvalue, a rank, a distance, a condition number.
    required : float
        What it is compared with.
    why : str
        In words: what it means, and what to do when it does not hold.
    layer : int or None
        1-based layer; None for the whole network.
    blocking : bool
        Whether K is not isotropic when it does not hold. False where the solves remedy it.
    """

    name: str
    holds: bool
    measured: float
    required: float
    why: str
    layer: int | None = None
    blocking: bool = True


def check_conditions(
    approximation: Approximation,
    net: Network,
    lin: Linearization,
    damping: float = 0.0,
) -> tuple[Condition, ...]:
    """Check the conditions of docs/theory.md section 3 on an actual linearisation.

    Parameters
    ----------
    approximation : Approximation
    net : Network
    lin : Linearization
        Of ``net`` at the training inputs; its values are read, so call this outside jit.
    damping : float
        rho, for the conditioning of the damped block-tridiagonal system.

    Returns
    -------
    tuple of Condition

    Raises
    ------
    InputError
        If ``lin`` is not a linearisation of ``net``.
    """
    require_approximation(approximation)
    require_type(
        "net",
        net,
        Network,
        "the network that was linearised; functions without layers have no conditions",
    )
    require_type("lin", lin, Linearization, "ngd.networks.linearize(net, params, x)")
    sizes = [(s.num_inputs, s.num_units) for s in net.layer_sizes]
    if sizes != [(y.layout.num_inputs, y.layout.num_units) for y in lin.layers]:
        raise InputError("`lin` is not a linearisation of `net`: their layers differ")
    return tuple(
        condition
        for name in approximation.requirements
        for condition in CHECKS[name](name, approximation, net, lin, float(damping))
    )


def _distinct_inputs(name, approximation, net, lin, damping) -> Iterator[Condition]:
    x = np.asarray(lin.layers[0].inputs).reshape(lin.num_samples, -1)
    square = np.sum(x**2, axis=1)
    distance = square[:, None] + square[None, :] - 2 * x @ x.T
    np.fill_diagonal(distance, np.inf)
    n, m = np.unravel_index(np.argmin(distance), distance.shape)
    closest = float(np.linalg.norm(x[n] - x[m])) if lin.num_samples > 1 else np.inf
    floor = float(np.sqrt(np.finfo(x.dtype).eps) * np.sqrt(square.max()))
    yield Condition(
        name,
        closest > floor,
        closest,
        floor,
        "all inputs differ"
        if closest > floor
        else f"inputs {n} and {m} are equal to round-off, so every kernel is singular: "
        "remove the duplicate",
    )


def _positive_definite(name, matrix, what, layer, advice) -> Condition:
    eigenvalues = np.linalg.eigvalsh(np.asarray(matrix))
    smallest, floor = float(eigenvalues[0]), round_off(eigenvalues)
    holds = smallest > floor
    return Condition(
        name,
        holds,
        smallest,
        floor,
        f"smallest eigenvalue of {what} is {smallest:.3g}"
        + ("" if holds else f", zero to round-off ({floor:.1g}): {advice}"),
        layer,
    )


def _positive_definite_ntk(name, approximation, net, lin, damping) -> Iterator[Condition]:
    total = sum(np.asarray(layer_kernel(y)) for y in lin.layers) / lin.num_samples
    advice = "remove duplicated inputs, widen the network or use fewer samples"
    yield _positive_definite(name, total, "Theta", None, advice)


def _positive_definite_layer_kernels(name, approximation, net, lin, damping) -> Iterator[Condition]:
    advice = (
        "the layer alone cannot move every output: remove duplicated inputs, widen it, use fewer "
        "samples, or biases"
    )
    for index, layer in enumerate(lin.layers, start=1):
        kernel = layer_kernel(layer) / lin.num_samples
        yield _positive_definite(name, kernel, f"Theta_{index}", index, advice)


def _invertible_coupling(name, approximation, net, lin, damping) -> Iterator[Condition]:
    depth = net.depth
    smallest = float(np.abs(np.linalg.eigvalsh(tridiagonal_coupling(depth))).min())
    holds = depth % 3 != 2
    yield Condition(
        name,
        holds,
        smallest,
        1e-12,
        f"L = {depth}: smallest absolute eigenvalue of Sigma is {smallest:.2g}"
        if holds
        else f"L = {depth} is one of 3s + 2, where Sigma is singular: the pseudo-inverse (damping 0) and "
        "its damped, symmetric form still give K = ceil(L/3) I",
        blocking=False,
    )


def _well_conditioned_damped_system(name, approximation, net, lin, damping) -> Iterator[Condition]:
    if damping == 0:
        return
    coupling = tridiagonal_coupling(net.depth)
    roots = [_root(np.asarray(layer_kernel(y)) / lin.num_samples) for y in lin.layers]
    system = np.block(
        [
            [c * u @ v for c, v in zip(row, roots, strict=True)]
            for row, u in zip(coupling, roots, strict=True)
        ]
    )
    eigenvalues = np.abs(np.linalg.eigvalsh(system) + damping)
    condition = float(eigenvalues.max() / max(eigenvalues.min(), np.finfo(system.dtype).tiny))
    limit = float(1e-3 / np.finfo(system.dtype).eps)
    holds = condition < limit
    yield Condition(
        name,
        holds,
        condition,
        limit,
        f"condition number of the damped system is {condition:.2g}"
        + ("" if holds else ": its solution has lost all but 3 digits; change damping or depth"),
    )


def _positive_damped_map(name, approximation, net, lin, damping) -> Iterator[Condition]:
    if damping == 0:
        return
    k = np.asarray(approximation.function_space_map(lin, damping))
    if not np.isfinite(k).all():
        return  # other conditions say why
    eigenvalues = np.linalg.eigvalsh((k + k.T) / 2)
    smallest, limit = float(eigenvalues[0]), -round_off(eigenvalues)
    yield Condition(
        name,
        smallest > limit,
        smallest,
        limit,
        f"smallest eigenvalue of the damped K is {smallest:.3g}"
        + (
            ""
            if smallest > limit
            else ": G is indefinite, and a damping near minus one of its eigenvalues turns steps round, so that no "
            "step size trains; take a smaller damping, or 0"
        ),
    )


def _root(kernel: np.ndarray) -> np.ndarray:
    eigenvalues, vectors = np.linalg.eigh(kernel)
    return (vectors * np.sqrt(np.maximum(eigenvalues, 0))) @ vectors.T


def _leverages(rows: np.ndarray) -> np.ndarray:
    """Diagonal of the projector onto the column space of ``rows``."""
    u, singular, _ = np.linalg.svd(rows, full_matrices=False)
    kept = u[:, singular > gram_floor(singular, max(rows.shape))]
    return np.sum(kept**2, axis=1)


def _live(layer) -> np.ndarray:
    """Which positions any output depends on at any sample: (T,)."""
    return np.any(np.asarray(layer.sensitivities) != 0, axis=(0, 1, 3))


def _equal_leverages(name, approximation, net, lin, damping) -> Iterator[Condition]:
    for index, layer in enumerate(lin.layers[:-1], start=1):
        n, t, p = layer.inputs.shape
        leverages = _leverages(np.asarray(layer.inputs).reshape(n * t, p)).reshape(n, t)
        live = _live(layer)
        leverages = leverages[:, live].sum(1)
        spread = float(leverages.std() / leverages.mean())
        limit = float(10 * np.finfo(leverages.dtype).eps ** 0.5)
        why = f"leverages of a_{index} sum to {leverages.sum():.4g} of N T = {n * int(live.sum())}"
        if spread > limit:
            first = "use fewer samples or more input dimensions"
            first += ", or the Forster transform" if t == 1 else ""
            why += f" and differ by {spread:.2g}, which the layer's K shows at every width: " + (
                first if index == 1 else "widen the previous layer or use fewer samples"
            )
        yield Condition(name, spread <= limit, spread, limit, why, index)
    # The output layer's K is the projector onto its inputs' range: that must be everything.
    yield _full_rank(name, lin.layers[-1], len(lin.layers))


def _full_rank_inputs(name, approximation, net, lin, damping) -> Iterator[Condition]:
    for index, (layer, size) in enumerate(zip(lin.layers, net.layer_sizes, strict=True), start=1):
        n, c, _, _ = layer.sensitivities.shape
        # A unit has at most so many independent Jacobian rows a sample, all in the range of a.
        yield _full_rank(name, layer, index, n * min(c, size.geometry.windows))


def _full_rank_features(name, approximation, net, lin, damping) -> Iterator[Condition]:
    # Layers before the last two add nothing to K, so that the network's inputs matter in short networks only.
    first = 0 if net.depth <= 2 else 1
    for index, layer in enumerate(lin.layers[first:], start=first + 1):
        yield _full_rank(name, layer, index)


def _full_rank(name, layer, index, needed: int | None = None) -> Condition:
    a = np.asarray(layer.inputs).reshape(-1, layer.inputs.shape[-1])
    rank, rows = gram_rank(a), a.shape[0]
    needed = rows if needed is None else needed
    why = f"rank(a_{index}) is {rank} of N T = {rows}" + (
        "" if needed == rows else f", where a unit needs {needed}"
    )
    if rank < needed and index == 1:
        why += (
            f": the inputs have {a.shape[1]} dimensions for {needed} rows, so layer 1 disperses "
            "whatever the width; use fewer samples or more input dimensions"
        )
    elif rank < needed:
        why += ": widen the previous layer or use fewer samples"
    return Condition(name, rank >= needed, rank, needed, why, index)


def _full_rank_sensitivities(name, approximation, net, lin, damping) -> Iterator[Condition]:
    # The output layer's B is I_C whatever its rank.
    for index, layer in enumerate(lin.layers[:-1], start=1):
        delta = np.asarray(layer.sensitivities).reshape(-1, layer.sensitivities.shape[-1])
        n, c, _, _ = layer.sensitivities.shape
        rank, needed = gram_rank(delta), n * c * int(_live(layer).sum())
        why = f"rank(delta_{index}) is {rank} of N C T = {needed}"
        why += " that the outputs depend on" if needed < len(delta) else ""
        if rank < needed:
            why += ": widen the layer, use fewer samples, or a nonlinear activation"
        yield Condition(name, rank == needed, rank, needed, why, index)


def _many_units(name, approximation, net, lin, damping) -> Iterator[Condition]:
    expected = unit_wise_dispersion(net)
    units = sum(s.num_units for s in net.layer_sizes[:-1])
    holds = expected < 0.1
    yield Condition(
        name,
        holds,
        expected,
        0.1,
        f"isotropic only as the width grows: dispersion {expected:.2g} expected of {units} hidden units"
        + ("" if holds else "; widen the network"),
    )


def _isotropic_by_design(name, approximation, net, lin, damping) -> Iterator[Condition]:
    yield Condition(
        name, False, np.nan, np.nan, "the map keeps a spectrum of its own at every width"
    )


CHECKS: dict[str, Callable[..., Iterator[Condition]]] = {
    "distinct-inputs": _distinct_inputs,
    "positive-definite-ntk": _positive_definite_ntk,
    "positive-definite-layer-kernels": _positive_definite_layer_kernels,
    "invertible-coupling": _invertible_coupling,
    "well-conditioned-damped-system": _well_conditioned_damped_system,
    "positive-damped-map": _positive_damped_map,
    "full-rank-inputs": _full_rank_inputs,
    "full-rank-features": _full_rank_features,
    "equal-leverages": _equal_leverages,
    "full-rank-sensitivities": _full_rank_sensitivities,
    "many-units": _many_units,
    "isotropic-by-design": _isotropic_by_design,
}

"""The conditions under which a map is isotropic, measured on a given network.

`CHECKS` maps the names that an approximation lists in ``requirements`` to the functions that measure
them: a new condition is one function and one entry.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ngd_theory.arguments import checked, is_finite, require_known
from ngd_theory.errors import InputError, SingularKernelError, require_type
from ngd_theory.fisher import Approximation, tridiagonal_coupling
from ngd_theory.fisher.damping import as_damping
from ngd_theory.fisher.solve import gram_floor, gram_rank, round_off
from ngd_theory.kernels import layer_kernel
from ngd_theory.networks import GroupLayout, Linearization, Network
from ngd_theory.networks.sizes import plain_sizes
from ngd_theory.theory.constants import dispersion_of_units


@dataclass(frozen=True)
class Condition:
    """One condition and the result of its check.

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
        Whether K is not isotropic when it does not hold. False if the solves remedy it.
    """

    name: str
    holds: bool
    measured: float
    required: float
    why: str
    layer: int | None = None
    blocking: bool = True


@checked
def check_conditions(
    approximation: Approximation,
    net: Network | None,
    lin: Linearization,
    damping=0.0,
) -> tuple[Condition, ...]:
    """Check the conditions of docs/theory.md section 3 on an actual linearisation.

    No condition holds merely because there is nothing to measure: zero weights, zero inputs and dead units fail.
    Comparisons with NaN fail.

    Parameters
    ----------
    approximation : Approximation
    net : Network or None
        None for a linearisation by `ngd_theory.networks.linearize_model` or `linearize_function`: what usually follows
        from sizes is then measured, or not known.
    lin : Linearization
        Of ``net`` at the training inputs; its values are read, so call this outside jit.
    damping : float or scalar array
        rho, for the conditioning of the damped block-tridiagonal system.

    Returns
    -------
    tuple of Condition
        A single failed condition if ``lin`` has a NaN or infinity.

    Raises
    ------
    InputError
        If ``lin`` is not a linearisation of ``net``, for an argument of the wrong type, a damping that is not a finite
        number of at least 0, and inside jit.
    """
    require_known("check_conditions", lin, damping)
    rho = float(as_damping(damping, lin.outputs.dtype).value)
    if net is not None:
        require_type("net", net, Network, "the network that was linearised, or None for a model")
        if not lin.has_layers:
            raise InputError(
                "`lin` is of a function (linearize_function), which has groups of parameters and no layers: give None "
                "for `net`"
            )
        if list(net.layouts) != [y.layout for y in lin.layers]:
            raise InputError("`lin` is not a linearisation of `net`: their layers differ")
    approximation.check_layers(lin)
    if not is_finite(lin):
        return (
            Condition(
                "finite-linearisation",
                False,
                np.nan,
                np.nan,
                "the linearisation has a NaN or infinity: the weights or inputs have, or are too large for their type",
            ),
        )
    sizes = plain_sizes(lin.layers, lin.output_dim, _A_MODEL) if net is None else net.layer_sizes
    return tuple(
        condition
        for name in approximation.requirements
        for condition in CHECKS[name](name, approximation, sizes, lin, rho)
    )


_A_MODEL = "sizes tell no ranks of a model or a function; theory.measured_sizes measures them"


def _distinct_inputs(name, approximation, sizes, lin, damping) -> Iterator[Condition]:
    if not lin.has_layers:
        return  # a function shows its Jacobian only
    # In a chain the inputs of all layers follow from those of the first.
    shown = lin.layers[:1] if sizes[0].unknown is None else lin.layers
    x = np.concatenate([np.asarray(y.inputs).reshape(lin.num_samples, -1) for y in shown], axis=1)
    # Squares of large and of tiny numbers are out of range.
    scale = np.abs(x).max() or 1
    x = x / scale
    square = np.sum(x**2, axis=1)
    distance = square[:, None] + square[None, :] - 2 * x @ x.T
    np.fill_diagonal(distance, np.inf)
    n, m = np.unravel_index(np.argmin(distance), distance.shape)
    closest = float(np.linalg.norm(x[n] - x[m])) if lin.num_samples > 1 else np.inf
    floor = float(np.sqrt(np.finfo(x.dtype).eps) * np.sqrt(square.max()))
    yield Condition(
        name,
        closest > floor,
        float(closest * scale),
        float(floor * scale),
        "all inputs differ"
        if closest > floor
        else f"inputs {n} and {m} are equal to round-off, so every kernel is singular: "
        "remove the duplicate",
    )


def _positive_definite(name, matrix, what, layer, advice) -> Condition:
    matrix = np.asarray(matrix)
    if not np.isfinite(matrix).all():
        why = f"{what} is beyond the range of {matrix.dtype}: scale the inputs or the weights"
        return Condition(name, False, np.nan, np.nan, why, layer)
    eigenvalues = np.linalg.eigvalsh(matrix)
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


def _positive_definite_ntk(name, approximation, sizes, lin, damping) -> Iterator[Condition]:
    total = sum(np.asarray(layer_kernel(y)) for y in lin.layers) / lin.num_samples
    advice = "remove duplicated inputs, widen the network or use fewer samples"
    yield _positive_definite(name, total, "Theta", None, advice)


def _positive_definite_layer_kernels(
    name, approximation, sizes, lin, damping
) -> Iterator[Condition]:
    advice = (
        "the layer alone cannot move every output: remove duplicated inputs, widen it, use fewer "
        "samples, or biases"
    )
    for index, layer in enumerate(lin.layers, start=1):
        kernel = layer_kernel(layer) / lin.num_samples
        yield _positive_definite(name, kernel, f"Theta_{index}", index, advice)


def _invertible_coupling(name, approximation, sizes, lin, damping) -> Iterator[Condition]:
    depth = len(lin.layers)
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


def _well_conditioned_damped_system(
    name, approximation, sizes, lin, damping
) -> Iterator[Condition]:
    if damping == 0:
        return
    coupling = tridiagonal_coupling(len(lin.layers))
    kernels = [np.asarray(layer_kernel(y)) / lin.num_samples for y in lin.layers]
    if not all(np.isfinite(kernel).all() for kernel in kernels):
        return  # the layer kernels' own condition fails
    roots = [_root(kernel) for kernel in kernels]
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


def _positive_damped_map(name, approximation, sizes, lin, damping) -> Iterator[Condition]:
    if damping == 0:
        return
    try:
        k = np.asarray(approximation.function_space_map(lin, damping))
    except SingularKernelError as error:
        yield Condition(name, False, np.nan, 0.0, str(error))
        return
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
    """Whether some output depends on a position at some sample: (T,)."""
    return np.any(np.asarray(layer.sensitivities) != 0, axis=(0, 1, 3))


def _equal_leverages(name, approximation, sizes, lin, damping) -> Iterator[Condition]:
    for index, layer in enumerate(lin.layers[:-1], start=1):
        if isinstance(layer.layout, GroupLayout):
            continue  # its block is the exact one
        n, t, p = layer.inputs.shape
        leverages = _leverages(np.asarray(layer.inputs).reshape(n * t, p)).reshape(n, t)
        live = _live(layer)
        leverages = leverages[:, live].sum(1)
        total = float(leverages.sum())
        spread = float(n * leverages.std() / total) if total > 0 else np.nan
        limit = float(10 * np.finfo(leverages.dtype).eps ** 0.5)
        why = f"leverages of a_{index} sum to {total:.4g} of N T = {n * int(live.sum())}"
        if not total > 0:
            why += ": the inputs are zero, or no output depends on the layer (zero weights or dead units)"
        elif not spread <= limit:
            first = "use fewer samples or more input dimensions"
            first += ", or the Forster transform" if t == 1 else ""
            why += f" and differ by {spread:.2g}, which the layer's K shows at every width: " + (
                first if index == 1 else "widen the previous layer or use fewer samples"
            )
        yield Condition(name, spread <= limit, spread, limit, why, index)
    # The output layer's K is the projector onto its inputs' range, which must be the whole space.
    yield _full_rank(name, lin.layers[-1], len(lin.layers))


def _general_position(name, approximation, sizes, lin, damping) -> Iterator[Condition]:
    for index, (layer, size) in enumerate(zip(lin.layers, sizes, strict=True), start=1):
        if size.unknown is not None:
            return  # no constant is stated
        a = np.asarray(layer.inputs).reshape(-1, layer.inputs.shape[-1])
        rank, expected = gram_rank(a), size.input_rank(lin.num_samples)
        why = f"rank(a_{index}) is {rank} of {expected} in general position"
        if rank != expected:
            why += (
                ", so that alpha is another: inputs are copies or multiples of others, or zero"
                if index == 1
                else ", so that alpha is another: layers before this one have zero weights, or dead or saturated units"
            )
        yield Condition(name, rank == expected, rank, expected, why, index)


def _full_rank_inputs(name, approximation, sizes, lin, damping) -> Iterator[Condition]:
    for index, (layer, size) in enumerate(zip(lin.layers, sizes, strict=True), start=1):
        n, c, _, _ = layer.sensitivities.shape
        # A unit has at most this many independent Jacobian rows per sample, all in the range of a.
        rows = size.positions if size.unknown else size.geometry.windows
        yield _full_rank(name, layer, index, n * min(c, rows))


def _full_rank_features(name, approximation, sizes, lin, damping) -> Iterator[Condition]:
    # Layers before the last two add nothing to K, so that the network's inputs matter in short networks only.
    first = 0 if len(lin.layers) <= 2 else 1
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


def _full_rank_sensitivities(name, approximation, sizes, lin, damping) -> Iterator[Condition]:
    last = len(lin.layers)
    for index, (layer, size) in enumerate(zip(lin.layers, sizes, strict=True), start=1):
        delta = np.asarray(layer.sensitivities)
        n, c, t, m = delta.shape
        if index == last and (delta == delta[:1]).all() and gram_rank(delta[0].reshape(c, -1)) == c:
            continue  # then B is I_C in the basis of the outputs, whatever its rank
        # Not the measured live positions: if later weights are zero, there are none.
        live = t if size.unknown else size.geometry.live_positions
        rank, needed = gram_rank(delta.reshape(-1, m)), n * c * live
        why = f"rank(delta_{index}) is {rank} of N C T = {needed}"
        why += " that the outputs depend on" if live < t else ""
        if rank == 0:
            why += (
                ": no output depends on the layer; layers after it have zero weights or dead units"
            )
        elif rank < needed:
            why += ": widen the layer, use fewer samples, or a nonlinear activation"
        yield Condition(name, rank == needed, rank, needed, why, index)


def _many_units(name, approximation, sizes, lin, damping) -> Iterator[Condition]:
    if sizes[0].unknown is None:
        expected, units = dispersion_of_units(sizes), sum(s.live_units for s in sizes[:-1])
        origin = "expected"
    else:
        # Sizes say nothing about such a network, so it is measured how its units move the outputs.
        expected, units = _spread(_all_projectors(lin))[1], sum(s.num_units for s in sizes[:-1])
        origin = "measured"
    holds = expected < 0.1
    yield Condition(
        name,
        holds,
        expected,
        0.1,
        f"isotropic only as the width grows: dispersion {expected:.2g} {origin} of {units} hidden units"
        + ("" if holds else "; widen the network"),
    )


def _active_units(name, approximation, sizes, lin, damping) -> Iterator[Condition]:
    c, each = lin.output_dim, _all_projectors(lin)
    for index, (projectors, size) in enumerate(zip(each, sizes, strict=True), start=1):
        if index == len(sizes):
            continue
        if size.unknown is not None:
            moved = float(np.trace(projectors, axis1=1, axis2=2).mean())
            why = f"units of layer {index} move {moved:.3g} outputs a sample, all together"
            why += "" if moved > 0 else ": no output depends on the layer"
            yield Condition(name, moved > 0, moved, 0.0, why, index)
            continue
        most, expected = min(c, size.geometry.windows), size.unit_rank(c)
        found = float(np.trace(projectors, axis1=1, axis2=2).mean()) / size.live_units
        off = abs(found / expected - 1)
        # Three standard deviations of independent units.
        limit = min(0.5, 0.01 + 3 * ((most - expected) / (expected * size.live_units)) ** 0.5)
        why = f"units of layer {index} move {found:.3g} outputs a sample, where {expected:.3g} are expected"
        if not off <= limit:
            why += ": units are dead or saturated, weights behind them zero, or there are too few"
        yield Condition(name, off <= limit, off, limit, why, index)
    if sizes[0].unknown is not None:
        return  # many-units reports it
    _, spread = _spread(each)
    limit = 0.05 + 3 * dispersion_of_units(sizes)
    why = f"units move all outputs at all samples alike, but for {spread:.2g}"
    if not spread <= limit:
        why += ": at some samples more units are dead than at others, or weights of some outputs are zero or alike"
    yield Condition(name, spread <= limit, spread, limit, why)


def _all_projectors(lin: Linearization) -> list[np.ndarray]:
    return [_projectors(np.asarray(layer.sensitivities)) for layer in lin.layers]


def _spread(projectors: list[np.ndarray]) -> tuple[float, float]:
    """Mean and dispersion of the sum over all units, which gives K's blocks if every unit separates the samples."""
    total = sum(projectors[1:], projectors[0])
    n, c, _ = total.shape
    alpha = float(np.trace(total, axis1=1, axis2=2).mean()) / c
    deviation = float(np.sqrt(np.sum((total - alpha * np.eye(c)) ** 2) / (n * c)))
    return alpha, deviation / alpha if alpha > 0 else np.nan


def _projectors(delta: np.ndarray) -> np.ndarray:
    """Sum over units of the projectors onto the range of their (C, T) sensitivities, for each sample: (N, C, C)."""
    found = []
    for sample in delta:
        by_unit = np.moveaxis(sample, -1, 0).astype(float)
        scales = np.abs(by_unit).max(axis=(1, 2), keepdims=True)
        by_unit = by_unit / np.where(scales > 0, scales, 1)
        eigenvalues, vectors = np.linalg.eigh(by_unit @ np.swapaxes(by_unit, 1, 2))
        floor = max(sample.shape[:2]) * np.finfo(delta.dtype).eps * eigenvalues[:, -1:]
        kept = vectors * (eigenvalues > floor)[:, None, :]
        found.append(np.einsum("mck,mdk->cd", kept, kept))
    return np.stack(found)


def _isotropic_at_some_width(name, approximation, sizes, lin, damping) -> Iterator[Condition]:
    yield Condition(
        name, False, np.nan, np.nan, "the map keeps a spectrum of its own at every width"
    )


#: Requirement of approximations whose K is anisotropic at every width, by the theory. It never holds.
NEVER_ISOTROPIC = "isotropic-at-some-width"

CHECKS: dict[str, Callable[..., Iterator[Condition]]] = {
    "distinct-inputs": _distinct_inputs,
    "positive-definite-ntk": _positive_definite_ntk,
    "positive-definite-layer-kernels": _positive_definite_layer_kernels,
    "invertible-coupling": _invertible_coupling,
    "well-conditioned-damped-system": _well_conditioned_damped_system,
    "positive-damped-map": _positive_damped_map,
    "general-position": _general_position,
    "full-rank-inputs": _full_rank_inputs,
    "full-rank-features": _full_rank_features,
    "equal-leverages": _equal_leverages,
    "full-rank-sensitivities": _full_rank_sensitivities,
    "many-units": _many_units,
    "active-units": _active_units,
    NEVER_ISOTROPIC: _isotropic_at_some_width,
}

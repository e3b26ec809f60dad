"""The pipeline from settings to evidence, for every approximation on one network and data set."""

import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ngd_theory import dynamics, losses, networks, theory
from ngd_theory.dynamics import Trajectory
from ngd_theory.dynamics.limit import why_no_limit
from ngd_theory.dynamics.train import loss_value
from ngd_theory.errors import SingularKernelError
from ngd_theory.experiment.building import broken_premises, make_approximation
from ngd_theory.experiment.damped import damped_map
from ngd_theory.experiment.evidence import EDGE_SCALE, EDGE_STEPS, Evidence, LayerEvidence, LazyRun
from ngd_theory.experiment.experiment import Experiment, kernel_of
from ngd_theory.experiment.gaps import mean_contraction
from ngd_theory.experiment.generalisation import generalisation
from ngd_theory.experiment.scheme import Scheme
from ngd_theory.experiment.spectra import (
    checked_step_size,
    judged_map,
    largest_eigenvalue,
    symmetric_spectrum,
)
from ngd_theory.experiment.units import (
    active_shares,
    changed_sides,
    operator_displacement,
    output_spread,
)
from ngd_theory.fisher.base import train_and_test_maps
from ngd_theory.fisher.solve import gram_rank
from ngd_theory.kernels import infinite
from ngd_theory.numerics import norm
from ngd_theory.theory.isotropy import summarise

#: What can be measured beside the maps. "regime" is what decides whether the lazy theory applies.
PARTS = (
    "training",
    "lazy",
    "step",
    "damped",
    "undamped",
    "regime",
    "conditions",
    "edge",
    "limit",
    "drift",
    "layers",
    "batches",
    "generalisation",
    "features",
)
#: What the claims of ``verify`` read.
VERIFIED = ("training", "lazy", "step", "damped", "undamped", "regime", "conditions", "edge")
#: Largest epsilon of the runs at 1/alpha and beyond the edge of stability, which test the linear dynamics.
EDGE_LAZINESS = 0.01
#: Share of the damping at which a second map is measured, if even a small damping changes the map much.
NEARLY_UNDAMPED = 1e-4
#: Units in each layer over which the infinite-width unit-wise map is averaged.
_LIMIT_UNITS = 20_000

_norm = jax.jit(norm)


def measure(experiment: Experiment, name: str, parts: Iterable[str] = VERIFIED) -> Evidence:
    """Measure one approximation.

    Parameters
    ----------
    experiment : Experiment
    name : str
        Of the approximation.
    parts : iterable of str
        Names in `PARTS`; other parts are not computed.

    Raises
    ------
    SingularKernelError
        When a solve breaks down.
    """
    start = time.perf_counter()
    settings, lin, net, parts = experiment.settings, experiment.lin, experiment.network, set(parts)
    approximation = make_approximation(name, settings.loss, settings.sharing)
    # As large relative to the kernel as in the NTK parameterisation.
    damping = approximation.matched_damping(settings.damping) * net.readout_scale**2
    at = experiment.at if parts & {"training", "step", "generalisation"} else None
    k, q = train_and_test_maps(approximation, lin, damping, at)
    isotropy, judged = judged_map(k, lin.outputs, settings.loss)
    mse = settings.loss == "mse"
    constant = experiment.constant(approximation)
    scheme = Scheme.of(settings, lin.num_samples)
    rate = _rate(experiment, approximation, damping, scheme, k)
    step_size = checked_step_size(name, settings.step_scale, rate)
    options = scheme.options(rate)

    def train(step_size, steps, x_test, laziness=1.0):
        return dynamics.train(
            net,
            experiment.params,
            experiment.x,
            experiment.targets,
            approximation,
            step_size,
            steps,
            damping,
            x_test,
            settings.loss,
            laziness=laziness,
            **options,
        )

    def lazily(laziness, step_size, steps, x_test):
        found = train(step_size, steps, x_test, laziness)
        switched = _switched(experiment, found.params)
        return LazyRun(laziness, replace(found, params=None), switched)

    training = prediction = _start(experiment)
    drift, changes, lazy = None, None, ()
    if "training" in parts:
        prediction = _predict(experiment, approximation, k, q, step_size, damping, options)
        training = train(step_size, settings.steps, experiment.x_test)
        if "drift" in parts:
            drift = _kernel_drift(experiment, training.params)
        if "features" in parts:
            changes = theory.feature_changes(net, experiment.params, training.params, experiment.x)
        # The final parameters of all runs would take most of the memory.
        training = replace(training, params=None)
    if "lazy" in parts:
        how = step_size, settings.steps, experiment.x_test
        lazy = tuple(lazily(each, *how) for each in settings.chosen_laziness(experiment.dtype))
    first, beyond, limit, distance, bias = None, None, None, None, None
    # Their premises are checked on the main run, which takes another path if its steps are not plain.
    if "edge" in parts and mse and constant is not None and not scheme.words:
        nearest = min(EDGE_LAZINESS, *settings.chosen_laziness(experiment.dtype))
        first = lazily(nearest, 1 / constant, 1, None)
        beyond = lazily(nearest, EDGE_SCALE / constant, EDGE_STEPS, None)
    if "limit" in parts:
        distance = _kernel_distance(experiment)
        limit = _predict_limit(experiment, approximation, step_size, damping)
    nearly, undamped, shift = _nearly_undamped(experiment, approximation, k, damping, parts)

    def condition(rho):
        if "regime" not in parts:
            return np.inf
        seen = scheme.linearisations(lin)
        return max(approximation.solve_condition(each, rho) or 1.0 for each in seen)

    moved = furthest = None
    if "regime" in parts:
        moved, furthest = _moves(experiment, approximation, prediction, step_size, damping)
        bias = approximation.damping_bias(lin, nearly)
        if bias is None and undamped is not None:
            # No bound is known if positions share weights. The effect of the larger damping is an estimate.
            bias = shift
    general = None
    if "generalisation" in parts:
        general = generalisation(experiment.population, approximation, damping, k, q)
    conditions = None
    if "conditions" in parts:
        conditions = theory.check_conditions(approximation, net, lin, damping)
    return Evidence(
        approximation=approximation,
        network=net,
        num_samples=lin.num_samples,
        loss=settings.loss,
        damping=damping,
        step_scale=settings.step_scale,
        step_size=step_size,
        constant=constant,
        isotropy=isotropy,
        spectrum=symmetric_spectrum(k),
        damping_bias=bias,
        undamped=undamped,
        damping_shift=shift,
        judged_damping=nearly,
        output_spread=output_spread(lin, constant) if approximation.asymptotic else 0.0,
        solve_condition=condition(damping),
        map_condition=condition(nearly),
        conditions=conditions,
        targets=np.asarray(experiment.targets),
        prediction=prediction,
        training=training,
        first_step=first,
        beyond_edge=beyond,
        predicted_distance=np.inf if moved is None else float(_norm(moved)),
        parameter_norm=float(_norm(experiment.params)),
        displacement=operator_displacement(net, furthest),
        ntk_condition=experiment.condition,
        epsilon=float(jnp.finfo(k.dtype).eps),
        seconds=time.perf_counter() - start,
        limit=limit,
        map=judged,
        test_targets=None if experiment.at is None else experiment.dataset.test_targets,
        ntk_ends=(float(experiment.spectrum[0]), float(experiment.spectrum[-1])),
        kernel_drift=drift,
        feature_changes=changes,
        kernel_distance=distance,
        layers=_layers(experiment, approximation, damping) if "layers" in parts else (),
        broken_premises=broken_premises(settings, net, name),
        lazy=lazy,
        maps=(k, q),
        measured_sizes=experiment.sizes if experiment.constant_from == "ranks" else (),
        active_shares=active_shares(lin),
        generalisation=general,
        damped=_damped(experiment, approximation) if "damped" in parts else None,
        scheme=scheme.words,
        batch_size=None if scheme.batches is None else scheme.batches.shape[1],
        **(_batches(experiment, scheme, name, prediction) if "batches" in parts else {}),
        **(_step(experiment, approximation, k, q, damping) if "step" in parts else {}),
    )


def _start(experiment: Experiment) -> Trajectory:
    """A trajectory without steps."""
    lin, at = experiment.lin, experiment.at
    value = loss_value(losses.by_name(experiment.settings.loss), lin.outputs, experiment.targets)
    test = None if at is None else _alone(at.outputs)
    return Trajectory(_alone(lin.outputs), test, _alone(value), jnp.zeros(1, value.dtype))


def _alone(array):
    """A trajectory with one entry, made by NumPy: JAX would compile a program for each shape."""
    return jnp.asarray(np.asarray(array)[None])


def _rate(experiment: Experiment, approximation, damping, scheme: Scheme, k) -> float:
    """Divisor of the step scale: the largest alpha of a step's samples or, without alpha, eigenvalue of K."""
    seen = scheme.linearisations(experiment.lin)
    return max(_rate_of(experiment, approximation, damping, each, k) for each in seen)


def _rate_of(experiment: Experiment, approximation, damping, lin, k) -> float:
    constant = experiment.constant(approximation, lin)
    if constant is not None:
        return constant
    whole = lin is experiment.lin
    return largest_eigenvalue(k if whole else approximation.function_space_map(lin, damping))


def _batches(experiment: Experiment, scheme: Scheme, name: str, prediction) -> dict[str, float]:
    """``whitened_contraction`` and ``batch_bound`` of `Evidence`; NaN if the NTK has no inverse."""
    kernel, residuals = experiment.kernel, np.asarray(prediction.outputs - experiment.targets)
    if (
        not experiment.spectrum[0]
        > len(kernel) * np.finfo(kernel.dtype).eps * experiment.spectrum[-1]
    ):
        return {"whitened_contraction": np.nan, "batch_bound": np.nan}
    # The inverse root amplifies rounding errors of the residuals.
    rounding = float(np.finfo(residuals.dtype).eps * experiment.condition**0.5)
    whitened = np.linalg.solve(np.linalg.cholesky(kernel), residuals.reshape(len(residuals), -1).T)
    found = {"whitened_contraction": mean_contraction(np.linalg.norm(whitened, axis=0), rounding)}
    bound = scheme.bound(kernel, experiment.lin.output_dim) if name == "exact" else None
    return found if bound is None else {**found, "batch_bound": bound}


def _predict(
    experiment: Experiment, approximation, k, q, step_size, damping, options
) -> Trajectory:
    settings, lin, at = experiment.settings, experiment.lin, experiment.at
    how = (experiment.targets, step_size, settings.steps)
    if settings.loss != "mse" or options:
        return dynamics.predict(approximation, lin, *how, damping, at, settings.loss, **options)
    return dynamics.predict_from_maps(k, lin.outputs, *how, q, None if at is None else at.outputs)


@partial(jax.jit, static_argnums=0)
def _derivative(network, params, x, direction):
    """Derivative of the outputs along ``direction`` by JAX alone, without the factors of a linearisation."""
    return jax.jvp(lambda p: network.apply(p, x), (params,), (direction,))[1]


@jax.jit
def _against(image, a_map, residual):
    """Distance of ``image`` from K r, and ``||K|| ||r||``, both over ``||K r||``."""
    expected = a_map @ residual.reshape(-1)
    size = norm(expected)
    return norm(image.reshape(-1) - expected) / size, norm(a_map) * norm(residual) / size


@partial(jax.jit, static_argnums=0)
def _residual(objective, outputs, targets):
    return objective.residual(outputs, targets)


def _step(experiment: Experiment, approximation, k, q, damping) -> dict[str, float]:
    """``step_error`` and ``step_amplification`` of `Evidence`."""
    lin, settings = experiment.lin, experiment.settings
    residual = _residual(losses.by_name(settings.loss), lin.outputs, experiment.targets)
    direction = approximation.natural_gradient(lin, residual, damping)
    found = []
    for x, a_map in ((experiment.x, k), (experiment.x_test, q)):
        if a_map is not None:
            image = _derivative(experiment.network, experiment.params, x, direction)
            found.append([float(number) for number in _against(image, a_map, residual)])
    error, amplification = np.max(np.asarray(found), axis=0)
    return {"step_error": float(error), "step_amplification": float(amplification)}


def _nearly_undamped(experiment, approximation, k, damping, parts):
    """Damping at which statements about rho -> 0 are judged, isotropy of that K, and `Evidence.damping_shift`.

    The given damping and None if the approximation is not asymptotic, or if rounding leaves no digit of that K.
    """
    if not approximation.asymptotic or not damping > 0:
        return damping, None, 0.0
    if "undamped" not in parts:
        return damping, None, np.inf
    nearly, lin = NEARLY_UNDAMPED * damping, experiment.lin
    try:
        bare = approximation.function_space_map(lin, nearly)
    except SingularKernelError:
        return damping, None, np.inf
    isotropy, _ = judged_map(bare, lin.outputs, experiment.settings.loss)
    shift = np.linalg.norm(np.asarray(k) - np.asarray(bare)) / np.linalg.norm(bare)
    return nearly, isotropy, float(shift)


def _damped(experiment: Experiment, approximation):
    data = experiment.x, experiment.targets
    how = experiment.network, experiment.params, *data, experiment.settings.loss
    return damped_map(approximation, *how)


def _switched(experiment: Experiment, params) -> int:
    """See `LazyRun.switched`. Test samples count even if the run did not get the test set."""
    sets = [x for x in (experiment.x, experiment.x_test) if x is not None]
    return sum(int(changed_sides(experiment.network, experiment.params, params, x)) for x in sets)


def _predict_limit(experiment: Experiment, approximation, step_size, damping) -> Trajectory | None:
    """Prediction with the maps of infinite width from the same outputs; None for maps that have no limit."""
    if why_no_limit(approximation, experiment.network):
        return None
    at, settings = experiment.at, experiment.settings
    return dynamics.predict_limit(
        approximation,
        experiment.network,
        experiment.x,
        experiment.lin.outputs,
        experiment.targets,
        step_size,
        settings.steps,
        damping,
        experiment.x_test,
        None if at is None else at.outputs,
        key=jax.random.key(settings.seed),
        num_units=_LIMIT_UNITS,
    )


def _kernel_drift(experiment: Experiment, params) -> float:
    last = kernel_of(networks.linearize(experiment.network, params, experiment.x))
    return float(np.linalg.norm(last - experiment.kernel) / np.linalg.norm(experiment.kernel))


def _kernel_distance(experiment: Experiment) -> float:
    each = jnp.eye(experiment.lin.output_dim, dtype=experiment.dtype)
    limit = jnp.kron(infinite.ntk(experiment.network, experiment.x), each)
    limit = np.asarray(limit / experiment.lin.num_samples)
    return float(np.linalg.norm(experiment.kernel - limit) / np.linalg.norm(limit))


def _layers(experiment: Experiment, approximation, damping) -> tuple[LayerEvidence, ...]:
    """Share of each layer and the ranks of its factors; empty if the map is not a sum over layers."""
    if not approximation.by_layers:
        return ()
    lin = experiment.lin
    constants = experiment.layer_constants(approximation)
    maps = approximation.layer_maps(lin, damping)
    names = [name for name, layer in experiment.network.layers for _ in layer.parts]
    found = []
    for i, (layer, size, k) in enumerate(zip(lin.layers, experiment.sizes, maps, strict=True)):
        n, c, t, _ = layer.sensitivities.shape
        ranks = [
            gram_rank(np.asarray(v).reshape(-1, v.shape[-1]))
            for v in (layer.inputs, layer.sensitivities)
        ]
        place = "output" if i == len(lin.layers) - 1 else "hidden" if i else "first"
        full = ranks == [n * t, n * c * size.geometry.live_positions]
        found.append(
            LayerEvidence(
                i + 1,
                place,
                t,
                ranks[0],
                ranks[1],
                full,
                summarise(k),
                None if constants is None else constants[i],
                names[i],
                experiment.constant_from,
            )
        )
    return tuple(found)


# Steps that diverge overflow.
@np.errstate(over="ignore", invalid="ignore")
def _moves(experiment: Experiment, approximation, prediction, step_size, damping):
    """``theta_0 - theta_t`` of the linearised network at the last step, and at the one with the furthest outputs."""
    if (moved := prediction.displacement) is not None:
        distances = np.asarray(prediction.parameter_distances)
        # If a run turns back, this is an estimate: its last displacement, scaled to the longest distance.
        longer = float(np.max(distances) / distances[-1]) if distances[-1] > 0 else 1.0
        return moved, jax.tree.map(lambda leaf: longer * leaf, moved) if longer > 1.01 else moved

    outputs, targets = np.asarray(prediction.outputs), np.asarray(experiment.targets)

    def move(step: int):
        residuals = step_size * (outputs[:step] - targets).sum(0)
        if not np.isfinite(residuals).all():
            return None
        return approximation.natural_gradient(experiment.lin, jnp.asarray(residuals), damping)

    last = prediction.num_steps
    travelled = (outputs - np.asarray(experiment.lin.outputs)).reshape(last + 1, -1)
    reach = np.linalg.norm(travelled, axis=1)
    turn, moved = int(np.argmax(reach)), move(last)
    # A run that does not turn back is furthest at its last step, up to round-off.
    return moved, move(turn) if reach[turn] > 1.01 * reach[last] else moved

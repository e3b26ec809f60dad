"""The one pipeline: settings in, what they measure out, for every approximation on one network and data set."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse.linalg import svds

from ngd_theory import data, dynamics, losses, networks, theory
from ngd_theory.arguments import check_range
from ngd_theory.dynamics import Trajectory
from ngd_theory.dynamics.limit import why_no_limit
from ngd_theory.dynamics.train import loss_value
from ngd_theory.errors import SingularKernelError
from ngd_theory.experiment.building import (
    broken_premises,
    make_approximation,
    make_network,
    shaped,
)
from ngd_theory.experiment.damped import damped_map
from ngd_theory.experiment.evidence import EDGE_SCALE, EDGE_STEPS, Evidence, LayerEvidence, LazyRun
from ngd_theory.experiment.gaps import mean_contraction
from ngd_theory.experiment.generalisation import Population, generalisation
from ngd_theory.experiment.scheme import Scheme
from ngd_theory.experiment.settings import Settings
from ngd_theory.fisher.base import train_and_test_maps
from ngd_theory.fisher.solve import gram_rank
from ngd_theory.kernels import infinite, ntk
from ngd_theory.numerics import norm
from ngd_theory.theory.isotropy import summarise

#: What can be measured beside the maps. "regime": what says whether the lazy theory may speak at all.
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
#: Largest epsilon of the runs at 1/alpha and beyond the edge of stability, which are those of the linear dynamics.
EDGE_LAZINESS = 0.01
#: Share of the damping at which a map is measured that a small damping changes much.
NEARLY_UNDAMPED = 1e-4
#: Units a layer that the infinite-width unit-wise map is averaged over.
_LIMIT_UNITS = 20_000

_kernel = jax.jit(lambda lin: ntk(lin) / lin.num_samples)
_norm = jax.jit(norm)
_init = jax.jit(networks.Network.init, static_argnums=0)


@dataclass(frozen=True)
class Experiment:
    """One network and data set: what all approximations share.

    Attributes
    ----------
    settings : Settings
    dataset : ngd_theory.data.Dataset
    network : Network
    params : like ``network.init``
    lin, at : Linearization
        At the training and the test inputs; ``at`` is None without a test set, or where nothing is trained.
    kernel : (NC, NC) array
        Theta / N at initialisation.
    spectrum : (NC,) array
        Its eigenvalues, smallest first.
    """

    settings: Settings
    dataset: data.Dataset
    network: networks.Network
    params: tuple
    lin: networks.Linearization
    at: networks.Linearization | None
    kernel: np.ndarray
    spectrum: np.ndarray

    @classmethod
    def begin(
        cls,
        settings: Settings,
        dataset: data.Dataset,
        trained: bool = True,
        tell: Callable[[str], None] = lambda message: None,
    ) -> "Experiment":
        """Draw and linearise the network.

        Raises
        ------
        InputError
            For rows of the data beyond the range of the run's type.
        SingularKernelError
            For a network that is of no use at its start: see `kernel_spectrum`, or one that gives its targets already.
        """
        net = make_network(settings, dataset)
        tell(f"linearising {net.num_parameters:,} parameters at {dataset.num_train} samples")
        params = _init(net, jax.random.key(settings.seed))
        dtype = jnp.zeros(()).dtype
        for rows in ("inputs", "targets", "test_inputs", "test_targets"):
            check_range(rows, getattr(dataset, rows), dtype)

        def linearize(inputs):
            return networks.linearize(net, params, shaped(net, inputs, dtype))

        lin = linearize(dataset.inputs)
        at = linearize(dataset.test_inputs) if trained and dataset.num_test else None
        if settings.loss == "mse" and not np.any(np.asarray(lin.outputs) != dataset.targets):
            raise SingularKernelError(
                "the network gives its targets at its start already, so there is no residual to train away: change the "
                "seed or the targets"
            )
        kernel = np.asarray(_kernel(lin))
        return cls(settings, dataset, net, params, lin, at, kernel, kernel_spectrum(kernel))

    @cached_property
    def x(self):
        """Training inputs as the network takes them."""
        return shaped(self.network, self.dataset.inputs, self.dtype)

    @cached_property
    def x_test(self):
        """Test inputs, or None."""
        return (
            None if self.at is None else shaped(self.network, self.dataset.test_inputs, self.dtype)
        )

    @cached_property
    def targets(self):
        """(N, C) array."""
        return jnp.asarray(self.dataset.targets, self.dtype)

    @cached_property
    def sizes(self) -> tuple[networks.LayerSize, ...]:
        """Of the layers: with ranks that the theory knows beforehand, or else with measured ones."""
        if self.constant_from == "sizes":
            return self.network.layer_sizes
        return theory.measured_sizes(self.lin)

    def constant(self, approximation, lin: networks.Linearization | None = None) -> float | None:
        """Alpha, of sizes or of measured ranks; of a batch where its linearisation is given."""
        seen = self.lin if lin is None else lin
        if self.constant_from == "ranks":
            return theory.measured_constant(approximation, seen)
        return approximation.isotropy_constant(self.sizes, seen.num_samples)

    @cached_property
    def population(self) -> Population:
        """The pool of training and unlabelled inputs."""
        how = self.network, self.params, self.x, self.x_test
        return Population.of(*how, self.settings.damping * self.network.readout_scale**2)

    @property
    def constant_from(self) -> str:
        """See `Evidence.constant_from`."""
        return "sizes" if self.network.layer_sizes[0].unknown is None else "ranks"

    @property
    def dtype(self):
        """Of all numbers."""
        return self.lin.outputs.dtype

    @property
    def condition(self) -> float:
        """``lambda_max(Theta)/lambda_min(Theta)``, the smallest not below round-off."""
        floor = len(self.spectrum) * np.finfo(self.spectrum.dtype).eps * self.spectrum[-1]
        return float(self.spectrum[-1] / max(self.spectrum[0], floor))


def measure(experiment: Experiment, name: str, parts: Iterable[str] = VERIFIED) -> Evidence:
    """Measure one approximation.

    Parameters
    ----------
    experiment : Experiment
    name : str
        Of the approximation.
    parts : iterable of str
        Of `PARTS`; what is not among them is not computed.

    Raises
    ------
    SingularKernelError
        When a solve breaks down.
    """
    start = time.perf_counter()
    settings, lin, net, parts = experiment.settings, experiment.lin, experiment.network, set(parts)
    approximation = make_approximation(name, settings.loss, settings.sharing)
    # As large beside the kernel as under the NTK parameterisation, so that K is the same.
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

    def train(step_size, steps, x_test, laziness=1.0, options=options):
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

    def lazily(laziness, step_size, steps, x_test, options=options):
        found = train(step_size, steps, x_test, laziness, options)
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
        # Final parameters of every run together would be most of the memory.
        training = replace(training, params=None)
    if "lazy" in parts:
        how = step_size, settings.steps, experiment.x_test
        lazy = tuple(lazily(each, *how) for each in settings.chosen_laziness(experiment.dtype))
    first, beyond, limit, distance, bias = None, None, None, None, None
    if "edge" in parts and mse and constant is not None:
        nearest = min(EDGE_LAZINESS, *settings.chosen_laziness(experiment.dtype))
        # Statements about K: plain steps on the full batch, whatever the others are.
        first = lazily(nearest, 1 / constant, 1, None, {})
        beyond = lazily(nearest, EDGE_SCALE / constant, EDGE_STEPS, None, {})
    if "limit" in parts:
        distance = _kernel_distance(experiment)
        limit = _predict_limit(experiment, approximation, step_size, damping)
    nearly, undamped, shift = _nearly_undamped(experiment, approximation, k, damping, parts)

    def condition(rho):
        return (approximation.solve_condition(lin, rho) or 1.0) if "regime" in parts else np.inf

    moved = furthest = None
    if "regime" in parts:
        moved, furthest = _moves(experiment, approximation, prediction, step_size, damping)
        bias = approximation.damping_bias(lin, nearly)
        if bias is None and undamped is not None:
            # No bound is known where positions share weights: an estimate by what the larger damping takes.
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
        spectrum=_symmetric_spectrum(k),
        damping_bias=bias,
        undamped=undamped,
        damping_shift=shift,
        judged_damping=nearly,
        output_spread=_output_spread(lin, constant) if approximation.asymptotic else 0.0,
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
        displacement=_operator_displacement(net, furthest),
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
        active_shares=_active_shares(lin),
        generalisation=general,
        damped=_damped(experiment, approximation) if "damped" in parts else None,
        scheme=scheme.words,
        batch_size=None if scheme.batches is None else scheme.batches.shape[1],
        **(_batches(experiment, scheme, name, prediction) if "batches" in parts else {}),
        **(_step(experiment, approximation, k, q, damping) if "step" in parts else {}),
    )


def _start(experiment: Experiment) -> Trajectory:
    """A run of no step."""
    lin, at = experiment.lin, experiment.at
    value = loss_value(losses.by_name(experiment.settings.loss), lin.outputs, experiment.targets)
    test = None if at is None else _alone(at.outputs)
    return Trajectory(_alone(lin.outputs), test, _alone(value), jnp.zeros(1, value.dtype))


def _alone(array):
    """One entry of a trajectory; by NumPy, as each shape would be a program."""
    return jnp.asarray(np.asarray(array)[None])


def _rate(experiment: Experiment, approximation, damping, scheme: Scheme, k) -> float:
    """What the step scale is divided by: alpha of what a step sees, or the largest eigenvalue of its K there."""
    seen = scheme.linearisations(experiment.lin)
    constant = experiment.constant(approximation, seen[0])
    if constant is not None:
        return constant
    if len(seen) == 1:
        return largest_eigenvalue(k)
    maps = (approximation.function_space_map(each, damping) for each in seen)
    return max(map(largest_eigenvalue, maps))


def _batches(experiment: Experiment, scheme: Scheme, name: str, prediction) -> dict[str, float]:
    """``whitened_contraction`` and ``batch_bound`` of `Evidence`; NaN where the NTK has no inverse."""
    kernel, residuals = experiment.kernel, np.asarray(prediction.outputs - experiment.targets)
    if (
        not experiment.spectrum[0]
        > len(kernel) * np.finfo(kernel.dtype).eps * experiment.spectrum[-1]
    ):
        return {"whitened_contraction": np.nan, "batch_bound": np.nan}
    whitened = np.linalg.solve(np.linalg.cholesky(kernel), residuals.reshape(len(residuals), -1).T)
    found = {"whitened_contraction": mean_contraction(np.linalg.norm(whitened, axis=0))}
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
    """Of the outputs, by JAX alone: nothing of a linearisation's factors is in it."""
    return jax.jvp(lambda p: network.apply(p, x), (params,), (direction,))[1]


@jax.jit
def _against(image, a_map, residual):
    """Distance of ``image`` from K r, and how much more K r is rounded than K, both over ``||K r||``."""
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


def _output_spread(lin: networks.Linearization, constant) -> float:
    """See `Evidence.output_spread`; 0 where positions share weights, whose blocks are of full rank.

    A unit that is active on a sample adds the projector on its sensitivities to the outputs there. Summed over units it
    is ``delta delta^T`` of the next layer over its trace: not a multiple of the identity at a finite width.
    """
    layers, c = lin.layers, lin.output_dim
    if c == 1 or constant is None or any(layer.inputs.shape[1] > 1 for layer in layers):
        return 0.0
    total = np.zeros((lin.num_samples, c, c))
    for layer, following in pairwise(layers[:-1]):
        active = np.any(np.asarray(layer.sensitivities)[:, :, 0] != 0, axis=1).sum(1)
        delta = np.asarray(following.sensitivities)[:, :, 0]
        gram = np.einsum("ncm,ndm->ncd", delta, delta)
        mean = np.trace(gram, axis1=1, axis2=2) / c
        share = gram / np.where(mean > 0, mean, 1)[:, None, None] - np.eye(c)
        total += (active * (mean > 0) / c)[:, None, None] * share
    return float(np.sqrt(np.sum(total**2) / (lin.num_samples * c)) / constant)


def _nearly_undamped(experiment, approximation, k, damping, parts):
    """The damping that statements about rho -> 0 are judged at, the isotropy of that K, and `Evidence.damping_shift`.

    The damping given and None where the approximation is isotropic at every width, or rounding leaves that K no digit.
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
    """See `LazyRun.switched`; of all samples, whether a run was told of the test set or not."""
    sets = [x for x in (experiment.x, experiment.x_test) if x is not None]
    return sum(int(_changes(experiment.network, experiment.params, params, x)) for x in sets)


@partial(jax.jit, static_argnums=0)
def _changes(network, before, after, x):
    """How many pre-activations before a function with a kink are on another side of 0."""
    pairs = zip(_sides(network, before, x), _sides(network, after, x), strict=True)
    return sum((jnp.sum(a != b) for a, b in pairs), start=jnp.zeros((), int))


def _sides(network, params, x):
    """Whether each pre-activation before a function that may have a kink is above 0.

    An estimate where the network is no chain: its kinks are where its forward function has them, and the
    pre-activations of all layers but the last are counted in their place.
    """
    smooth = [network.smooth] * (network.depth - 1) + [True]
    if network.is_chain:
        smooth = [block.smooth for block in network.blocks]
    _, given = network.forward(params, x, None)
    made = network.preactivations(params, given)
    pairs = zip(network.calls, made, strict=True)
    return [u > 0 for call, u in pairs if not smooth[call.layer]]


def _active_shares(lin: networks.Linearization) -> np.ndarray | None:
    """See `Evidence.active_shares`."""
    if any(layer.inputs.shape[1] > 1 for layer in lin.layers):
        return None
    hidden = [np.asarray(layer.sensitivities)[:, :, 0] for layer in lin.layers[:-1]]
    return np.concatenate([np.any(delta != 0, axis=1).mean(0) for delta in hidden] or [np.empty(0)])


def _predict_limit(experiment: Experiment, approximation, step_size, damping) -> Trajectory | None:
    """With the maps of the infinite width, from the same outputs; None for maps that have no limit."""
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
    last = np.asarray(_kernel(networks.linearize(experiment.network, params, experiment.x)))
    return float(np.linalg.norm(last - experiment.kernel) / np.linalg.norm(experiment.kernel))


def _kernel_distance(experiment: Experiment) -> float:
    each = jnp.eye(experiment.lin.output_dim, dtype=experiment.dtype)
    limit = jnp.kron(infinite.ntk(experiment.network, experiment.x), each)
    limit = np.asarray(limit / experiment.lin.num_samples)
    return float(np.linalg.norm(experiment.kernel - limit) / np.linalg.norm(limit))


def _layers(experiment: Experiment, approximation, damping) -> tuple[LayerEvidence, ...]:
    """Each layer's share of a map that is a sum over them, and the ranks of what it is made of; none of another."""
    if not approximation.by_layers:
        return ()
    lin = experiment.lin
    constants = approximation.layer_constants(experiment.sizes, lin.num_samples)
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


# Steps that diverge leave the range of floats.
@np.errstate(over="ignore", invalid="ignore")
def _moves(experiment: Experiment, approximation, prediction, step_size, damping):
    """``theta_0 - theta_t`` of the linearised network: at the last step, and where its outputs are furthest away."""
    if prediction.displacement is not None:
        return prediction.displacement, prediction.displacement

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
    # Steps that do not turn back are furthest at the last, up to round-off.
    return moved, move(turn) if reach[turn] > 1.01 * reach[last] else moved


def judged_map(k, outputs, loss: str) -> tuple[theory.Isotropy, np.ndarray]:
    """Isotropy of what the theory's constant is of, and that map.

    Under MSE it is K. Under another loss the Fisher of the outputs is ``Lambda = R R^T``, and what is a multiple of
    the identity is ``R^T K R`` on the range of Lambda: its mean eigenvalue there is ``tr(K Lambda) / rank Lambda``.
    (K itself grows as 1/rho across that range, where no residual lies.)

    Parameters
    ----------
    k : (NC, NC) array
        The train map.
    outputs : (N, C) array
    loss : str

    Returns
    -------
    Isotropy
    (NC, NC) array
    """
    root = losses.by_name(loss).fisher_root(jnp.asarray(outputs))
    if root is None:
        return summarise(jnp.asarray(k)), np.asarray(k)
    roots = np.asarray(root)
    n, c, _ = roots.shape
    blocks = np.asarray(k).reshape(n, c, n, c)
    seen = np.einsum("nca,ncmd,mdb->namb", roots, blocks, roots, optimize=True)
    seen = seen.reshape(n * c, n * c)
    rank = int(sum(np.linalg.matrix_rank(block) for block in roots))
    if rank == 0:
        raise SingularKernelError(
            "the Fisher of the outputs is zero: the network is certain of every sample at its start; lower weight_std"
        )
    eigenvalues = np.linalg.eigvalsh((seen + seen.T) / 2)[-rank:]
    mean = eigenvalues.mean()
    summary = (mean, eigenvalues.std() / mean, eigenvalues[0], eigenvalues[-1])
    return theory.Isotropy(*map(jnp.asarray, summary)), seen


def largest_eigenvalue(k) -> float:
    """Of the symmetric part of a map."""
    return float(_symmetric_spectrum(k)[-1])


def _symmetric_spectrum(k) -> np.ndarray:
    k = np.asarray(k)
    return np.linalg.eigvalsh((k + k.T) / 2)


def kernel_spectrum(kernel: np.ndarray) -> np.ndarray:
    """Eigenvalues of the NTK over N at the start, smallest first.

    Raises
    ------
    SingularKernelError
        If the network at its start is of no use: its kernel is zero or beyond the range of its floats.
    """
    mend = "change weight_std, the depth, the width or the seed"
    if not np.isfinite(kernel).all():
        raise SingularKernelError(
            f"the network's kernel at its start is beyond the range of {kernel.dtype}: {mend}, or scale the data"
        )
    spectrum = np.linalg.eigvalsh(kernel)
    # Below this its round-off is no number of its own.
    if not spectrum[-1] > np.finfo(kernel.dtype).tiny / np.finfo(kernel.dtype).eps:
        raise SingularKernelError(
            "the network's kernel at its start is zero, or as good as zero: no output depends on the parameters "
            f"(every unit is dead, or the weights are tiny); {mend}"
        )
    return spectrum


def checked_step_size(name: str, scale: float, rate: float) -> float:
    """``scale / rate``, where both are positive and finite.

    Raises
    ------
    SingularKernelError
        For the map of an approximation that turns steps round or moves nothing.
    """
    size = scale / rate if rate > 0 else np.nan
    if not 0 < size < np.inf:
        raise SingularKernelError(
            f"{name}: no step size follows from a step scale of {scale:g} over {rate:.3g}, the constant or largest "
            "eigenvalue of K: change the step scale, the damping or the network"
        )
    return size


def _operator_displacement(network, moved) -> float:
    """See `Evidence.displacement`."""
    if moved is None:
        return np.inf  # beyond all numbers, or not measured
    found = [0.0]
    changes = moved if network.parts is None else network.parts.split(moved)
    last = len(network.layouts) - 1
    for index, (layout, change) in enumerate(zip(network.layouts, changes, strict=True)):
        # Features follow the layer unless it is the last; sensitivities lie before it unless the first.
        widths = [layout.num_units] * (index < last) + [layout.num_inputs] * (index > 0)
        if widths:
            matrix = np.asarray(layout.to_matrix(change))
            found.append(_operator_norm(matrix) / min(widths) ** 0.5)
    return max(found)


def _operator_norm(matrix: np.ndarray) -> float:
    if not np.all(np.isfinite(matrix)):
        return np.inf
    # ARPACK takes a matrix of tiny entries for zero.
    scale = float(np.max(np.abs(matrix)))
    if min(matrix.shape) < 10 or scale == 0:
        return float(np.linalg.norm(matrix, 2))
    start = np.random.default_rng(0).normal(size=min(matrix.shape))
    # scipy's stubs think that tol is an integer.
    largest = svds(matrix / scale, k=1, tol=1e-3, v0=start, return_singular_vectors=False)  # pyright: ignore[reportArgumentType]
    return scale * float(np.asarray(largest)[0])

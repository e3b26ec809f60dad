"""The one pipeline: settings in, what they measure out, for every approximation on one network and data set."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse.linalg import svds

from ngd_theory import data, dynamics, fisher, losses, networks, theory
from ngd_theory.arguments import check_range, checked
from ngd_theory.data.sources.npz import npz_input_dim, npz_output_dim
from ngd_theory.dynamics import Trajectory
from ngd_theory.errors import InputError, SingularKernelError
from ngd_theory.experiment.claim import Outcome, Verdict, judge
from ngd_theory.experiment.evidence import EDGE_SCALE, EDGE_STEPS, Evidence, LayerEvidence, LazyRun
from ngd_theory.experiment.settings import Settings
from ngd_theory.fisher.solve import gram_rank
from ngd_theory.kernels import infinite, ntk
from ngd_theory.numerics import norm
from ngd_theory.theory.isotropy import summarise

#: What can be measured beside the maps. "regime": what says whether the lazy theory may speak at all.
PARTS = ("training", "lazy", "step", "regime", "conditions", "edge", "limit", "drift", "layers")
#: What the claims of ``verify`` read.
VERIFIED = ("training", "lazy", "step", "regime", "conditions", "edge")
#: Largest epsilon of the run beyond the edge of stability, which is that of the linear dynamics.
EDGE_LAZINESS = 0.01
#: Units a layer that the infinite-width unit-wise map is averaged over.
_LIMIT_UNITS = 20_000

_kernel = jax.jit(lambda lin: ntk(lin) / lin.num_samples)
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
            return networks.linearize(net, params, _shaped(net, inputs, dtype))

        lin = linearize(dataset.inputs)
        at = linearize(dataset.test_inputs) if trained and dataset.num_test else None
        if settings.loss == "mse" and not bool(jnp.any(lin.outputs != dataset.targets)):
            raise SingularKernelError(
                "the network gives its targets at its start already, so there is no residual to train away: change the "
                "seed or the targets"
            )
        kernel = np.asarray(_kernel(lin))
        return cls(settings, dataset, net, params, lin, at, kernel, kernel_spectrum(kernel))

    @cached_property
    def x(self):
        """Training inputs as the network takes them."""
        return _shaped(self.network, self.dataset.inputs, self.dtype)

    @cached_property
    def x_test(self):
        """Test inputs, or None."""
        return (
            None if self.at is None else _shaped(self.network, self.dataset.test_inputs, self.dtype)
        )

    @cached_property
    def targets(self):
        """(N, C) array."""
        return jnp.asarray(self.dataset.targets, self.dtype)

    @property
    def dtype(self):
        """Of all numbers."""
        return self.lin.outputs.dtype

    @property
    def condition(self) -> float:
        """``lambda_max(Theta)/lambda_min(Theta)``, the smallest not below round-off."""
        floor = len(self.spectrum) * np.finfo(self.spectrum.dtype).eps * self.spectrum[-1]
        return float(self.spectrum[-1] / max(self.spectrum[0], floor))


@dataclass(frozen=True)
class Report:
    """Everything one verification run found.

    Attributes
    ----------
    settings : Settings
    dataset : ngd_theory.data.Dataset
    network : Network
    evidence : dict of str to Evidence
    verdicts : tuple of Verdict
    seconds : float
    """

    settings: Settings
    dataset: data.Dataset
    network: networks.Network
    evidence: dict[str, Evidence]
    verdicts: tuple[Verdict, ...]
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether something was shown, and no claim failed."""
        outcomes = {v.outcome for v in self.verdicts}
        return Outcome.PASS in outcomes and Outcome.FAIL not in outcomes


@checked
def verify(settings: Settings, progress: Callable[[str], None] | None = None) -> Report:
    """Check the theory on one network and data set.

    Runs in whatever precision JAX is set to; `settings.precision` is applied by the command line.

    Parameters
    ----------
    settings : Settings
    progress : callable, optional
        Told what is about to be done.

    Raises
    ------
    InputError
        For data or settings that cannot be run.
    SingularKernelError
        When a solve breaks down: it says which layer and what to change.
    """
    tell = progress or (lambda message: None)
    start = time.perf_counter()
    tell(f"reading {settings.dataset}")
    experiment = Experiment.begin(settings, load_data(settings), tell=tell)
    parts = (*VERIFIED, "limit") if settings.kernel == "infinite" else VERIFIED
    evidence = {}
    for name in settings.chosen_approximations:
        tell(name)
        evidence[name] = measure(experiment, name, parts)
    tell("judging the claims")
    found = (settings, experiment.dataset, experiment.network, evidence, judge(evidence))
    return Report(*found, time.perf_counter() - start)


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
    damping = approximation.matched_damping(settings.damping)
    k = approximation.function_space_map(lin, damping)
    isotropy, judged = judged_map(k, lin.outputs, settings.loss)
    mse = settings.loss == "mse"
    constant = theory.isotropy_constant(approximation, net, lin.num_samples)
    rate = largest_eigenvalue(k) if constant is None else constant
    step_size = checked_step_size(name, settings.step_scale, rate)

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
        )

    def lazily(laziness, step_size, steps, x_test):
        return LazyRun(laziness, replace(train(step_size, steps, x_test, laziness), params=None))

    training = prediction = _start(experiment)
    drift, lazy = None, ()
    q = None
    if experiment.at is not None and parts & {"training", "step"}:
        q = approximation.function_space_map(lin, damping, experiment.at)
    if "training" in parts:
        prediction = _predict(experiment, approximation, k, q, step_size, damping)
        training = train(step_size, settings.steps, experiment.x_test)
        if "drift" in parts:
            drift = _kernel_drift(experiment, training.params)
        # Final parameters of every run together would be most of the memory.
        training = replace(training, params=None)
    if "lazy" in parts and mse:
        how = step_size, settings.steps, experiment.x_test
        lazy = tuple(lazily(each, *how) for each in settings.chosen_laziness(experiment.dtype))
    beyond, limit, distance, bias = None, None, None, None
    if "edge" in parts and mse and constant is not None:
        nearest = min(EDGE_LAZINESS, *settings.chosen_laziness(experiment.dtype))
        beyond = lazily(nearest, EDGE_SCALE / constant, EDGE_STEPS, None)
    if "limit" in parts:
        distance = _kernel_distance(experiment)
        limit = _predict_limit(experiment, approximation, step_size, damping)
    moved = furthest = None
    if "regime" in parts:
        moved, furthest = _moves(experiment, approximation, prediction, step_size, damping)
        bias = approximation.damping_bias(lin, damping)
    checked = "conditions" in parts
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
        spectrum=np.linalg.eigvalsh(np.asarray((k + k.T) / 2)),
        damping_bias=bias,
        conditions=theory.check_conditions(approximation, net, lin, damping) if checked else (),
        targets=np.asarray(experiment.targets),
        prediction=prediction,
        training=training,
        beyond_edge=beyond,
        predicted_distance=np.inf if moved is None else float(norm(moved)),
        parameter_norm=float(norm(experiment.params)),
        displacement=_operator_displacement(net, furthest),
        ntk_condition=experiment.condition,
        epsilon=float(jnp.finfo(k.dtype).eps),
        seconds=time.perf_counter() - start,
        limit=limit,
        map=judged,
        test_targets=None if experiment.at is None else experiment.dataset.test_targets,
        ntk_ends=(float(experiment.spectrum[0]), float(experiment.spectrum[-1])),
        kernel_drift=drift,
        kernel_distance=distance,
        layers=_layers(experiment, approximation, damping) if "layers" in parts else (),
        broken_premises=broken_premises(settings, net, name),
        lazy=lazy,
        **(_step(experiment, approximation, k, q, damping) if "step" in parts else {}),
    )


def broken_premises(settings: Settings, network: networks.Network, name: str) -> dict[str, str]:
    """Premises of isotropy that sizes alone show to fail; see `Approximation.broken_premises`."""
    approximation = make_approximation(name, settings.loss, settings.sharing)
    equal = settings.forster and settings.bias_std == 0
    return approximation.broken_premises(network.layer_sizes, settings.num_train, equal)


def _start(experiment: Experiment) -> Trajectory:
    """A run of no step."""
    lin, at = experiment.lin, experiment.at
    value = losses.by_name(experiment.settings.loss).value(lin.outputs, experiment.targets)
    test = None if at is None else at.outputs[None]
    return Trajectory(lin.outputs[None], test, value[None], jnp.zeros(1, value.dtype))


def _predict(experiment: Experiment, approximation, k, q, step_size, damping) -> Trajectory:
    settings, lin, at = experiment.settings, experiment.lin, experiment.at
    how = (experiment.targets, step_size, settings.steps)
    if settings.loss != "mse":
        return dynamics.predict(approximation, lin, *how, damping, at, settings.loss)
    return dynamics.predict_from_maps(k, lin.outputs, *how, q, None if at is None else at.outputs)


@partial(jax.jit, static_argnums=0)
def _derivative(network, params, x, direction):
    """Of the outputs, by JAX alone: nothing of a linearisation's factors is in it."""
    return jax.jvp(lambda p: network.apply(p, x), (params,), (direction,))[1]


def _step(experiment: Experiment, approximation, k, q, damping) -> dict[str, float]:
    """``step_error`` and ``step_amplification`` of `Evidence`."""
    lin, settings = experiment.lin, experiment.settings
    residual = losses.by_name(settings.loss).residual(lin.outputs, experiment.targets)
    direction = approximation.natural_gradient(lin, residual, damping)
    found = []
    for x, a_map in ((experiment.x, k), (experiment.x_test, q)):
        if a_map is not None:
            image = _derivative(experiment.network, experiment.params, x, direction).reshape(-1)
            expected = a_map @ residual.reshape(-1)
            pair = norm(image - expected), norm(a_map) * norm(residual)
            found.append([float(number / norm(expected)) for number in pair])
    error, amplification = np.max(np.asarray(found), axis=0)
    return {"step_error": float(error), "step_amplification": float(amplification)}


def _predict_limit(experiment: Experiment, approximation, step_size, damping) -> Trajectory | None:
    """With the maps of the infinite width, from the same outputs; None for maps that have no limit."""
    if not approximation.has_limit:
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
    """Each layer's share of a map that is a sum over them, and the ranks of what it is made of."""
    lin, net = experiment.lin, experiment.network
    constants = approximation.layer_constants(net.layer_sizes, lin.num_samples)
    maps = approximation.layer_maps(lin, damping)
    found = []
    for i, (layer, size, k) in enumerate(zip(lin.layers, net.layer_sizes, maps, strict=True)):
        n, c, t, _ = layer.sensitivities.shape
        ranks = [
            gram_rank(np.asarray(v).reshape(-1, v.shape[-1]))
            for v in (layer.inputs, layer.sensitivities)
        ]
        place = "output" if i == net.depth - 1 else "hidden" if i else "first"
        full = ranks == [n * t, n * c * size.geometry.live_positions]
        alpha = None if constants is None else constants[i]
        found.append(LayerEvidence(i + 1, place, t, ranks[0], ranks[1], full, summarise(k), alpha))
    return tuple(found)


def _moves(experiment: Experiment, approximation, prediction, step_size, damping):
    """``theta_0 - theta_t`` of the linearised network: at the last step, and where its outputs are furthest away."""
    if experiment.settings.loss != "mse":
        return prediction.displacement, prediction.displacement

    def move(step: int):
        residuals = step_size * (prediction.outputs[:step] - experiment.targets).sum(0)
        if not bool(jnp.isfinite(residuals).all()):
            return None
        return approximation.natural_gradient(experiment.lin, residuals, damping)

    last = prediction.num_steps
    travelled = (prediction.outputs - experiment.lin.outputs).reshape(last + 1, -1)
    reach = jnp.linalg.norm(travelled, axis=1)
    turn, moved = int(jnp.argmax(reach)), move(last)
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
    return float(np.linalg.eigvalsh(np.asarray(k + k.T) / 2)[-1])


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


def load_data(settings: Settings) -> data.Dataset:
    """The data set that the settings ask for."""
    return data.load(
        settings.dataset,
        classes=settings.chosen_classes,
        num_train=settings.num_train,
        num_test=settings.num_test,
        seed=settings.seed,
        forster=settings.forster,
        input_dim=settings.chosen_dims[0],
        output_dim=settings.chosen_dims[1],
        data_dir=settings.data_dir,
        targets=_target_coding(settings),
    )


def _target_coding(settings: Settings) -> str:
    return "one-hot" if settings.loss == "cross-entropy" else "centred"


class DataSize(NamedTuple):
    """What a network must know of its data."""

    input_dim: int
    output_dim: int
    input_shape: tuple[int, ...] = ()


def data_size(settings: Settings) -> DataSize:
    """M_0 and C of the data that the settings ask for; one row of them is prepared, and of a file its targets read.

    Raises
    ------
    InputError
        If there are no such data.
    """
    input_dim, output_dim = settings.chosen_dims
    if input_dim is not None and output_dim is not None:
        return DataSize(input_dim, output_dim)
    path = Path(settings.dataset).expanduser()
    if path.suffix == ".npz" and settings.architecture == "mlp":
        coding = _target_coding(settings)
        found = npz_output_dim(path, settings.chosen_classes, coding, output_dim)
        return DataSize(input_dim or npz_input_dim(path), found)
    one = {"num_train": 1, "num_test": 0, "forster": False, "input_dim": None}
    found = load_data(settings.model_copy(update=one))
    return DataSize(input_dim or found.input_dim, found.output_dim, found.input_shape)


def data_digest(settings: Settings) -> str:
    """`Dataset.digest` of the data that the settings ask for; what is done to the rows is left out."""
    plain: dict[str, Any] = {"forster": False}
    if settings.dataset != "gaussian":
        plain["input_dim"] = None
    return load_data(settings.model_copy(update=plain)).digest


def make_network(settings: Settings, dataset: data.Dataset | DataSize) -> networks.Network:
    """The network that the settings ask for.

    Raises
    ------
    InputError
        For a cnn on data that are no images.
    """
    scales = (settings.weight_std, settings.bias_std)
    hidden = [settings.width] * (settings.depth - 1)
    if settings.architecture == "mlp":
        return networks.mlp(
            dataset.input_dim, hidden, dataset.output_dim, settings.activation, *scales
        )
    shape = settings.image_shape or dataset.input_shape
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3:
        raise InputError(f"a cnn takes images; the inputs of {settings.dataset} have shape {shape}")
    return networks.cnn(
        shape,
        hidden,
        dataset.output_dim,
        settings.kernel_size,
        settings.stride,
        settings.padding,
        settings.activation,
        settings.readout,
        *scales,
        pool=settings.pool,
    )


def _shaped(network, inputs, dtype):
    """Rows of numbers as the network takes them."""
    return jnp.asarray(inputs, dtype).reshape(len(inputs), *network.input_shape)


def _operator_displacement(network, moved) -> float:
    """See `Evidence.displacement`."""
    if moved is None:
        return np.inf  # beyond all numbers, or not measured
    found = [0.0]
    for index, (size, block, change) in enumerate(
        zip(network.layer_sizes, network.blocks, moved, strict=True)
    ):
        # Features follow the layer unless it is the last; sensitivities lie before it unless the first.
        widths = [size.num_units] * (index < network.depth - 1) + [size.num_inputs] * (index > 0)
        if widths:
            matrix = np.asarray(block.affine.layout.to_matrix(change))
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


def make_approximation(name: str, loss: str, sharing: str = "expand") -> fisher.Approximation:
    """The approximation called ``name``, with the Fisher of ``loss``."""
    options: dict[str, Any] = {} if sharing == "expand" else {"sharing": sharing}
    if loss != losses.MSE.name and name != "identity":
        options["kind"] = fisher.TrueFisher(loss)
    return fisher.by_name(name, **options)

"""Run one network through every approximation and judge the claims."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse.linalg import svds

from ngd_theory import data, dynamics, fisher, losses, networks, theory
from ngd_theory.claims.claim import Status, Verdict, judge
from ngd_theory.claims.evidence import Evidence
from ngd_theory.claims.settings import Settings
from ngd_theory.claims.statements import EDGE_SCALE, edge_targets
from ngd_theory.errors import SingularKernelError
from ngd_theory.kernels import ntk

#: Steps of the run beyond the edge of stability.
EDGE_STEPS = 3


@dataclass(frozen=True)
class Report:
    """Everything one verification run found.

    Attributes
    ----------
    settings : Settings
    dataset : ngd_theory.data.Dataset
    network : Network
    evidence : dict of str to Evidence
    maps : dict of str to (NC, NC) array
        The train map K of each approximation.
    verdicts : tuple of Verdict
    seconds : float
    """

    settings: Settings
    dataset: data.Dataset
    network: networks.Network
    evidence: dict[str, Evidence]
    maps: dict[str, np.ndarray]
    verdicts: tuple[Verdict, ...]
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether no claim failed."""
        return all(v.status is not Status.FAIL for v in self.verdicts)


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
    dataset = load_data(settings)
    net = make_network(settings, dataset)
    tell(f"linearising {net.num_parameters:,} parameters at {dataset.num_train} samples")
    params = net.init(jax.random.key(settings.seed))
    linearize = jax.jit(networks.linearize, static_argnums=0)
    dtype = jnp.zeros(()).dtype
    lin = linearize(net, params, jnp.asarray(dataset.inputs, dtype))
    at = (
        linearize(net, params, jnp.asarray(dataset.test_inputs, dtype))
        if dataset.num_test
        else None
    )
    spectrum = np.linalg.eigvalsh(np.asarray(ntk(lin) / lin.num_samples))
    floor = len(spectrum) * np.finfo(spectrum.dtype).eps * spectrum[-1]
    condition = float(spectrum[-1] / max(spectrum[0], floor))
    run = _Run(settings, dataset, net, params, lin, at, condition)

    evidence, maps = {}, {}
    for name in settings.chosen_approximations:
        tell(name)
        evidence[name], maps[name] = _measure(run, name)
    tell("judging the claims")
    return Report(
        settings, dataset, net, evidence, maps, judge(evidence), time.perf_counter() - start
    )


@dataclass(frozen=True)
class _Run:
    """What all approximations share."""

    settings: Settings
    dataset: data.Dataset
    network: networks.Network
    params: tuple
    lin: networks.Linearization
    at: networks.Linearization | None
    ntk_condition: float


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
        targets="one-hot" if settings.loss == "cross-entropy" else "centred",
    )


def make_network(settings: Settings, dataset: data.Dataset) -> networks.Network:
    """The network that the settings ask for."""
    return networks.mlp(
        dataset.input_dim,
        [settings.width] * (settings.depth - 1),
        dataset.output_dim,
        settings.activation,
        settings.weight_std,
        settings.bias_std,
    )


def _measure(run: _Run, name: str) -> tuple[Evidence, np.ndarray]:
    """One approximation: map, prediction, training, and a run beyond the edge."""
    start = time.perf_counter()
    settings, lin = run.settings, run.lin
    approximation = make_approximation(name, settings.loss)
    damping = approximation.matched_damping(settings.damping)
    conditions = theory.check_conditions(approximation, run.network, lin, damping)
    k = approximation.function_space_map(lin, damping)
    if not bool(jnp.all(jnp.isfinite(k))):
        raise SingularKernelError(_singular(name, damping, k.dtype, conditions))
    isotropy = theory.isotropy(k)
    mse = settings.loss == "mse"
    constant = theory.isotropy_constant(approximation, run.network, lin.num_samples)
    rate = float(isotropy.max_eigenvalue) if constant is None else constant
    if not rate > 0:
        raise SingularKernelError(
            f"{name}: K is zero, so no output depends on the parameters (every unit is dead); widen "
            "the network or choose another seed"
        )
    step_size = settings.step_scale / rate

    targets = jnp.asarray(run.dataset.targets, k.dtype)
    q = None if run.at is None else approximation.function_space_map(lin, damping, run.at)
    if mse:
        prediction = dynamics.predict_from_maps(
            k,
            lin.outputs,
            targets,
            step_size,
            settings.steps,
            q,
            None if run.at is None else run.at.outputs,
        )
    else:
        prediction = dynamics.predict(
            approximation,
            lin,
            targets,
            step_size,
            settings.steps,
            damping,
            run.at,
            settings.loss,
        )

    def train(targets, step_size, steps, x_test):
        trained = dynamics.train(
            run.network,
            run.params,
            jnp.asarray(run.dataset.inputs, k.dtype),
            targets,
            approximation,
            step_size,
            steps,
            damping,
            x_test,
            settings.loss,
        )
        # Final parameters of every run together would be most of the memory.
        return replace(trained, params=None)

    x_test = jnp.asarray(run.dataset.test_inputs, k.dtype) if run.dataset.num_test else None
    training = train(targets, step_size, settings.steps, x_test)
    beyond = None
    if mse and constant is not None:
        near = edge_targets(lin.outputs, targets)
        beyond = train(near, EDGE_SCALE / constant, EDGE_STEPS, None)
    limit = None
    if settings.kernel == "infinite" and approximation.has_limit:
        limit = dynamics.predict_limit(
            approximation,
            run.network,
            jnp.asarray(run.dataset.inputs, k.dtype),
            lin.outputs,
            targets,
            step_size,
            settings.steps,
            damping,
            x_test,
            None if run.at is None else run.at.outputs,
            key=jax.random.key(settings.seed),
        )
    moved, furthest = prediction.displacement, prediction.displacement
    if mse:
        reach = jnp.linalg.norm(
            (prediction.outputs - lin.outputs).reshape(settings.steps + 1, -1), axis=1
        )
        last = settings.steps
        moved = _displacement(approximation, lin, prediction, targets, step_size, damping, last)
        turn = int(jnp.argmax(reach))
        # Steps that do not turn back are furthest at the last, up to round-off.
        furthest = moved
        if reach[turn] > 1.01 * reach[last]:
            furthest = _displacement(
                approximation, lin, prediction, targets, step_size, damping, turn
            )
    evidence = Evidence(
        approximation=approximation,
        network=run.network,
        num_samples=lin.num_samples,
        loss=settings.loss,
        damping=damping,
        step_scale=settings.step_scale,
        step_size=step_size,
        constant=constant,
        isotropy=isotropy,
        spectrum=np.linalg.eigvalsh(np.asarray((k + k.T) / 2)),
        damping_bias=approximation.damping_bias(lin, damping),
        conditions=conditions,
        targets=np.asarray(targets),
        prediction=prediction,
        training=training,
        beyond_edge=beyond,
        predicted_distance=_norm(moved),
        parameter_norm=_norm(run.params),
        displacement=_operator_displacement(run.network, furthest),
        ntk_condition=run.ntk_condition,
        epsilon=float(jnp.finfo(k.dtype).eps),
        seconds=time.perf_counter() - start,
        limit=limit,
    )
    return evidence, np.asarray(k)


def _displacement(approximation, lin, prediction, targets, step_size, damping, step):
    """``theta_0 - theta_t`` of the linearised network under MSE."""
    residuals = (prediction.outputs[:step] - targets).sum(0)
    return approximation.natural_gradient(lin, step_size * residuals, damping)


def _operator_displacement(network, moved) -> float:
    """See `Evidence.displacement`."""
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


def make_approximation(name: str, loss: str) -> fisher.Approximation:
    """The approximation called ``name``, with the Fisher of ``loss``."""
    if loss == losses.MSE.name or name == "identity":
        return fisher.by_name(name)
    return fisher.by_name(name, kind=fisher.TrueFisher(loss))


def _norm(params) -> float:
    return float(jnp.sqrt(sum(jnp.sum(p**2) for p in jax.tree.leaves(params))))


def _singular(name: str, damping: float, dtype, conditions) -> str:
    reasons = "; ".join(c.why for c in conditions if not c.holds)
    return (
        f"{name}: the function-space map is not finite with damping {damping:g} in {dtype}: "
        f"{reasons or 'a kernel is singular to round-off'}. Raise the damping, use float64, or "
        "damping 0 (pseudo-inverse)"
    )

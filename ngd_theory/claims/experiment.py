"""Run one network through every approximation and judge the claims."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse.linalg import svds

from ngd_theory import data, dynamics, fisher, losses, networks, theory
from ngd_theory.arguments import checked
from ngd_theory.claims.claim import Status, Verdict, judge
from ngd_theory.claims.evidence import Evidence
from ngd_theory.claims.settings import Settings
from ngd_theory.claims.statements import EDGE_SCALE, edge_targets
from ngd_theory.data.sources.npz import npz_input_dim, npz_output_dim
from ngd_theory.errors import SingularKernelError
from ngd_theory.kernels import ntk
from ngd_theory.numerics import norm
from ngd_theory.theory.isotropy import summarise

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
        What each approximation's isotropy is of: see `judged_map`.
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
    spectrum = kernel_spectrum(np.asarray(ntk(lin) / lin.num_samples))
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
    if path.suffix == ".npz":
        coding = _target_coding(settings)
        found = npz_output_dim(path, settings.chosen_classes, coding, output_dim)
        return DataSize(input_dim or npz_input_dim(path), found)
    one = {"num_train": 1, "num_test": 0, "forster": False, "input_dim": None}
    found = load_data(settings.model_copy(update=one))
    return DataSize(input_dim or found.input_dim, found.output_dim)


def make_network(settings: Settings, dataset: data.Dataset | DataSize) -> networks.Network:
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
    isotropy, judged = judged_map(k, lin.outputs, settings.loss)
    mse = settings.loss == "mse"
    constant = theory.isotropy_constant(approximation, run.network, lin.num_samples)
    rate = largest_eigenvalue(k) if constant is None else constant
    step_size = checked_step_size(name, settings.step_scale, rate)

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
        travelled = (prediction.outputs - lin.outputs).reshape(settings.steps + 1, -1)
        reach = jnp.linalg.norm(travelled, axis=1)
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
        predicted_distance=np.inf if moved is None else _norm(moved),
        parameter_norm=_norm(run.params),
        displacement=_operator_displacement(run.network, furthest),
        ntk_condition=run.ntk_condition,
        epsilon=float(jnp.finfo(k.dtype).eps),
        seconds=time.perf_counter() - start,
        limit=limit,
    )
    return evidence, judged


def _displacement(approximation, lin, prediction, targets, step_size, damping, step):
    """``theta_0 - theta_t`` of the linearised network under MSE; None where it is beyond all numbers."""
    residuals = step_size * (prediction.outputs[:step] - targets).sum(0)
    if not bool(jnp.isfinite(residuals).all()):
        return None
    return approximation.natural_gradient(lin, residuals, damping)


def _operator_displacement(network, moved) -> float:
    """See `Evidence.displacement`."""
    if moved is None:
        return np.inf
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
    return float(norm(params))


def _singular(name: str, damping: float, dtype, conditions) -> str:
    reasons = "; ".join(c.why for c in conditions if not c.holds)
    return (
        f"{name}: the function-space map is not finite with damping {damping:g} in {dtype}: "
        f"{reasons or 'a kernel is singular to round-off'}. Raise the damping, use float64, or "
        "damping 0 (pseudo-inverse)"
    )

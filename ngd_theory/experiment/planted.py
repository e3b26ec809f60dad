"""Planted errors: the claims are judged once more with one thing wrong, to check that they notice it.

Each is a small function ``(experiment, evidence, others) -> evidence`` that puts a wrong theory beside the right
measurements, or a wrong measurement beside the right theory. It returns None if it would change nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import ceil

import jax.numpy as jnp
import numpy as np

from ngd_theory import dynamics
from ngd_theory.errors import choose
from ngd_theory.experiment import damped
from ngd_theory.experiment.claim import CLAIMS, Outcome, Verdict
from ngd_theory.experiment.evidence import Evidence
from ngd_theory.experiment.experiment import Experiment

Change = Callable[[Experiment, Evidence, Mapping[str, Evidence]], Evidence | None]

#: Relative size of the errors that multiply a number.
SMALL = 1e-3


@dataclass(frozen=True)
class Planted:
    """One error.

    Attributes
    ----------
    name, meaning : str
    of : tuple of str
        Names of the approximations that it is planted in; empty for all.
    change : Change
    """

    name: str
    meaning: str
    of: tuple[str, ...]
    change: Change


@dataclass(frozen=True)
class Noticed:
    """Result of one planted error.

    Attributes
    ----------
    planted : Planted
    verdicts : dict of str to (Verdict or None)
        For each approximation with the error: the new failure with the largest `Verdict.excess`, or None if no
        further claim fails.
    """

    planted: Planted
    verdicts: dict[str, Verdict | None]

    @property
    def applies(self) -> bool:
        """Whether it changed anything in this experiment."""
        return bool(self.verdicts)

    @property
    def noticed(self) -> bool:
        """Whether a claim failed."""
        return self.strongest is not None

    @property
    def strongest(self) -> Verdict | None:
        """The failure with the largest `Verdict.excess`."""
        found = [v for v in self.verdicts.values() if v is not None]
        return max(found, key=lambda v: v.excess, default=None)


#: All planted errors by name; `planted` adds to it.
PLANTED: dict[str, Planted] = {}


def planted(name: str, meaning: str, *of: str):
    """Decorator: register a change as a planted error."""

    def register(change: Change) -> Change:
        PLANTED[name] = Planted(name, meaning, of, change)
        return change

    return register


def chosen(names: Iterable[str]) -> tuple[Planted, ...]:
    """The planted errors of these names; "all" is every one.

    Raises
    ------
    InputError
        For an unknown name.
    """
    names = tuple(names)
    if "all" in names:
        return tuple(PLANTED.values())
    return tuple(choose(PLANTED, name, "planted error") for name in names)


def judge_planted(
    experiment: Experiment,
    evidence: Mapping[str, Evidence],
    verdicts: Iterable[Verdict],
    errors: Iterable[Planted],
) -> tuple[Noticed, ...]:
    """Judge every claim again with each error planted in each approximation, one at a time."""
    failed = {(v.claim, v.approximation) for v in verdicts if v.outcome is Outcome.FAIL}
    found = []
    for error in errors:
        seen = {}
        for name, right in evidence.items():
            if error.of and name not in error.of:
                continue
            wrong = error.change(experiment, right, evidence)
            if wrong is None:
                continue
            everyone = {**evidence, name: wrong}
            judged = [c.judge(wrong, everyone) for c in CLAIMS if c.concerns(wrong)]
            new = [
                v
                for v in judged
                if v.outcome is Outcome.FAIL and (v.claim, v.approximation) not in failed
            ]
            seen[name] = max(new, key=lambda v: v.excess, default=None)
        found.append(Noticed(error, seen))
    return tuple(found)


# --- constants and step sizes ---------------------------------------------------------------------


def _with_constant(evidence: Evidence, constant: float) -> Evidence | None:
    """Evidence with another predicted alpha; None if that changes nothing."""
    if evidence.constant is None or constant == evidence.constant:
        return None
    return replace(evidence, constant=constant)


@planted("alpha", "alpha 0.1 % too large")
def _alpha(experiment, evidence, others):
    if evidence.constant is None:
        return None
    return _with_constant(evidence, (1 + SMALL) * evidence.constant)


@planted("all-layers", "L in place of L - 1: alpha = NL + 1", "kfac")
def _all_layers(experiment, evidence, others):
    return _with_constant(evidence, evidence.num_samples * evidence.network.depth + 1)


@planted("output-factor", "the last factor I/N in place of I: alpha = NL", "kfac")
def _output_factor(experiment, evidence, others):
    return _with_constant(evidence, evidence.num_samples * evidence.network.depth)


@planted("rounded-down", "floor(L/3) in place of ceil(L/3)", "block-tridiagonal")
def _rounded_down(experiment, evidence, others):
    depth = evidence.network.depth
    return _with_constant(evidence, depth // 3) if depth // 3 != ceil(depth / 3) else None


@planted("one-block", "alpha of the whole Fisher in place of L", "block-diagonal")
def _one_block(experiment, evidence, others):
    return _with_constant(evidence, 1.0)


@planted("all-active", "gamma = 1: every unit counted as active on every sample", "unit-wise")
def _all_active(experiment, evidence, others):
    hidden = evidence.network.layer_sizes[:-1]
    units = sum(s.num_units for s in hidden)
    return _with_constant(evidence, units / evidence.network.output_dim + 1)


@planted("step-size", "eta 0.1 % larger than it was said to be")
def _step_size(experiment, evidence, others):
    return _predicted(experiment, evidence, step_size=(1 + SMALL) * evidence.step_size)


@planted("step-scale", "the steps of a step scale 0.1 % larger")
def _step_scale(experiment, evidence, others):
    claims = {claim.name: claim for claim in CLAIMS}
    if not claims["step-scale"].concerns(evidence):
        return None
    return replace(evidence, step_size=(1 + SMALL) * evidence.step_size)


# --- function-space predictions -------------------------------------------------------------------


def _predicted(experiment: Experiment, evidence: Evidence, **changes) -> Evidence | None:
    """Evidence predicted again (MSE, plain steps) with another ``k``, ``q`` or ``step_size``; None without a change."""
    if evidence.loss != "mse" or evidence.scheme:
        return None
    k, q = evidence.maps
    at = experiment.at
    used = {"k": k, "q": q, "step_size": evidence.step_size, **changes}
    prediction = dynamics.predict_from_maps(
        used["k"],
        experiment.lin.outputs,
        experiment.targets,
        used["step_size"],
        evidence.prediction.num_steps,
        used["q"],
        None if at is None else at.outputs,
    )
    pairs = [(prediction.outputs, evidence.prediction.outputs)]
    if prediction.test_outputs is not None and evidence.prediction.test_outputs is not None:
        pairs.append((prediction.test_outputs, evidence.prediction.test_outputs))
    # A change without an effect is no error, such as one of sensitivities that are constant.
    same = all(np.allclose(a, b, rtol=0, atol=1e-9 * evidence.scale) for a, b in pairs)
    return None if same else replace(evidence, prediction=prediction)


@planted("layer-kernel", "the kernel of layer 1 taken 1 % too large", "identity")
def _layer_kernel(experiment, evidence, others):
    if evidence.loss != "mse":
        return None
    first = evidence.approximation.layer_maps(experiment.lin, evidence.damping)[0]
    return _predicted(experiment, evidence, k=evidence.maps[0] + 0.01 * first)


@planted("neighbour-map", "test outputs predicted with another approximation's Q")
def _neighbour_map(experiment, evidence, others):
    names = list(others)
    other = others[names[names.index(evidence.name) - 1]]
    if other is evidence or evidence.maps[1] is None:
        return None
    # On the same scale, so that only the directions differ.
    factor = np.linalg.norm(evidence.maps[1]) / np.linalg.norm(other.maps[1])
    return _predicted(experiment, evidence, q=factor * other.maps[1])


@planted("training-sensitivities", "Q from the test inputs and the training sensitivities", "exact")
def _training_sensitivities(experiment, evidence, others):
    lin, at = experiment.lin, experiment.at
    if at is None or evidence.loss != "mse":
        return None
    rows = np.arange(at.num_samples) % lin.num_samples
    mixed = tuple(
        replace(there, sensitivities=here.sensitivities[rows])
        for there, here in zip(at.layers, lin.layers, strict=True)
    )
    wrong = replace(at, layers=mixed)
    q = evidence.approximation.function_space_map(lin, evidence.damping, wrong)
    return _predicted(experiment, evidence, q=q)


@planted("after-activation", "sensitivities after the activation, not before it", "identity")
def _after_activation(experiment, evidence, others):
    lin, net = experiment.lin, experiment.network
    dense = all(size.positions == 1 for size in net.layer_sizes)
    if evidence.loss != "mse" or not dense or net.depth == 1 or not net.is_chain:
        return None
    pairs = zip(lin.layers[:-1], lin.layers[1:], experiment.params[1:], net.blocks[1:], strict=True)
    hidden = [
        replace(
            here,
            sensitivities=following.sensitivities @ (block.affine.scale * params["weight"].T),
        )
        for here, following, params, block in pairs
    ]
    wrong = replace(lin, layers=(*hidden, lin.layers[-1]))
    k = evidence.approximation.function_space_map(wrong, evidence.damping)
    return _predicted(experiment, evidence, k=k)


@planted(
    "taken-for-isotropic", "(1 - eta alpha)^t predicted where damping leaves less", "unit-wise"
)
def _taken_for_isotropic(experiment, evidence, others):
    if evidence.constant is None or not evidence.damping > 0:
        return None
    return _predicted(
        experiment,
        evidence,
        k=evidence.constant * jnp.eye(len(evidence.spectrum), dtype=experiment.dtype),
    )


@planted("late", "training predicted one step late")
def _late(experiment, evidence, others):
    return replace(
        evidence,
        prediction=replace(evidence.prediction, outputs=_one_late(evidence.prediction.outputs)),
    )


@planted("late-on-test", "test outputs predicted one step late")
def _late_on_test(experiment, evidence, others):
    outputs = evidence.prediction.test_outputs
    if outputs is None:
        return None
    return replace(
        evidence, prediction=replace(evidence.prediction, test_outputs=_one_late(outputs))
    )


def _one_late(outputs):
    return jnp.concatenate([outputs[:1], outputs[:-1]])


@planted("distance", "the distance of the parameters predicted 0.1 % too long")
def _distance(experiment, evidence, others):
    return replace(evidence, predicted_distance=(1 + SMALL) * evidence.predicted_distance)


# --- maps at a large damping ----------------------------------------------------------------------


def _at_large_damping(evidence: Evidence, reference) -> Evidence | None:
    """Evidence with another reference for the damped map; None if that changes nothing."""
    small = evidence.damped
    if small is None:
        return None
    wrong = reference(small.problem)
    if np.array_equal(wrong, small.reference):
        return None
    return replace(evidence, damped=replace(small, reference=wrong))


def _damping_times(evidence: Evidence, factor: float) -> Evidence | None:
    if evidence.name not in damped.REFERENCES:
        return None
    reference = damped.REFERENCES[evidence.name].map
    return _at_large_damping(
        evidence, lambda problem: reference(replace(problem, damping=factor * problem.damping))
    )


@planted("damping-twice", "the damping added twice")
def _damping_twice(experiment, evidence, others):
    return _damping_times(evidence, 2.0)


@planted("damping-times-n", "the damping on the scale of the sum over samples, not of their mean")
def _damping_times_n(experiment, evidence, others):
    n = 1 if evidence.damped is None else evidence.damped.problem.size[0]
    return _damping_times(evidence, n)


@planted("pi-swapped", "pi on the wrong factor", "kfac", "kfac-tridiagonal")
def _pi_swapped(experiment, evidence, others):
    reference = damped.REFERENCES[evidence.name].map
    return _at_large_damping(evidence, lambda p: reference(p, pi=lambda ratio: ratio**-0.5))


@planted("pi-missing", "the damping shared equally by the factors", "kfac", "kfac-tridiagonal")
def _pi_missing(experiment, evidence, others):
    reference = damped.REFERENCES[evidence.name].map
    return _at_large_damping(evidence, lambda p: reference(p, pi=lambda ratio: 1.0))


@planted("missing-pair", "layers 1 and 2 not coupled", "block-tridiagonal")
def _missing_pair(experiment, evidence, others):
    def coupled(i, j):
        return damped.neighbours(i, j) and {i, j} != {0, 1}

    return _at_large_damping(evidence, lambda p: damped.block_tridiagonal(p, coupled))


@planted("no-square", "absolute values in place of squares on the diagonal", "entry-wise")
def _no_square(experiment, evidence, others):
    return _at_large_damping(evidence, lambda p: damped.entry_wise(p, moment=np.abs))


@planted("no-outer-product", "Lambda = diag(p), without p p^T", "exact", "block-diagonal")
def _no_outer_product(experiment, evidence, others):
    if evidence.loss != "cross-entropy" or evidence.damped is None:
        return None
    n, rows = evidence.damped.problem.size
    outputs = np.asarray(experiment.lin.outputs[:n], float)
    p = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    p = (p / p.sum(axis=1, keepdims=True)).reshape(rows)
    reference = damped.REFERENCES[evidence.name].map
    return _at_large_damping(evidence, lambda q: reference(replace(q, fisher=np.diag(p))))


# --- measurements ---------------------------------------------------------------------------------


def _measured(evidence: Evidence, change) -> Evidence:
    """Evidence with ``change`` applied to every training run of the main step size."""
    lazy = tuple(replace(run, training=change(run.training)) for run in evidence.lazy)
    return replace(evidence, training=change(evidence.training), lazy=lazy)


@planted("other-training", "another approximation's training runs")
def _other_training(experiment, evidence, others):
    names = list(others)
    other = others[names[names.index(evidence.name) - 1]]
    return (
        None if other is evidence else replace(evidence, training=other.training, lazy=other.lazy)
    )


@planted("not-a-number", "one output of the last step is NaN")
def _not_a_number(experiment, evidence, others):
    return _measured(
        evidence, lambda run: replace(run, outputs=run.outputs.at[-1, 0, 0].set(jnp.nan))
    )


@planted("cut-short", "training stopped one step early")
def _cut_short(experiment, evidence, others):
    def cut(run):
        test, way = run.test_outputs, run.parameter_distances
        return replace(
            run,
            outputs=run.outputs[:-1],
            losses=run.losses[:-1],
            test_outputs=None if test is None else test[:-1],
            parameter_distances=None if way is None else way[:-1],
        )

    return _measured(evidence, cut)


@planted("test-offset", "test outputs 0.1 % of the residual off")
def _test_offset(experiment, evidence, others):
    if evidence.training.test_outputs is None:
        return None
    off = SMALL * evidence.scale / evidence.num_samples**0.5
    return _measured(
        evidence, lambda run: replace(run, test_outputs=run.test_outputs.at[1:].add(off))
    )

"""One ideal experiment, made of arrays, and one real one, shared by the tests of the claims."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory as ngd
from ngd_theory import experiment
from ngd_theory.dynamics import Trajectory
from ngd_theory.experiment.damped import DampedMap, Problem
from ngd_theory.experiment.evidence import EDGE_SCALE, EDGE_STEPS, LazyRun

#: A run small enough for a test, in which every claim applies to some approximation. Other tests of
#: whole runs have the same shapes: nearly all their time is compilation.
REAL = {
    "dataset": "gaussian",
    "input_dim": 24,
    "num_train": 12,
    "num_test": 8,
    "width": 256,
    "steps": 3,
}


#: The epsilons of ideal evidence: of the runs at 1/alpha and beyond the edge, and of the lazy family.
EDGE_LAZINESS, LAZINESS = 1e-6, (1e-2, 1e-4, 1e-6)


def along(residuals, targets, **others):
    """A trajectory whose residuals these are."""
    outputs = jnp.asarray(np.asarray(residuals) + targets)
    losses = jnp.sum((outputs - targets) ** 2, axis=(1, 2)) / (2 * len(targets))
    return Trajectory(outputs, others.pop("test_outputs", None), losses, **others)


@pytest.fixture(scope="session")
def ideal():
    """Make the evidence of an approximation that follows the theory to the last digit."""

    def make(
        name="exact",
        *,
        width=4096,
        depth=3,
        output_dim=1,
        num_samples=16,
        scale=1.0,
        steps=3,
        lazy=True,
    ):
        approximation = ngd.fisher.by_name(name)
        network = ngd.networks.mlp(32, [width] * (depth - 1), output_dim)
        alpha = approximation.isotropy_constant(network.layer_sizes, num_samples)
        size = num_samples * output_dim
        spectrum = np.geomspace(0.01, 1.0, size) if alpha is None else np.full(size, alpha)
        step_size = scale / spectrum[-1]
        rng = np.random.default_rng(0)
        targets = rng.choice([-0.5, 0.5], (num_samples, output_dim))
        start = rng.normal(size=size)
        times = np.arange(steps + 1)[:, None]
        residuals = ((1 - step_size * spectrum) ** times * start).reshape(steps + 1, *targets.shape)
        # A method's own minimum: test outputs that no other name has.
        place = 0.1 * (1 + list(ngd.fisher.APPROXIMATIONS).index(name)) * min(1.0, scale)
        test = place * (np.arange(steps + 1) > 0)[:, None, None] * np.ones((8, output_dim))
        run = along(
            residuals,
            targets,
            test_outputs=jnp.asarray(test),
            parameter_distances=jnp.linspace(0.0, 1.0, steps + 1),
        )
        growth = (1 - EDGE_SCALE) ** np.arange(EDGE_STEPS + 1)[:, None, None]
        beyond = along(growth * residuals[0], targets)
        first = along(np.stack([residuals[0], np.zeros_like(targets)]), targets)

        def lazily(laziness):
            """The same path, but for a gap of the first order."""
            off = 0.01 * laziness * (np.arange(steps + 1) > 0)[:, None, None]
            outputs, test_outputs = run.outputs + off, run.test_outputs + off
            way = (1 + 0.01 * laziness) * run.parameter_distances
            moved = replace(
                run, outputs=outputs, test_outputs=test_outputs, parameter_distances=way
            )
            return LazyRun(laziness, moved)

        problem = Problem((), (), None, 1.0)
        damped = DampedMap(problem, np.eye(2) * (1 + 1e-12), np.eye(2))
        return experiment.Evidence(
            approximation=approximation,
            network=network,
            num_samples=num_samples,
            loss="mse",
            damping=1e-8,
            step_scale=scale,
            step_size=float(step_size),
            constant=alpha,
            isotropy=ngd.theory.isotropy(jnp.diag(jnp.asarray(spectrum))),
            spectrum=spectrum,
            damping_bias=None if alpha is None else 1e-7,
            conditions=(),
            targets=targets,
            prediction=run,
            training=run,
            first_step=None if alpha is None else LazyRun(EDGE_LAZINESS, first),
            beyond_edge=None if alpha is None else LazyRun(EDGE_LAZINESS, beyond),
            predicted_distance=1.0,
            parameter_norm=float(network.num_parameters) ** 0.5,
            displacement=0.01,
            ntk_condition=100.0,
            epsilon=2.0**-52,
            seconds=0.0,
            lazy=tuple(lazily(each) for each in LAZINESS) if lazy else (),
            step_error=1e-15,
            step_amplification=1.0,
            damping_shift=0.0,
            solve_condition=1.0,
            map_condition=1.0,
            active_shares=np.tile([0.25, 0.5, 0.75], 1 + width * (depth - 1) // 3),
            damped=damped,
        )

    return make


@pytest.fixture(scope="session")
def real():
    """A verification of all seven approximations under MSE."""
    return experiment.verify(experiment.parse(REAL))


@pytest.fixture(scope="session")
def judged():
    """Outcome, or whole verdict, of one claim on one piece of evidence."""
    table = {c.name: c for c in experiment.CLAIMS}

    def judge(claim, evidence, others=(), **changes):
        changed = replace(evidence, **changes)
        everyone = {e.name: e for e in (*others, changed)}
        assert table[claim].concerns(changed), f"{claim} does not speak of {changed.name}"
        return table[claim].judge(changed, everyone)

    return judge

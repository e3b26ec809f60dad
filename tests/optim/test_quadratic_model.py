"""The step of least value, of directions of any lengths, against a solve in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from ngd_theory.optim.quadratic_model import QuadraticModel, minimise, step_at

RNG = np.random.default_rng(0)
ROOT = RNG.normal(size=(4, 3)).astype("f")
GRADIENT, PROPOSAL, PREVIOUS = RNG.normal(size=(3, 3)).astype("f")
SHIFT = 0.2


def model(scale):
    root, gradient = jnp.asarray(ROOT), jnp.asarray(GRADIENT) * jnp.float32(scale)
    return QuadraticModel(lambda t: root @ t, gradient, jnp.float32(SHIFT))


def directions(left, right):
    proposal, previous = PROPOSAL * np.float32(left), PREVIOUS * np.float32(right)
    return jnp.asarray(proposal), jnp.asarray(previous), jnp.asarray(ROOT @ previous)


@pytest.mark.parametrize("scales", [(1, 1), (1e-12, 1e-12), (1e12, 1e12), (1e-14, 1e9)])
def test_steps_do_not_depend_on_the_lengths_of_the_directions(scales):
    plane = np.stack([PROPOSAL, PREVIOUS], axis=1).astype(float)
    matrix = ROOT.astype(float).T @ ROOT + SHIFT * np.eye(3)
    wanted = -np.linalg.solve(plane.T @ matrix @ plane, plane.T @ GRADIENT)
    found = minimise(model(1), *directions(*scales))
    steps = np.array([float(found.step_size) * scales[0], float(found.momentum) * scales[1]])
    np.testing.assert_allclose(steps, wanted, rtol=1e-4)
    least = (plane.T @ GRADIENT) @ wanted / 2
    np.testing.assert_allclose(found.value, least, rtol=1e-4)
    there = step_at(model(1), *directions(*scales), found.step_size, found.momentum)
    np.testing.assert_allclose(there.value, least, rtol=1e-4)


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_parallel_directions_and_none_leave_the_proposal(right):
    proposal = jnp.asarray(PROPOSAL)
    previous = jnp.float32(right) * proposal
    found = minimise(model(1), proposal, previous, jnp.asarray(ROOT) @ previous)
    matrix = ROOT.astype(float).T @ ROOT + SHIFT * np.eye(3)
    wanted = -(PROPOSAL @ GRADIENT) / (PROPOSAL @ matrix @ PROPOSAL)
    np.testing.assert_allclose([found.step_size, found.momentum], [wanted, 0], rtol=1e-5)


def test_a_gradient_that_is_not_finite_gives_no_finite_step():
    proposal, previous, pushed = directions(1, 1)
    found = minimise(model(np.nan), proposal * jnp.nan, previous, pushed)
    assert np.isnan(found.step_size)

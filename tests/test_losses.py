"""Losses: value, residual and Fisher root belong together."""

import decimal
from decimal import Decimal
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngd_theory import losses
from ngd_theory.errors import InputError

N, C = 4, 3
grad = {name: jax.jit(jax.grad(loss.value)) for name, loss in losses.LOSSES.items()}
hessian = {name: jax.jit(jax.hessian(loss.value)) for name, loss in losses.LOSSES.items()}


def draw(seed):
    rng = np.random.default_rng(seed)
    targets = rng.dirichlet(np.ones(C), size=N)
    return jnp.asarray(3 * rng.normal(size=(N, C))), jnp.asarray(targets)


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(sorted(losses.LOSSES)), st.integers(0, 2**32 - 1))
def test_residual_is_n_times_the_gradient_of_the_loss(name, seed):
    outputs, targets = draw(seed)
    residual = losses.by_name(name).residual(outputs, targets)
    np.testing.assert_allclose(residual, N * grad[name](outputs, targets), atol=1e-12)


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_fisher_root_squares_to_the_hessian_of_the_loss_by_the_outputs(name):
    outputs, targets = draw(0)
    found = np.asarray(hessian[name](outputs, targets)) * N
    root = losses.by_name(name).fisher_root(outputs)
    root = np.tile(np.eye(C), (N, 1, 1)) if root is None else np.asarray(root)
    expected = np.zeros((N, C, N, C))
    for n in range(N):
        expected[n, :, n, :] = root[n] @ root[n].T
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_values_are_the_textbook_ones():
    outputs = jnp.asarray([[1.0, 2.0], [3.0, -1.0]])
    targets = jnp.asarray([[0.0, 1.0], [1.0, 0.0]])
    assert float(losses.MSE.value(outputs, targets)) == pytest.approx((1 + 1 + 4 + 1) / 4)
    log_p = np.log([np.exp(2) / (np.e + np.exp(2)), np.exp(3) / (np.exp(3) + np.exp(-1))])
    assert float(losses.CROSS_ENTROPY.value(outputs, targets)) == pytest.approx(-log_p.mean())


def test_cross_entropy_survives_huge_outputs():
    outputs, targets = jnp.asarray([[1e4, 0.0]]), jnp.asarray([[0.0, 1.0]])
    loss = losses.CROSS_ENTROPY
    assert float(loss.value(outputs, targets)) == pytest.approx(1e4)
    assert np.all(np.isfinite(loss.residual(outputs, targets)))
    assert np.all(np.isfinite(loss.fisher_root(outputs)))


#: Loss -> (row that is no target of it, what the error says of it).
NO_TARGETS = {
    "cross-entropy": (
        [[-0.5, 0.0, 0.5], [0.2, 0.2, 0.2], [2, -1, 0], [0, 0, 1.001]],
        "distribution",
    ),
    "sigmoid-cross-entropy": ([[-0.5, 0, 0.5], [0, 0, 1.001], [2, 0, 1]], "numbers from 0 to 1"),
}


@pytest.mark.parametrize("name", NO_TARGETS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_targets_that_the_loss_has_no_meaning_for_are_refused(name, dtype):
    # Centred one-hot targets had losses of -0.86, and of -19 after training.
    loss, (rows, words) = losses.by_name(name), NO_TARGETS[name]
    good = np.array([[0.0, 1.0, 0.0], [0.25, 0.5, 0.25]], dtype)
    outputs = jnp.ones((3, 3), dtype)
    for row in rows:
        targets = np.concatenate([good, np.array([row], dtype)])
        for function in (loss.value, loss.residual, loss.check):
            for array in (targets, jnp.asarray(targets)):
                with pytest.raises(InputError, match=f"row 2 of the targets is .*{words}"):
                    function(outputs, array)
        with pytest.raises(InputError, match="row 2 of the targets"):
            jax.grad(loss.value)(outputs, targets)
        # Inside jit their values are not known.
        assert np.isfinite(jax.jit(loss.value)(outputs, targets))
    loss.check(outputs[:2], good)
    loss.check(outputs[:1], good[:1].astype(int))
    loss.check(outputs[:2], jnp.asarray(good, jnp.bfloat16))


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_labels_do_not_broadcast_against_outputs(name):
    # (4,) against (4, 1) is (4, 4): a loss of 2.69 for 0.975.
    loss, outputs = losses.by_name(name), jnp.ones((4, 1))
    for targets in (
        jnp.ones(4),
        jnp.ones((4, 2)),
        jnp.ones((1, 1)),
        jnp.ones(()),
        jnp.ones((4, 1, 1)),
    ):
        for function in (loss.value, loss.residual, loss.check, jax.jit(loss.value)):
            with pytest.raises(InputError, match=r"targets have .*; the outputs have \(4, 1\)"):
                function(outputs, targets)


def test_an_unknown_loss_lists_the_known_ones():
    with pytest.raises(InputError, match="unknown loss 'l1'; choose one of: mse, cross-entropy"):
        losses.by_name("l1")
    assert losses.by_name(losses.MSE) is losses.MSE


#: Outputs of which some probability is 1 to float32's rounding, and a product of probabilities below its range.
SATURATED = [[60.0, 0.0, -20.0], [-95.0, 3.0, 2.0], [5.0, 5.0, -100.0]]


def exact(name, row, target):
    """Value, residual and rows of the Fisher factor of one sample, with 60 digits."""
    with decimal.localcontext(prec=60):
        u, t = ([Decimal(v) for v in values] for values in (row, target))
        powers = [v.exp() for v in u]
        if name == "cross-entropy":
            p = [v / sum(powers) for v in powers]
            value = -sum(a * b.ln() for a, b in zip(t, p, strict=True))
            factor = [
                [p[i].sqrt() * ((i == j) - p[j]) for j in range(len(p))] for i in range(len(p))
            ]
        else:
            p = [v / (1 + v) for v in powers]
            value = -sum(a * b.ln() + (1 - a) * (1 - b).ln() for a, b in zip(t, p, strict=True))
            factor = [[(i == j) * (a * (1 - a)).sqrt() for j in range(3)] for i, a in enumerate(p)]
        residual = [a - b for a, b in zip(p, t, strict=True)]
        curvature = [[sum(row[i] * row[j] for row in factor) for j in range(3)] for i in range(3)]
        return tuple(np.array(v, float) for v in (value, residual, factor, curvature))


@pytest.mark.parametrize("name", ["cross-entropy", "sigmoid-cross-entropy"])
@pytest.mark.parametrize("row", SATURATED)
def test_saturated_outputs_keep_all_digits_of_values_and_derivatives(name, row):
    loss = losses.by_name(name)
    target = [1.0, 0.0, 0.0]
    value, residual, factor, curvature = exact(name, row, target)
    outputs, targets = (jnp.asarray([v], "float32") for v in (row, target))
    close = partial(np.testing.assert_allclose, rtol=3e-5, atol=1e-36)
    close(loss.value(outputs, targets), value)
    close(loss.residual(outputs, targets)[0], residual)
    for mode in (jax.jacfwd, jax.jacrev):
        close(mode(loss.value)(outputs, targets)[0], residual)
        # Of the residual, not of the value: a difference of probabilities has lost its digits there.
        found = mode(loss.residual)(outputs, targets)[0, :, 0]
        close(found, curvature, atol=1e-7)
        by_outputs = mode(lambda u: loss.fisher_factor(u, jnp.ones_like(u) + u / 7))(outputs)
        assert np.isfinite(by_outputs).all()
    rows = np.stack([loss.fisher_factor(outputs, e[None])[0] for e in jnp.eye(3, dtype="float32")])
    close(rows.T, factor)

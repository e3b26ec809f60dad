"""Losses: value, residual and Fisher root belong together."""

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

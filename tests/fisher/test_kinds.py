"""True, sampled and empirical Fisher, under MSE and cross-entropy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BY_NAME, Case, problem, relative_error
from dense import flatten, softmax_fisher
from scipy import special

import ngd_theory as ngd
from ngd_theory.errors import InputError

WITH_KIND = (
    *("exact", "block-diagonal", "block-tridiagonal", "kfac", "entry-wise"),
    *("kfac-output", "ekfac", "shampoo"),
)
CASE = Case("L3 C3 tanh bias", 6, (8, 9), 3, "tanh", 4, bias_std=0.3)


def make_kind(name, p):
    key = jax.random.key(5)
    return {
        "true, cross-entropy": ngd.fisher.TrueFisher("cross-entropy"),
        "sampled, cross-entropy": ngd.fisher.SampledFisher(key, "cross-entropy", num_samples=2),
        "sampled, mse": ngd.fisher.SampledFisher(key),
        "empirical, mse": ngd.fisher.EmpiricalFisher(p.targets),
    }[name]


def output_fisher(name, kind, p):
    """Lambda, apart from the package where that is possible (a sample needs the kind's own draw)."""
    outputs = np.asarray(p.lin.outputs)
    if name == "true, cross-entropy":
        return softmax_fisher(outputs)
    if name == "empirical, mse":
        root = (outputs - np.asarray(p.targets))[:, :, None]
    else:
        root = np.asarray(kind.root(p.lin.outputs))
    return root @ root.swapaxes(1, 2)


KINDS = (
    "sampled, cross-entropy",
    "sampled, mse",
    "empirical, mse",
)


def dense_problem(kind_name):
    p = problem(CASE)
    kind = make_kind(kind_name, p)
    return p, kind, p.dense.with_output_fisher(output_fisher(kind_name, kind, p))


def cross_entropy_residual(p):
    return jnp.asarray(special.softmax(p.lin.outputs, axis=1) - np.eye(3)[[0, 1, 2, 0]])


@pytest.mark.parametrize("damping", [0.0, 1e-8, 1e-3])
@pytest.mark.parametrize("name", WITH_KIND)
def test_cross_entropy_fisher_equals_the_dense_one(name, damping):
    p, kind, dense = dense_problem("true, cross-entropy")
    approximation = ngd.fisher.by_name(name, kind=kind)
    residual = cross_entropy_residual(p)
    gradient = approximation.natural_gradient(p.lin, residual, damping)
    expected = dense.natural_gradient(name, damping, residual)
    assert relative_error(flatten(gradient), expected) < (1e-7 if damping == 1e-8 else 1e-8)
    if damping == 1e-8:
        return  # columns of the map leave the range of Lambda: they are of order 1/damping
    q = approximation.function_space_map(p.lin, damping, at=p.at)
    assert relative_error(q, p.jacobian_at @ dense.solution(name, damping)) < 1e-8


@pytest.mark.parametrize("damping", [0.0, 1e-3])
@pytest.mark.parametrize("name", WITH_KIND)
@pytest.mark.parametrize("kind_name", KINDS)
def test_sampled_and_empirical_fisher_equal_the_dense_ones(kind_name, name, damping):
    p, kind, dense = dense_problem(kind_name)
    residual = cross_entropy_residual(p)
    gradient = ngd.fisher.by_name(name, kind=kind).natural_gradient(p.lin, residual, damping)
    assert relative_error(flatten(gradient), dense.natural_gradient(name, damping, residual)) < 1e-8


def test_root_of_cross_entropy_squares_to_diag_p_minus_p_p():
    outputs = jnp.asarray([[0.3, -1.0, 2.0], [0.0, 0.0, 0.0], [30.0, -5.0, 1.0]])
    root = np.asarray(ngd.fisher.TrueFisher("cross-entropy").root(outputs))
    np.testing.assert_allclose(root @ root.swapaxes(1, 2), softmax_fisher(outputs), atol=1e-15)


def test_root_of_the_empirical_fisher_is_the_residual():
    outputs, targets = jnp.asarray([[0.3, -1.0, 2.0]]), jnp.asarray([[0.0, 1.0, 0.0]])
    root = ngd.fisher.EmpiricalFisher(targets, "cross-entropy").root(outputs)
    np.testing.assert_allclose(root[:, :, 0], special.softmax(outputs, axis=1) - targets)


def test_true_fisher_of_mse_has_no_root():
    assert ngd.fisher.TrueFisher().root(jnp.ones((2, 3))) is None


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_sampled_fisher_is_unbiased_and_the_empirical_one_is_not(loss):
    p = problem(CASE)
    outputs = np.asarray(p.lin.outputs)
    true = softmax_fisher(outputs) if loss == "cross-entropy" else np.tile(np.eye(3), (4, 1, 1))
    draws = 40_000
    kind = ngd.fisher.SampledFisher(jax.random.key(0), loss, num_samples=draws)
    root = np.asarray(kind.root(p.lin.outputs)) * draws**0.5
    second = np.einsum("nck,ndk->ncd", root, root) / draws
    fourth = np.einsum("nck,ndk->ncd", root**2, root**2) / draws
    standard_error = np.sqrt(np.maximum(fourth - second**2, 1e-12) / draws)
    assert np.all(np.abs(second - true) < 5 * standard_error + 1e-12)

    one_hot = jnp.eye(3)[jnp.asarray([0, 1, 2, 0])]
    targets = p.targets if loss == "mse" else one_hot
    empirical = np.asarray(ngd.fisher.EmpiricalFisher(targets, loss).root(p.lin.outputs))
    assert relative_error(empirical @ empirical.swapaxes(1, 2), true) > 0.3


def test_sampled_preconditioner_tends_to_the_true_one_as_draws_grow():
    p = problem(CASE)
    true = ngd.fisher.Exact().natural_gradient(p.lin, p.residual, 0.1)
    errors = []
    for draws in (16, 4096):
        kind = ngd.fisher.SampledFisher(jax.random.key(1), num_samples=draws)
        found = ngd.fisher.Exact(kind).natural_gradient(p.lin, p.residual, 0.1)
        errors.append(relative_error(flatten(found), flatten(true)))
    # Variance 1/K: 16 times smaller, give or take a factor 2.
    assert errors[1] < errors[0] / 8
    assert errors[1] < 0.1


def test_a_sample_is_a_function_of_its_key():
    outputs = jnp.zeros((3, 2))
    first, same, other = (
        np.asarray(ngd.fisher.SampledFisher(jax.random.key(k)).root(outputs)) for k in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.any(first == other)


def test_under_the_squared_error_the_draws_are_the_same_at_any_outputs():
    # Common random numbers: differences between two points are not those of two draws.
    kind = ngd.fisher.SampledFisher(jax.random.key(0), num_samples=3)
    near, far = (
        np.asarray(kind.root(outputs)) for outputs in (jnp.zeros((4, 2)), jnp.ones((4, 2)))
    )
    np.testing.assert_array_equal(near, far)
    # As the documentation says, a key a step draws afresh.
    again = ngd.fisher.SampledFisher(jax.random.fold_in(kind.key, 1), num_samples=3)
    assert not np.any(np.asarray(again.root(jnp.zeros((4, 2)))) == near)
    assert jax.tree.structure(again) == jax.tree.structure(kind)


def test_a_new_key_does_not_compile_again():
    p = problem(BY_NAME["L1 C3, N<M0"])
    traces = []

    @jax.jit
    def gradient(approximation, lin, residual):
        traces.append(1)
        return approximation.natural_gradient(lin, residual, 1e-3)

    found = [
        gradient(ngd.fisher.Exact(ngd.fisher.SampledFisher(jax.random.key(k))), p.lin, p.residual)
        for k in (0, 1)
    ]
    assert len(traces) == 1
    assert relative_error(flatten(found[0]), flatten(found[1])) > 0.01


def test_bad_kinds_are_named():
    outputs = jnp.zeros((3, 2))
    with pytest.raises(InputError, match=r"targets of shape \(2, 2\).*\(3, 2\)"):
        ngd.fisher.EmpiricalFisher(jnp.zeros((2, 2))).root(outputs)
    with pytest.raises(InputError, match="num_samples is 0"):
        ngd.fisher.SampledFisher(jax.random.key(0), num_samples=0).root(outputs)
    with pytest.raises(InputError, match="unknown loss 'hinge'; choose one of: mse, cross-entropy"):
        ngd.fisher.TrueFisher("hinge").root(outputs)


def test_targets_that_are_not_finite_are_named_where_they_are_known():
    with pytest.raises(InputError, match=r"targets has a NaN or infinity at index \(1, 0\)"):
        ngd.fisher.EmpiricalFisher(jnp.zeros((2, 2)).at[1, 0].set(jnp.nan))
    jax.jit(lambda y: ngd.fisher.EmpiricalFisher(y).root(y))(jnp.full((2, 2), jnp.nan))

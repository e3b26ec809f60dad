"""The Fisher of a pool of samples, the loss of some: against dense matrices without the pool's step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import APPROXIMATIONS, BY_NAME, LIMIT_TOLERANCE, problem, relative_error
from dense import flatten

import ngd_theory as ngd
from ngd_theory.errors import InputError

#: As in tests/fisher/test_dense_reference.py.
TOLERANCE = 1e-8
#: More pool than parameters, and fewer; the order is not the pool's.
LABELLED = {"L3 C1 erf, N>M": (7, 0, 3), "L3 C3 gelu bias": (2, 0)}


def labelled_jacobian(p, labelled):
    """Rows (n, c) of the labelled samples, in their order."""
    rows = p.dense.jacobian.reshape(p.lin.num_samples, p.lin.output_dim, -1)
    return np.asarray(rows)[list(labelled)].reshape(-1, rows.shape[-1])


@pytest.mark.parametrize("damping", [0.0, 1e-3])
@pytest.mark.parametrize("name", APPROXIMATIONS)
@pytest.mark.parametrize("case", LABELLED)
def test_the_fisher_is_of_the_pool_and_the_gradient_of_the_labelled(case, name, damping):
    p, labelled = problem(BY_NAME[case]), LABELLED[case]
    approximation = ngd.fisher.by_name(name)
    tolerance = LIMIT_TOLERANCE.get(name, TOLERANCE) if damping == 0 else TOLERANCE
    j = labelled_jacobian(p, labelled)
    solution = p.dense.preconditioner(name, damping)(j.T) / len(labelled)
    k, q = ngd.fisher.population_maps(approximation, p.lin, labelled, damping, at=p.at)
    assert relative_error(k, j @ solution) < tolerance
    assert relative_error(q, p.jacobian_at @ solution) < tolerance
    cotangent = p.residual[jnp.asarray(labelled)]
    found = ngd.fisher.population_gradient(approximation, p.lin, labelled, cotangent, damping)
    assert relative_error(flatten(found), solution @ np.asarray(cotangent).ravel()) < tolerance


def test_a_fisher_of_the_labelled_alone_or_a_mean_over_the_pool_is_caught():
    case, damping = "L3 C1 erf, N>M", 1e-3
    p, labelled = problem(BY_NAME[case]), LABELLED[case]
    j = labelled_jacobian(p, labelled)
    k, _ = ngd.fisher.population_maps(ngd.fisher.Exact(), p.lin, labelled, damping)
    alone = j.T @ j / len(labelled)
    wrong = j @ np.linalg.solve(alone + damping * np.eye(len(alone)), j.T) / len(labelled)
    assert relative_error(k, wrong) > 0.1
    # The gradient's mean over the pool in place of the labelled.
    assert relative_error(k, k * len(labelled) / p.lin.num_samples) > 0.1


@pytest.mark.parametrize("name", APPROXIMATIONS)
def test_a_pool_that_is_all_labelled_is_the_training_set(name):
    p, approximation = problem(BY_NAME["L3 C3 gelu bias"]), ngd.fisher.by_name(name)
    everything = range(p.lin.num_samples)
    k, q = ngd.fisher.population_maps(approximation, p.lin, everything, 1e-2, at=p.at)
    assert relative_error(k, approximation.function_space_map(p.lin, 1e-2)) < 1e-12
    assert relative_error(q, approximation.function_space_map(p.lin, 1e-2, p.at)) < 1e-12


def test_while_the_pool_is_smaller_than_the_network_no_unlabelled_output_moves():
    p, labelled = problem(BY_NAME["L3 C3 gelu bias"]), (2, 0)
    n, c = p.lin.outputs.shape
    k, q = ngd.fisher.population_maps(ngd.fisher.Exact(), p.lin, labelled, 0.0, at=p.lin)
    scale = n / len(labelled)
    np.testing.assert_allclose(k, scale * np.eye(len(k)), atol=1e-9 * scale)
    by_sample = np.asarray(q).reshape(n, c, -1)
    np.testing.assert_allclose(by_sample[[1, 3]], 0, atol=1e-9 * scale)


def test_convolutions_have_pools_too():
    net = ngd.networks.cnn((4, 4, 1), [3], 2, activation="tanh")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4, 4, 1)))
    params = net.init(jax.random.key(0))
    pool = ngd.networks.linearize(net, params, x)
    k, _ = ngd.fisher.population_maps(ngd.fisher.KFAC(), pool, [4, 1], 1e-2)
    whole = np.asarray(ngd.fisher.KFAC().function_space_map(pool, 1e-2)).reshape(5, 2, 5, 2)
    expected = 5 / 2 * whole[[4, 1]][:, :, [4, 1]].reshape(4, 4)
    assert relative_error(k, expected) < 1e-12


def test_what_is_no_sample_of_the_pool_is_named():
    p, exact = problem(BY_NAME["L3 C3 gelu bias"]), ngd.fisher.Exact()
    for labelled, words in (([4], "samples 0 to 3"), ([], "empty"), ([1, 1], "twice")):
        with pytest.raises(InputError, match=words):
            ngd.fisher.population_maps(exact, p.lin, labelled, 1e-2)
    with pytest.raises(InputError, match="cotangent"):
        ngd.fisher.population_gradient(exact, p.lin, [0, 1], jnp.ones((3, 3)), 1e-2)
    with pytest.raises(InputError, match="other layers"):
        at = problem(BY_NAME["L3 C1 erf, N>M"]).lin
        ngd.fisher.population_maps(exact, p.lin, [0, 1], 1e-2, at=at)

"""Every approximation equals the dense one of tests/helpers/dense.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import APPROXIMATIONS, BY_NAME, CASES, LIMIT_TOLERANCE, Case, problem, relative_error
from dense import flatten, softmax_fisher

import ngd_theory as ngd

TOLERANCE = 1e-8
#: Rounding, eps / damping, enters directions in which the Fisher is zero.
SMALL_DAMPING_TOLERANCE = 1e-7
#: As much in what is damped before it takes a power: eigenvalues of a moment, rounded at 1e-15 of the largest.
MOMENT_TOLERANCE = {"shampoo": 1e-6}


def errors(approximation, p, damping, **options):
    """Relative errors of the natural gradient, the training map and the test map."""
    solution = p.dense.solution(approximation.name, damping, **options)
    gradient = approximation.natural_gradient(p.lin, p.residual, damping)
    expected = p.dense.natural_gradient(approximation.name, damping, p.residual, **options)
    k = approximation.function_space_map(p.lin, damping)
    q = approximation.function_space_map(p.lin, damping, at=p.at)
    return {
        "natural gradient": relative_error(flatten(gradient), expected),
        "training map": relative_error(k, p.dense.jacobian @ solution),
        "test map": relative_error(q, p.jacobian_at @ solution),
    }


def assert_small(found, tolerance=TOLERANCE):
    assert max(found.values()) < tolerance, found


@pytest.mark.parametrize("damping", [0.0, 1e-8, 1e-3])
@pytest.mark.parametrize("name", APPROXIMATIONS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_approximation_equals_the_dense_one(case, name, damping):
    tolerance = TOLERANCE
    if damping == 1e-8:
        tolerance = MOMENT_TOLERANCE.get(name, SMALL_DAMPING_TOLERANCE)
    if damping == 0:
        tolerance = LIMIT_TOLERANCE.get(name, tolerance)
    assert_small(errors(ngd.fisher.by_name(name), problem(case), damping), tolerance)


@pytest.mark.parametrize("name", APPROXIMATIONS)
def test_traced_damping_gives_the_static_result_and_the_limit(name):
    p = problem(BY_NAME["L3 C1 erf, N>M"])
    approximation = ngd.fisher.by_name(name)
    gradient = jax.jit(approximation.natural_gradient)
    maps = jax.jit(approximation.function_space_map)
    for damping in (0.0, 1e-3):
        solution = p.dense.solution(name, damping)
        found = gradient(p.lin, p.residual, jnp.asarray(damping))
        assert relative_error(flatten(found), solution @ p.residual.ravel()) < TOLERANCE
        found = maps(p.lin, jnp.asarray(damping), p.at)
        assert relative_error(found, p.jacobian_at @ solution) < TOLERANCE


@pytest.mark.parametrize("case", ["L2 C3 tanh bias", "L3 C1 erf, N>M", "L1 C1 bias, N>M0"])
@pytest.mark.parametrize("output_factor", ["fisher", "uniform"])
@pytest.mark.parametrize("damping_split", ["factored", "equal"])
def test_kfac_options_equal_the_dense_kronecker_products(case, output_factor, damping_split):
    options = {"output_factor": output_factor, "damping_split": damping_split}
    assert_small(errors(ngd.fisher.KFAC(**options), problem(BY_NAME[case]), 1e-3, **options))


def test_uniform_output_factor_divides_b_by_the_number_of_samples():
    p = problem(BY_NAME["L3 C3 gelu bias"])
    uniform = ngd.fisher.KFAC(output_factor="uniform")
    assert_small(errors(uniform, p, 0.0, output_factor="uniform"))
    wrong = p.dense.solution("kfac", 0.0, output_factor="fisher")
    assert relative_error(uniform.function_space_map(p.lin, 0.0), p.dense.jacobian @ wrong) > 0.1


@pytest.mark.parametrize("name", ["exact", "block-diagonal", "block-tridiagonal"])
def test_cross_entropy_keeps_its_digits_where_layer_kernels_are_singular(name):
    """N C = 24 outputs above layers of 20, 25 and 15 parameters: an unsymmetric solve loses five digits."""
    p = problem(Case("singular layers", 4, (5, 5), 3, "tanh", 8))
    dense = p.dense.with_output_fisher(softmax_fisher(np.asarray(p.lin.outputs)))
    cotangent = jax.nn.softmax(p.lin.outputs) - jnp.asarray(np.eye(3)[np.arange(8) % 3])
    approximation = ngd.fisher.by_name(name, kind=ngd.fisher.TrueFisher("cross-entropy"))
    found = approximation.natural_gradient(p.lin, cotangent, 1e-8)
    expected = dense.natural_gradient(name, 1e-8, cotangent)
    assert relative_error(flatten(found), expected) < 1e-7

"""Conjugate gradients: the same natural gradients as by Cholesky and as dense, and no array of the kernel's size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, problem, relative_error
from convolutions import CASES as CONVOLUTIONS
from convolutions import problem as convolution
from dense import flatten, softmax_fisher
from drawn import drawn

import ngd_theory as ngd
from ngd_theory.errors import InputError, SingularKernelError
from ngd_theory.fisher import BlockDiagonal, ConjugateGradients, Exact, TrueFisher
from ngd_theory.fisher.matrix_free import nystrom

BOTH = (Exact, BlockDiagonal)
#: A preconditioner that leaves something to iterate on.
FEW = ConjugateGradients(rank=2)


#: As one program: called as it is, it compiles every operation by itself.
solutions = jax.jit(lambda a, lin, v, damping: a.dual_solutions(lin, v, damping), static_argnums=0)


def linearized(n, width=24, dtype="float64", output_dim=1):
    net = ngd.networks.mlp(12, [width, width], output_dim)
    rng = np.random.default_rng(n)
    x = jnp.asarray(rng.normal(size=(n, 12)), dtype)
    params = drawn(net, dtype=dtype)
    v = jnp.asarray(np.cos(np.arange(n * output_dim)).reshape(n, -1), dtype)
    return net, params, x, ngd.networks.linearize(net, params, x), v


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize(
    ("case", "damping"), [(c, (1e-2, 1e-5)[i % 2]) for i, c in enumerate(CASES)], ids=str
)
def test_natural_gradients_equal_the_dense_ones(cls, case, damping):
    p = problem(case)
    found = cls(solver=FEW).natural_gradient(p.lin, p.residual, damping)
    expected = p.dense.natural_gradient(cls.name, damping, p.residual)
    assert relative_error(flatten(found), expected) < 1e-7


@pytest.mark.parametrize("cls", BOTH)
def test_so_do_those_of_the_cross_entropy(cls):
    """Lambda is singular: the residual of a softmax has no part outside its range, a random one has."""
    p = convolution(CONVOLUTIONS[4])
    iterated = cls(TrueFisher("cross-entropy"), solver=FEW)
    dense = p.dense.with_output_fisher(softmax_fisher(p.outputs))
    for cotangent in (p.residual, jax.nn.softmax(p.lin.outputs) - jnp.eye(3)[jnp.array([0, 2])]):
        found = iterated.natural_gradient(p.lin, cotangent, 1e-3)
        expected = dense.natural_gradient(cls.name, 1e-3, cotangent)
        assert relative_error(flatten(found), expected) < 1e-7


@pytest.mark.slow
@pytest.mark.parametrize("cls", BOTH)
def test_many_samples_equal_cholesky(cls):
    _, _, _, lin, v = linearized(300)
    gradients = [
        flatten(cls(solver=solver).natural_gradient(lin, v, 1e-4)) for solver in ("cg", "cholesky")
    ]
    assert relative_error(*gradients) < 1e-7
    # The control: a tolerance that shows.
    loose = cls(solver=ConjugateGradients(tolerance=0.1)).natural_gradient(lin, v, 1e-4)
    assert relative_error(flatten(loose), gradients[1]) > 1e-4


def test_single_precision_is_as_good_as_cholesky_in_it():
    _, _, _, lin, v = linearized(300, dtype="float32")
    exact_lin = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, float)), lin)
    truth = flatten(Exact().natural_gradient(exact_lin, jnp.asarray(np.asarray(v, float)), 1e-3))
    errors = {
        solver: relative_error(flatten(Exact(solver=solver).natural_gradient(lin, v, 1e-3)), truth)
        for solver in ("cg", "cholesky")
    }
    assert errors["cg"] < max(1e-3, 5 * errors["cholesky"]), errors


@pytest.mark.parametrize("scale", [1e-30, 1e-24, 1e21])
def test_cotangents_whose_squares_are_out_of_range(scale):
    # Found were zeros, and that they had converged.
    _, _, _, lin, v = linearized(20, dtype="float32")
    (wanted,), (found,) = (solutions(Exact(solver=FEW), lin, c, 1e-2) for c in (v, scale * v))
    assert bool(found.converged) and float(found.residual) < 1e-4
    assert relative_error(np.asarray(found.weights, float) / scale, wanted.weights) < 1e-5
    assert not np.any(solutions(Exact(solver=FEW), lin, 0 * v, 1e-2)[0].weights)
    (found,) = solutions(Exact(solver=FEW), lin, v.at[0, 0].set(jnp.nan), 1e-2)
    assert not found.converged and np.isnan(found.weights).all()


def test_function_space_maps_are_by_cholesky_whatever_the_solver():
    _, _, _, lin, _ = linearized(9, output_dim=2)
    maps = [Exact(solver=s).function_space_map(lin, 1e-3) for s in ("cg", "cholesky")]
    assert relative_error(*maps) < 1e-14


def test_the_limit_is_of_the_kernel_however_little_memory_there_is():
    _, _, _, lin, v = linearized(9)
    found = [Exact(memory_limit=m).natural_gradient(lin, v, 0.0) for m in (1, 2**30)]
    assert relative_error(*map(flatten, found)) < 1e-14


@pytest.mark.parametrize("cls", BOTH)
def test_auto_iterates_where_the_kernels_do_not_fit_and_then_holds_none(cls):
    _, _, _, lin, v = linearized(3000)
    kernel = 8 * 3000**2

    def held(limit):
        approximation = cls(memory_limit=limit)
        step = jax.jit(lambda lin, v: approximation.natural_gradient(lin, v, 1e-3))
        memory = step.lower(lin, v).compile().memory_analysis()
        return approximation.iteration(lin, 1e-3), memory.temp_size_in_bytes

    iteration, bytes_held = held(kernel)
    assert iteration is not None and bytes_held < kernel
    iteration, bytes_held = held(10 * kernel)
    assert iteration is None and bytes_held > kernel


def test_the_preconditioner_saves_iterations_and_all_is_reported():
    _, _, _, lin, v = linearized(400)
    counts = {}
    for rank in (1, 256):
        (solution,) = solutions(Exact(solver=ConjugateGradients(rank=rank)), lin, v, 1e-4)
        assert bool(solution.converged) and float(solution.residual) < 1e-9
        counts[rank] = int(solution.iterations)
    assert counts[256] < 0.6 * counts[1], counts
    assert len(solutions(BlockDiagonal(solver="cg"), lin, v, 1e-4)) == 3


def test_nystroms_approximation_of_full_rank_is_the_kernel():
    _, _, _, lin, _ = linearized(20, output_dim=2)
    compiled = jax.jit(nystrom, static_argnums=1)
    basis, spectrum = compiled(lin.layers, 40)
    kernel = np.asarray(ngd.kernels.ntk(lin)) / 20
    assert relative_error((basis * spectrum) @ basis.T, kernel) < 1e-9
    np.testing.assert_allclose(basis.T @ basis, np.eye(40), atol=1e-7)
    few, values = compiled(lin.layers, 10)
    assert few.shape == (40, 10) and values.shape == (10,)


def test_what_does_not_converge_is_an_error_that_says_so():
    net, params, x, lin, v = linearized(60)
    hasty = Exact(solver=ConjugateGradients(max_iterations=1, rank=1))
    (solution,) = solutions(hasty, lin, v, 1e-6)
    assert not bool(solution.converged) and bool(jnp.isnan(solution.weights).all())
    with pytest.raises(SingularKernelError, match=r"stopped after 1 iterations .* residual"):
        ngd.dynamics.train(net, params, x, v, hasty, 0.1, 1, 1e-6)


def test_the_limit_of_no_damping_needs_the_kernel():
    _, _, _, lin, v = linearized(9)
    with pytest.raises(InputError, match="damping above 0"):
        Exact(solver="cg").natural_gradient(lin, v, 0.0)
    with pytest.raises(InputError, match="cotangent has shape"):
        Exact(solver="cg").dual_solutions(lin, v[:3], 1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"solver": "lu"}, "cholesky"),
        ({"memory_limit": 0}, "memory_limit"),
    ],
)
def test_options_that_do_not_exist_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        Exact(**options)


@pytest.mark.parametrize(
    "options", [{"tolerance": 0.0}, {"tolerance": 2.0}, {"max_iterations": 0}, {"rank": 0}]
)
def test_conjugate_gradients_out_of_range_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        ConjugateGradients(**options)

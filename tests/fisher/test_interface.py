"""What holds for every approximation as a function: jit, names, errors, no NaN at damping 0."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import APPROXIMATIONS, BY_NAME, LARGE_LATER, LIMIT_TOLERANCE, problem, relative_error
from dense import DenseFisher, flatten

import ngd_theory as ngd
from ngd_theory.errors import InputError, SingularKernelError

CASE = BY_NAME["L3 C3 gelu bias"]


@pytest.mark.parametrize("name", APPROXIMATIONS)
def test_a_whole_training_step_can_be_jitted(name):
    p = problem(CASE)
    approximation = ngd.fisher.by_name(name)

    @jax.jit
    def step(params, x, y, damping, step_size):
        lin = ngd.networks.linearize(p.network, params, x)
        update = approximation.natural_gradient(lin, lin.outputs - y, damping)
        return jax.tree.map(lambda w, u: w - step_size * u, params, update)

    stepped = step(p.params, p.x, p.targets, 1e-3, 0.1)
    assert jax.tree.structure(stepped) == jax.tree.structure(p.params)
    update = approximation.natural_gradient(p.lin, p.residual, 1e-3)
    assert relative_error(flatten(stepped), flatten(p.params) - 0.1 * flatten(update)) < 1e-10


@pytest.mark.slow
def test_a_natural_gradient_step_can_be_differentiated():
    p = problem(CASE)

    def loss_after(scale):
        cotangent = p.lin.outputs - scale * p.targets
        update = ngd.fisher.Exact().natural_gradient(p.lin, cotangent, 0.1)
        return jnp.sum((p.lin.outputs - p.lin.jvp(update) - p.targets) ** 2)

    step = 1e-5
    slope = jax.grad(loss_after)(1.0)
    difference = (loss_after(1 + step) - loss_after(1 - step)) / (2 * step)
    assert float(slope) == pytest.approx(float(difference), rel=1e-6)


def degenerate(kind):
    """Networks and inputs with dead units, zero inputs, copies, or no signal at all."""
    network = ngd.networks.mlp(4, [6, 5], 2, bias_std=0.3)
    params = [dict(layer) for layer in network.init(jax.random.key(0))]
    x = np.random.default_rng(0).normal(size=(4, 4))
    if kind == "dead units, zero and equal inputs":
        params[0]["bias"] = params[0]["bias"].at[:3].set(-100.0)
        x[2] = 0
        x[3] = x[1]
    if kind == "a dead layer":
        params[1]["bias"] = params[1]["bias"] - 100.0
    if kind == "no signal":
        network = ngd.networks.mlp(4, [6, 5], 2)
        params = [{"weight": layer["weight"]} for layer in params]
        x = np.zeros_like(x)
    return network, tuple(params), jnp.asarray(x)


@pytest.mark.parametrize("name", APPROXIMATIONS)
@pytest.mark.parametrize("kind", ["dead units, zero and equal inputs", "a dead layer", "no signal"])
def test_damping_zero_is_the_pseudo_inverse_and_never_nan(kind, name):
    network, params, x = degenerate(kind)
    lin = ngd.networks.linearize(network, params, x)
    approximation = ngd.fisher.by_name(name)
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=(4, 2)))
    found = flatten(approximation.natural_gradient(lin, cotangent, 0.0))
    k = approximation.function_space_map(lin, 0.0)
    if kind == "no signal":
        assert not np.any(found)
        assert not np.any(k)
        return
    dense = DenseFisher.of(network, "relu", 2**0.5, 0.3, params, x)
    solution = dense.solution(name, 0.0)
    tolerance = LIMIT_TOLERANCE.get(name, 1e-8)
    assert relative_error(found, solution @ cotangent.ravel()) < tolerance
    assert relative_error(k, dense.jacobian @ solution) < tolerance


@pytest.mark.parametrize("name", APPROXIMATIONS)
def test_the_map_is_symmetric_and_positive_semi_definite(name):
    p = problem(BY_NAME["L4 C1 tanh bias"])
    k = np.asarray(ngd.fisher.by_name(name).function_space_map(p.lin, 1e-3))
    np.testing.assert_allclose(k, k.T, atol=1e-10 * np.abs(k).max())
    if name != "block-tridiagonal":  # whose G is indefinite
        assert np.linalg.eigvalsh(k)[0] > -1e-10 * np.abs(k).max()


def test_every_approximation_is_found_by_its_name():
    assert set(APPROXIMATIONS) == {
        "identity",
        "exact",
        "block-diagonal",
        "block-tridiagonal",
        "kfac",
        "kfac-tridiagonal",
        "unit-wise",
        "entry-wise",
        "kfac-input",
        "kfac-output",
        "ekfac",
        "shampoo",
        "quasi-diagonal",
    }
    for name in APPROXIMATIONS:
        assert ngd.fisher.by_name(name).name == name
    kind = ngd.fisher.TrueFisher("cross-entropy")
    assert ngd.fisher.by_name("kfac", kind=kind, damping_split="equal") == ngd.fisher.KFAC(
        kind, damping_split="equal"
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ngd.fisher.by_name("newton"),
            "unknown approximation 'newton'; choose one of: identity, exact, block-diagonal",
        ),
        (
            lambda: ngd.fisher.by_name("exact", rank=3),
            "approximation 'exact' does not take rank; its options: kind",
        ),
        (
            lambda: ngd.fisher.by_name("identity", kind=None),
            "approximation 'identity' does not take kind; its options: none",
        ),
        (
            lambda: ngd.fisher.KFAC(output_factor="N"),
            "unknown output_factor 'N'; choose one of: fisher, uniform",
        ),
        (
            lambda: ngd.fisher.KFAC(damping_split="half"),
            "unknown damping_split 'half'; choose one of: factored, equal",
        ),
    ],
)
def test_unknown_names_and_options_list_the_known_ones(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    "damping",
    [
        *(-1e-3, float("nan"), float("inf"), 1j, "1", None, True),
        *(np.asarray([0.1, 0.2]), np.asarray(-1.0), np.asarray(1j), np.float32("nan")),
        *(jnp.asarray(-1.0), jnp.asarray(jnp.nan), jnp.asarray(1j), jnp.asarray(jnp.inf)),
        ngd.fisher.Damping(jnp.asarray(-1.0), None),
    ],
)
def test_a_bad_damping_is_refused(damping):
    p = problem(CASE)
    for call in (
        lambda: ngd.fisher.Exact().natural_gradient(p.lin, p.residual, damping),
        lambda: ngd.fisher.Exact().function_space_map(p.lin, damping),
    ):
        with pytest.raises(InputError, match=r"damping is .*one finite number >= 0"):
            call()


def test_a_traced_damping_must_be_a_scalar():
    p = problem(CASE)
    with pytest.raises(InputError, match=r"damping is an array .* of shape \(2,\); it must be one"):
        jax.jit(ngd.fisher.Exact().function_space_map)(p.lin, jnp.ones(2))


@pytest.mark.parametrize(
    "damping", [1, np.float32(1), np.int64(1), np.asarray(1), jnp.asarray(1.0)]
)
def test_a_damping_may_be_any_real_number(damping):
    p = problem(CASE)
    found = ngd.fisher.Exact().function_space_map(p.lin, damping)
    assert relative_error(found, ngd.fisher.Exact().function_space_map(p.lin, 1.0)) < 1e-12


def test_one_program_serves_all_values_of_an_array_of_damping():
    assert ngd.fisher.as_damping(jnp.asarray(0.0)).zero is None
    assert ngd.fisher.as_damping(np.asarray(0.0)).zero is True
    assert ngd.fisher.as_damping(0.1).zero is False


@pytest.mark.parametrize("name", APPROXIMATIONS)
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_numbers_that_are_not_finite_are_named_not_returned(name, bad):
    p, approximation = problem(CASE), ngd.fisher.by_name(name)
    cotangent = p.residual.at[1, 2].set(bad)
    with pytest.raises(InputError, match=r"cotangent has a NaN or infinity at index \(1, 2\)"):
        approximation.natural_gradient(p.lin, cotangent, 1e-3)
    layer = p.lin.layers[0]
    broken = replace(layer, inputs=layer.inputs.at[2, 0, 1].set(bad))
    lin = replace(p.lin, layers=(broken, *p.lin.layers[1:]))
    for call in (
        lambda: approximation.natural_gradient(lin, p.residual, 1e-3),
        lambda: approximation.function_space_map(lin, 1e-3),
    ):
        with pytest.raises(
            InputError, match=r"lin.*inputs has a NaN or infinity at index \(2, 0, 1"
        ):
            call()


@pytest.mark.parametrize("name", LARGE_LATER)
def test_a_damping_that_rounding_swallows_is_right_or_refused(name):
    # The exact map of two copies is 1/2 for each, found were 0.433 and NaN.
    p, approximation = problem(BY_NAME["L4 C1 tanh bias"]), ngd.fisher.by_name(name)
    lin = ngd.networks.linearize(p.network, p.params, p.x.at[1].set(p.x[0]))
    residual = p.residual.at[1].set(p.residual[0] + 1)
    limits = [flatten(approximation.natural_gradient(lin, residual, 0.0))]
    limits.append(np.asarray(approximation.function_space_map(lin, 0.0)))
    calls = (
        lambda rho: flatten(approximation.natural_gradient(lin, residual, rho)),
        lambda rho: np.asarray(approximation.function_space_map(lin, rho)),
    )
    for call, limit in zip(calls, limits, strict=True):
        for rho in (1e-18, jnp.asarray(1e-18), 1e-22):
            try:
                found = call(rho)
            except SingularKernelError as error:
                assert "damping" in str(error)
            else:
                if name != "entry-wise":  # divides by rho + d, entry by entry
                    assert relative_error(found, limit) < 0.02, rho


@pytest.mark.parametrize("damping", [1e-3, 1e-18])
def test_the_check_of_a_small_damping_reads_no_number_that_is_not_known(damping):
    # A known damping at a known linearisation, but for what is differentiated or batched.
    p, exact = problem(BY_NAME["L1 C3, N<M0"]), ngd.fisher.Exact()
    layer = p.lin.layers[0]

    def moved(inputs):
        return replace(p.lin, layers=(replace(layer, inputs=inputs),))

    def total(*trees):
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(trees))

    calls = (
        (lambda c: total(exact.natural_gradient(p.lin, c, damping)), p.residual),
        (lambda a: total(exact.function_space_map(moved(a), damping)), layer.inputs),
        (lambda a: total(exact.function_space_map(p.lin, damping, moved(a))), layer.inputs),
    )
    for function, at in calls:
        assert np.isfinite(jax.grad(function)(at)).all()
        assert np.isfinite(jax.vmap(function)(jnp.stack([at, 2 * at]))).all()


def test_a_small_damping_of_a_kernel_of_full_rank_is_its_limit():
    p = problem(BY_NAME["L1 C3, N<M0"])
    found = ngd.fisher.Exact().function_space_map(p.lin, 1e-18)
    np.testing.assert_allclose(found, np.eye(len(found)), atol=1e-10)


def test_a_cotangent_of_the_wrong_shape_is_refused():
    p = problem(CASE)
    with pytest.raises(
        InputError, match=r"cotangent has shape \(4, 2\); the outputs have \(4, 3\)"
    ):
        ngd.fisher.Exact().natural_gradient(p.lin, p.residual[:, :2], 0.0)


def test_a_map_to_inputs_of_another_network_is_refused():
    p, other = problem(CASE), problem(BY_NAME["L2 C3 tanh bias"])
    with pytest.raises(InputError, match="`at` linearises a network with other layers"):
        ngd.fisher.Exact().function_space_map(p.lin, 0.0, at=other.lin)


def test_a_new_approximation_needs_one_method():
    from dataclasses import dataclass

    @ngd.fisher.approximation
    @dataclass(frozen=True)
    class Half(ngd.fisher.Approximation):
        name = "half"

        def precondition(self, lin, cotangent, damping):
            return lin.vjp(cotangent / (2 * lin.num_samples))

    p = problem(CASE)
    k = Half().function_space_map(p.lin, 0.0, at=p.at)
    expected = p.jacobian_at @ p.dense.jacobian.T / (2 * CASE.num_samples)
    assert relative_error(k, expected) < 1e-12
    with pytest.raises(TypeError):
        ngd.fisher.Approximation()


def test_a_cotangent_takes_the_type_of_the_outputs():
    """Of a model of float32 in a process of float64."""
    net = ngd.networks.mlp(3, [4], 1)
    params = net.init(jax.random.key(0), jnp.float32)
    lin = ngd.networks.linearize(net, params, jnp.ones((2, 3), jnp.float32))
    found = ngd.fisher.by_name("exact").natural_gradient(lin, jnp.ones((2, 1)), 0.1)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(found)} == {"float32"}

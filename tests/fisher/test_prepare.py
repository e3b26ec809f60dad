"""Factor once, apply many: `Approximation.prepare` gives what is given without it, and factors no more."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import APPROXIMATIONS, BY_NAME, Case, problem, relative_error
from dense import flatten

import ngd_theory as ngd
from ngd_theory.errors import InputError, SingularKernelError

CASE = BY_NAME["L3 C3 gelu bias"]
#: Of exact zeros and of two programs.
ROUNDING = 1e-11
FACTORISATIONS = {"cholesky", "eigh", "lu", "qr", "householder_product"}


def options(name):
    """The approximation under MSE, and under cross-entropy where it takes a kind."""
    cls = ngd.fisher.APPROXIMATIONS[name]
    yield cls()
    if "kind" in cls.__dataclass_fields__:
        yield cls(kind=ngd.fisher.TrueFisher("cross-entropy"))


@pytest.mark.parametrize("name", APPROXIMATIONS)
@pytest.mark.parametrize("damping", [0.0, 1e-3, jnp.asarray(1e-3), jnp.asarray(0.0)], ids=str)
def test_what_is_prepared_gives_what_is_given_without(name, damping):
    p = problem(CASE)
    for approximation in options(name):
        prepared = approximation.prepare(p.lin, damping)
        found = prepared.natural_gradient(p.residual)
        expected = approximation.natural_gradient(p.lin, p.residual, damping)
        assert relative_error(flatten(found), flatten(expected)) < ROUNDING
        for at in (None, p.at):
            found = prepared.function_space_map(at)
            expected = approximation.function_space_map(p.lin, damping, at)
            assert relative_error(found, expected) < ROUNDING
        if approximation.by_layers:
            found = sum(prepared.layer_maps())
            assert relative_error(found, prepared.function_space_map()) < ROUNDING


def primitives(jaxpr):
    """Names of all primitives of a jaxpr and of those inside it."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=is_jaxpr):
            if is_jaxpr(value):
                yield from primitives(getattr(value, "jaxpr", value))


def is_jaxpr(value):
    return hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")


@pytest.mark.parametrize("damping", [0.0, 1e-3])
@pytest.mark.parametrize("name", [name for name in APPROXIMATIONS if name != "unit-wise"])
def test_what_is_prepared_is_not_factored_again(name, damping):
    p = problem(CASE)
    for approximation in options(name):
        prepared = approximation.prepare(p.lin, damping)
        calls = (prepared.natural_gradient, p.residual), (prepared.function_space_map, p.at)
        for call, given in calls:
            names = set(primitives(jax.make_jaxpr(call)(given).jaxpr))
            # The pseudo-inverse of each sample's root is of size C.
            if getattr(approximation, "kind", None) == ngd.fisher.TrueFisher("cross-entropy"):
                names -= {"eigh"}
            assert not names & FACTORISATIONS
        whole = jax.make_jaxpr(approximation.natural_gradient, static_argnums=2)
        seen = set(primitives(whole(p.lin, p.residual, damping).jaxpr)) & FACTORISATIONS
        assert bool(seen) == (name not in ("identity", "entry-wise", "quasi-diagonal"))


CALLS = []


@ngd.fisher.approximation
@dataclass(frozen=True)
class Counted(ngd.fisher.Approximation):
    """Halves gradients; says when it factors and when it applies."""

    name = "counted"
    by_layers = True

    def factor(self, lin, damping):
        jax.debug.callback(lambda: CALLS.append("factor"))
        return {"half": jnp.asarray(0.5) + 0 * damping.value}

    def precondition(self, lin, cotangent, factors):
        jax.debug.callback(lambda: CALLS.append("apply"))
        return jax.tree.map(lambda g: factors["half"] * g, lin.vjp(cotangent / lin.num_samples))


def counted(call):
    CALLS.clear()
    jax.block_until_ready(call())
    jax.effects_barrier()
    return CALLS.count("factor"), CALLS.count("apply")


def test_the_default_map_factors_once_for_all_of_its_columns():
    p, mine = problem(CASE), Counted()
    columns = p.lin.outputs.size
    assert columns == 12
    assert counted(lambda: mine.natural_gradient(p.lin, p.residual, 1e-3)) == (1, 1)
    assert counted(lambda: mine.function_space_map(p.lin, 1e-3)) == (1, columns)
    assert counted(lambda: mine.layer_maps(p.lin, 1e-3)) == (1, columns)
    found = mine.function_space_map(p.lin, 1e-3, p.at)
    expected = p.jacobian_at @ p.dense.jacobian.T / (2 * CASE.num_samples)
    assert relative_error(found, expected) < 1e-12
    prepared = mine.prepare(p.lin, 1e-3)
    assert counted(lambda: prepared.natural_gradient(p.residual)) == (0, 1)
    assert counted(lambda: prepared.function_space_map(p.at)) == (0, columns)


@ngd.fisher.approximation
@dataclass(frozen=True)
class Old(ngd.fisher.Approximation):
    """As classes were written before `factor`: the third argument is the damping, and others are called with it."""

    name = "old"
    by_layers = True

    def precondition(self, lin, cotangent, damping):
        assert isinstance(damping, ngd.fisher.Damping)
        step = ngd.fisher.KFAC().precondition(lin, cotangent, damping)
        return jax.tree.map(lambda g: 2 * g, step)


@ngd.fisher.approximation
@dataclass(frozen=True)
class Doubled(ngd.fisher.KFAC):
    """A sub-class of one of ours with both methods in terms of its own."""

    name = "doubled"

    def precondition(self, lin, cotangent, damping):
        return jax.tree.map(lambda g: 2 * g, super().precondition(lin, cotangent, damping))

    def preconditioned_map(self, lin, damping, at):
        return 2 * super().preconditioned_map(lin, damping, at)


@ngd.fisher.approximation
@dataclass(frozen=True)
class Refactored(ngd.fisher.KFAC):
    """A sub-class of one of ours with its own factors."""

    name = "refactored"

    def factor(self, lin, damping):
        found = super().factor(lin, damping)
        return tuple(replace(y, sensitivities=2 * y.sensitivities) for y in found)


@pytest.mark.parametrize("old", [Old(), Doubled(), Refactored()], ids=lambda a: a.name)
@pytest.mark.parametrize("damping", [0.0, 1e-3, jnp.asarray(1e-3)], ids=str)
def test_classes_written_before_it_work_as_they_did(old, damping):
    p, kfac = problem(CASE), ngd.fisher.KFAC()
    for one in (old, old.prepare(p.lin, damping)):
        where = (p.lin, damping) if one is old else ()
        gradient = one.natural_gradient(*where[:1], p.residual, *where[1:])
        expected = kfac.natural_gradient(p.lin, p.residual, damping)
        assert relative_error(flatten(gradient), 2 * flatten(expected)) < ROUNDING
        found = one.function_space_map(*where, at=p.at)
        expected = 2 * kfac.function_space_map(p.lin, damping, p.at)
        assert relative_error(found, expected) < ROUNDING


@pytest.mark.parametrize("name", ["kfac", "kfac-output", "shampoo"])
def test_one_natural_gradient_whitens_sums_over_the_outputs(name):
    n, c, width = 20, 10, 400
    net = ngd.networks.mlp(30, [width, width], c)
    keys = jax.random.split(jax.random.key(0))
    lin = ngd.networks.linearize(
        net, net.init(keys[0], jnp.float64), jax.random.normal(keys[1], (n, 30), jnp.float64)
    )
    approximation = ngd.fisher.by_name(name)

    def flops(function):
        return jax.jit(function).lower(lin).compile().cost_analysis()["flops"]

    once = flops(lambda lin: approximation.natural_gradient(lin, lin.outputs, 1e-3))
    every = flops(lambda lin: approximation.prepare(lin, 1e-3).factors)
    assert once < 0.8 * every


@pytest.mark.parametrize("name", APPROXIMATIONS)
def test_our_own_take_a_damping_in_place_of_what_they_made(name):
    p, approximation = problem(CASE), ngd.fisher.by_name(name)
    damping = ngd.fisher.as_damping(1e-3)
    found = approximation.precondition(p.lin, p.residual, damping)
    expected = approximation.natural_gradient(p.lin, p.residual, damping)
    assert relative_error(flatten(found), flatten(expected)) < ROUNDING
    found = approximation.preconditioned_map(p.lin, damping, p.at)
    expected = approximation.function_space_map(p.lin, damping, p.at)
    assert relative_error(found, expected) < ROUNDING


def test_conjugate_gradients_hold_nothing_and_solve_all_the_same():
    p = problem(CASE)
    by_cg, exact = ngd.fisher.Exact(solver="cg"), ngd.fisher.Exact()
    prepared = by_cg.prepare(p.lin, 1e-2)
    assert isinstance(prepared.factors, ngd.fisher.Damping)
    found = prepared.natural_gradient(p.residual)
    expected = exact.natural_gradient(p.lin, p.residual, 1e-2)
    assert relative_error(flatten(found), flatten(expected)) < 1e-8
    expected = exact.function_space_map(p.lin, 1e-2)
    assert relative_error(prepared.function_space_map(), expected) < ROUNDING


@pytest.mark.parametrize("name", ["exact", "block-diagonal", "block-tridiagonal", "kfac"])
def test_what_is_prepared_crosses_jit_vmap_and_derivatives(name):
    p, approximation = problem(CASE), ngd.fisher.by_name(name)
    prepare = jax.jit(approximation.prepare)
    dampings = jnp.asarray([0.0, 1e-2, 1.0])
    several = jax.vmap(lambda rho: prepare(p.lin, rho))(dampings)
    maps = jax.vmap(lambda one: one.function_space_map())(several)
    for rho, found in zip((0.0, 1e-2, 1.0), maps, strict=True):
        expected = approximation.function_space_map(p.lin, rho)
        assert relative_error(found, expected) < 1e-9

    def total(rho, how):
        found = how(rho)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(found))

    def apart(rho):
        return prepare(p.lin, rho).natural_gradient(p.residual)

    def at_once(rho):
        return approximation.natural_gradient(p.lin, p.residual, rho)

    for rho in (1e-2, 1.0):
        slopes = [jax.grad(total)(rho, how) for how in (apart, at_once)]
        assert slopes[0] == pytest.approx(float(slopes[1]), rel=1e-9)
        assert abs(slopes[0]) > 0
    batch = jax.grad(lambda rhos: sum(total(rho, at_once) for rho in rhos))(dampings[1:])
    together = jax.vmap(jax.grad(lambda rho: total(rho, apart)))(dampings[1:])
    np.testing.assert_allclose(together, batch, rtol=1e-8)


def test_a_batch_with_a_damping_of_zero_has_derivatives():
    p, exact = problem(BY_NAME["L1 C3, N<M0"]), ngd.fisher.Exact()

    def first(scale, rho):
        layer = p.lin.layers[0]
        moved = replace(p.lin, layers=(replace(layer, inputs=scale * layer.inputs),))
        return exact.prepare(moved, rho).function_space_map()[0, 0]

    rhos = jnp.asarray([0.0, 0.1])
    found = jax.vmap(jax.grad(first), (None, 0))(1.0, rhos)
    assert found[0] == pytest.approx(0, abs=1e-10)
    step = 1e-5
    difference = (first(1 + step, 0.1) - first(1 - step, 0.1)) / (2 * step)
    assert found[1] == pytest.approx(float(difference), rel=1e-6)


def test_what_is_prepared_refuses_in_the_same_words():
    p, other = problem(CASE), problem(BY_NAME["L2 C3 tanh bias"])
    exact = ngd.fisher.Exact()
    prepared = exact.prepare(p.lin, 1e-3)
    with pytest.raises(InputError, match=r"cotangent has shape \(4, 2\); the outputs have"):
        prepared.natural_gradient(p.residual[:, :2])
    with pytest.raises(InputError, match="`at` linearises a network with other layers"):
        prepared.function_space_map(other.lin)
    with pytest.raises(InputError, match="'exact' couples the layers"):
        prepared.layer_maps()
    with pytest.raises(InputError, match="damping is -1"):
        exact.prepare(p.lin, -1)
    layer = p.lin.layers[0]
    broken = replace(layer, inputs=layer.inputs.at[2, 0, 1].set(jnp.nan))
    lin = replace(p.lin, layers=(broken, *p.lin.layers[1:]))
    with pytest.raises(InputError, match=r"inputs has a NaN or infinity at index \(2, 0, 1"):
        exact.prepare(lin, 1e-3).natural_gradient(p.residual)
    twice = ngd.networks.linearize(p.network, p.params, p.x.at[1].set(p.x[0]))
    with pytest.raises(SingularKernelError, match="damping"):
        exact.prepare(twice, 1e-22).function_space_map()


def test_layer_maps_are_those_of_one_layer_each():
    p = problem(Case("two outputs", 5, (9, 8), 2, "tanh", 4, bias_std=0.2))
    for approximation in (
        ngd.fisher.KFAC(output_factor="uniform"),
        ngd.fisher.UnitWise(),
        ngd.fisher.BlockDiagonal(),
    ):
        maps = approximation.layer_maps(p.lin, 1e-3)
        for i, layer in enumerate(p.lin.layers):
            one = ngd.networks.Linearization(p.lin.outputs, (layer,))
            alone = approximation
            if approximation.name == "kfac" and i < 2:
                alone = ngd.fisher.KFAC()
            expected = alone.function_space_map(one, 1e-3)
            assert relative_error(maps[i], expected) < ROUNDING

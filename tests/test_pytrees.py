"""Objects of the package as JAX pytrees."""

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import APPROXIMATIONS, BY_NAME, problem, relative_error
from dense import flatten

import ngd_theory as ngd
from ngd_theory.pytrees import pytree


def variants():
    """Every approximation, and K-FAC with each of its options."""
    kinds = (
        ngd.fisher.TrueFisher(),
        ngd.fisher.TrueFisher("cross-entropy"),
        ngd.fisher.SampledFisher(jax.random.key(0)),
        ngd.fisher.SampledFisher(jax.random.key(0), num_samples=2),
        ngd.fisher.EmpiricalFisher(jnp.zeros((4, 3))),
    )
    return [
        *(ngd.fisher.by_name(name) for name in APPROXIMATIONS),
        *(ngd.fisher.Exact(kind) for kind in kinds[1:]),
        *(ngd.fisher.BlockDiagonal(kind) for kind in kinds[1:]),
        ngd.fisher.KFAC(output_factor="uniform"),
        ngd.fisher.KFAC(damping_split="equal"),
    ]


def test_tree_structures_of_different_approximations_differ():
    # jax.tree_util.register_dataclass makes structures that compare equal across classes.
    for one, other in itertools.combinations(variants(), 2):
        assert jax.tree.structure(one) != jax.tree.structure(other), (one, other)


def test_equal_approximations_have_equal_structures_and_hashes():
    for one, same in zip(variants(), variants(), strict=True):
        assert jax.tree.structure(one) == jax.tree.structure(same)
        assert hash(jax.tree.structure(one)) == hash(jax.tree.structure(same))


def test_one_jitted_function_serves_each_approximation_its_own_program():
    p = problem(BY_NAME["L3 C3 gelu bias"])
    step = jax.jit(lambda a, lin, r: a.natural_gradient(lin, r, 1e-3))
    for _ in range(2):  # the second round comes from the cache
        for name in APPROXIMATIONS:
            found = step(ngd.fisher.by_name(name), p.lin, p.residual)
            expected = p.dense.solution(name, 1e-3) @ np.asarray(p.residual).ravel()
            assert relative_error(flatten(found), expected) < 1e-8, name


def test_tree_operations_rebuild_an_equal_object():
    for approximation in variants():
        leaves, structure = jax.tree.flatten(approximation)
        rebuilt = jax.tree.unflatten(structure, leaves)
        assert type(rebuilt) is type(approximation)
        assert jax.tree.structure(rebuilt) == structure


def test_leaves_of_a_linearisation_are_its_arrays_with_their_names():
    lin = problem(BY_NAME["L3 C3 gelu bias"]).lin
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(lin)]
    assert paths[0] == ".outputs"
    assert ".layers[2].sensitivities" in paths
    assert len(paths) == 1 + 2 * 3


def test_static_fields_are_part_of_the_structure():
    @pytree("value")
    @dataclass(frozen=True)
    class Scaled:
        value: jax.Array
        scale: float = 1.0

    calls = []

    @jax.jit
    def product(scaled):
        calls.append(scaled.scale)
        return scaled.value * scaled.scale

    assert float(product(Scaled(jnp.asarray(2.0)))) == 2
    assert float(product(Scaled(jnp.asarray(3.0)))) == 3
    assert float(product(Scaled(jnp.asarray(3.0), 2.0))) == 6
    assert calls == [1.0, 2.0]


def test_a_trajectory_is_a_pytree_with_and_without_test_outputs():
    p = problem(BY_NAME["L1 C3, N<M0"])
    trajectory = ngd.dynamics.predict(ngd.fisher.Exact(), p.lin, p.targets, 0.5, 2, 0.0)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, trajectory)
    assert doubled.test_outputs is None
    assert doubled.num_steps == 2
    np.testing.assert_array_equal(doubled.outputs, 2 * trajectory.outputs)
    with pytest.raises(AttributeError):
        trajectory.outputs = None

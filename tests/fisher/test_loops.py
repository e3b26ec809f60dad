"""The loops over small problems: an accelerator's batches give what a CPU's one by one give."""

import jax
import numpy as np
import pytest
from cases import BY_NAME, problem, relative_error

import ngd_theory as ngd
from ngd_theory.fisher.loops import batch_size, map_items, sum_items

#: Of units: one, a part of them with a rest, all at once.
BATCHES = (1, 4, 7, 50)


@pytest.fixture
def accelerator(monkeypatch):
    """Programs choose what they run on any platform but a CPU; the loops that did so (factorisations do too)."""
    taken = []

    def elsewhere(*args, default, **_):
        if default.__module__ == "ngd_theory.fisher.loops":
            taken.append(default)
        return default(*args)

    monkeypatch.setattr(jax.lax, "platform_dependent", elsewhere)
    return taken


@pytest.mark.parametrize("batch", BATCHES)
def test_batches_are_items_one_by_one(accelerator, batch):
    rng = np.random.default_rng(0)
    items = {"a": rng.normal(size=(7, 3, 2)), "b": rng.normal(size=(7, 3))}

    def function(item):
        return item["b"] @ item["a"]

    wanted = np.einsum("nij,ni->nj", items["a"], items["b"])
    np.testing.assert_allclose(map_items(function, items, batch), wanted, rtol=1e-12)
    total = sum_items(function, items, np.ones(2), batch)
    np.testing.assert_allclose(total, 1 + wanted.sum(axis=0), rtol=1e-12)
    assert len(accelerator) == 2


@pytest.mark.parametrize(("size", "batch"), [(1000, 3), (7, 4), (64, 16), (5, 9)])
def test_no_batch_is_larger_than_asked_for(accelerator, monkeypatch, size, batch):
    sizes = []

    def vmap(function):
        def batched(items):
            sizes.append(len(items))
            return items

        return batched

    monkeypatch.setattr(jax, "vmap", vmap)
    found = map_items(lambda item: item, np.arange(float(size)), batch)
    np.testing.assert_array_equal(found, np.arange(size))
    assert max(sizes) == min(batch, size)


def test_as_many_items_as_fit_in_the_budget():
    assert batch_size(10, 10, itemsize=8, budget=8000) == 10
    assert batch_size(10, 10, itemsize=8, budget=1) == 1


@pytest.mark.parametrize("damping", [1e-2, 0.0])
def test_unit_wise_in_batches(accelerator, monkeypatch, damping):
    p = problem(BY_NAME["L2 C3 tanh bias"])
    approximation = ngd.fisher.by_name("unit-wise")
    rho = ngd.fisher.as_damping(damping)
    # Two batches of three of the seven units, and a rest.
    for module in ("unit_wise", "many_systems"):
        monkeypatch.setattr(f"ngd_theory.fisher.{module}.batch_size", lambda *_, **__: 3)
    gradient = jax.jit(lambda: approximation.precondition(p.lin, p.residual, rho))()
    k = jax.jit(lambda: approximation.preconditioned_map(p.lin, rho, p.at))()
    # Of two layers; units that are solved together are factorised in the transposed system too.
    assert len(accelerator) == (6 if damping else 4)
    monkeypatch.undo()
    wanted = approximation.natural_gradient(p.lin, p.residual, damping)
    for found, expected in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted), strict=True):
        assert relative_error(found, expected) < 1e-9
    assert relative_error(k, approximation.function_space_map(p.lin, damping, p.at)) < 1e-9

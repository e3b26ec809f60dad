"""Copies of public objects, by pickle, cloudpickle and deepcopy: equal, and the same to `jax.jit`."""

import copy
import dataclasses
import importlib.util
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory as ngd
from ngd_theory import optim

KEY = jax.random.key(0)
NET = ngd.networks.mlp(3, [4], 2, "tanh", bias_std=0.1)
PARAMS = NET.init(KEY)
X, Y = jnp.ones((2, 3)), jnp.eye(2)
COPIES = {"pickle": lambda value: pickle.loads(pickle.dumps(value)), "deepcopy": copy.deepcopy}
if importlib.util.find_spec("cloudpickle"):  # Dask's and joblib's
    cloudpickle = importlib.import_module("cloudpickle")
    COPIES["cloudpickle"] = lambda value: pickle.loads(cloudpickle.dumps(value))

#: Objects without arrays, compared as a whole.
STATIC = {
    **{f"mlp {name}": ngd.networks.mlp(3, [4], 1, name) for name in ngd.networks.ACTIVATIONS},
    "cnn": ngd.networks.cnn((8, 8, 3), [4], 2, pool=2),
    "cnn pool": ngd.networks.cnn((8, 8, 3), [4], 2, readout="pool", padding="circular"),
    "autoencoder": ngd.networks.autoencoder(4, [3, 2]),
    **{f"activation {name}": a for name, a in ngd.networks.ACTIVATIONS.items()},
    **{f"loss {name}": loss for name, loss in ngd.losses.LOSSES.items()},
    **{name: ngd.fisher.by_name(name) for name in ngd.fisher.APPROXIMATIONS},
    "cross-entropy": ngd.fisher.KFAC(ngd.fisher.TrueFisher("cross-entropy"), sharing="reduce"),
    "cg": ngd.fisher.Exact(solver=ngd.fisher.ConjugateGradients()),
    "sizes": NET.layer_sizes,
    "layouts": tuple(block.affine.layout for block in NET.blocks),
    "optimizer": optim.kfac(NET, "cross-entropy", structure="block-tridiagonal"),
}


def linearization():
    return ngd.networks.linearize(NET, PARAMS, X)


#: Objects with arrays, compared leaf by leaf.
WITH_ARRAYS = {
    "linearization": linearization,
    "function": lambda: ngd.networks.linearize_function(NET.apply, PARAMS, X),
    "damping": lambda: ngd.fisher.as_damping(0.1),
    "sampled": lambda: ngd.fisher.Exact(ngd.fisher.SampledFisher(KEY)),
    "empirical": lambda: ngd.fisher.Exact(ngd.fisher.EmpiricalFisher(Y)),
    "trajectory": lambda: ngd.dynamics.predict(
        ngd.fisher.Exact(), linearization(), Y, 0.1, 1, 0.1, at=linearization()
    ),
    "isotropy": lambda: ngd.theory.isotropy(jnp.eye(3)),
    "condition": lambda: ngd.theory.check_conditions(ngd.fisher.Exact(), NET, linearization()),
    "state": lambda: optim.kfac(NET).init(PARAMS),
    "tridiagonal state": lambda: optim.kfac(NET, structure="block-tridiagonal").init(PARAMS),
}


@pytest.mark.parametrize("by", COPIES)
@pytest.mark.parametrize("name", STATIC)
def test_a_copy_is_equal_and_has_the_same_hash(name, by):
    value = STATIC[name]
    made = COPIES[by](value)
    assert made == value
    assert hash(made) == hash(value)
    if dataclasses.is_dataclass(value):
        assert dataclasses.fields(made) == dataclasses.fields(value)


def test_what_differs_is_not_equal():
    names = list(STATIC)
    for one in names:
        for other in names:
            assert (STATIC[one] == STATIC[other]) == (one == other), (one, other)


def numbers(leaf):
    keys = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if keys else leaf)


@pytest.mark.parametrize("by", COPIES)
@pytest.mark.parametrize("name", WITH_ARRAYS)
def test_a_copy_has_the_same_structure_and_numbers(name, by):
    value = WITH_ARRAYS[name]()
    made = COPIES[by](value)
    assert jax.tree.structure(made) == jax.tree.structure(value)
    for here, there in zip(jax.tree.leaves(made), jax.tree.leaves(value), strict=True):
        np.testing.assert_array_equal(numbers(here), numbers(there))


def test_a_copy_compiles_nothing_anew():
    traced = []

    def outputs(network, approximation, loss, params):
        traced.append(network)
        lin = ngd.networks.linearize(network, params, X)
        return approximation.natural_gradient(lin, loss.residual(lin.outputs, Y), 0.1)

    run = jax.jit(outputs, static_argnums=(0, 2))
    given = NET, ngd.fisher.KFAC(), ngd.losses.MSE
    run(*given, PARAMS)
    for make in COPIES.values():
        run(*make(given), PARAMS)
    assert len(traced) == 1


def test_a_copied_optimizer_makes_the_same_step():
    optimizer = optim.kfac(NET, damping=1.0)
    made = pickle.loads(pickle.dumps(optimizer))
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    # One compiled program: the step is a static argument.
    traced = []

    def update(o, *args):
        traced.append(o)
        return o.update(*args, x=X, y=Y)

    step = jax.jit(update, static_argnums=0)
    first, again = (step(o, grads, o.init(PARAMS), PARAMS)[0] for o in (optimizer, made))
    for here, there in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(here, there)
    assert len(traced) == 1


def test_a_copy_of_the_squared_error_is_predicted_in_closed_form():
    loss = pickle.loads(pickle.dumps(ngd.losses.MSE))
    found = ngd.dynamics.predict(ngd.fisher.Exact(), linearization(), Y, 0.1, 1, 0.1, loss=loss)
    assert found.displacement is None

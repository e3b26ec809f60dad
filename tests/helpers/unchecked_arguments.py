"""Arguments of wrong types and values, over all public functions: what is wrong, and what it must be.

Run by tests/test_wrong_types.py in a process of its own, as users meet them: without the checks of shapes and types
that conftest.py installs.
"""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory as ngd
from ngd_theory import optim
from ngd_theory.arguments import check_finite, checked, is_finite, require_known
from ngd_theory.errors import InputError, NGDTheoryError

NET = ngd.networks.mlp(3, [4], 2, "tanh", bias_std=0.1)
PARAMS = NET.init(jax.random.key(0))
X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
Y = jnp.asarray(np.eye(2)[[0, 1, 0, 1]])
LIN = ngd.networks.linearize(NET, PARAMS, X)
EXACT = ngd.fisher.Exact()
BATCHES = jnp.array([[0, 2]])
#: Whatever a function takes, one of these is of another type than each of its arguments.
WRONG = (
    None,
    "1",
    1j,
    {"a": X},
    object(),
    True,
    float("nan"),
    -1.0,
    [[1.0, "x"]],
    jnp.ones(2, int),
)

#: Every public function with arguments that it takes; its tests replace one at a time.
CALLS = {
    "mlp": (ngd.networks.mlp, {"input_dim": 3, "hidden_widths": [4], "output_dim": 1}),
    "cnn": (ngd.networks.cnn, {"input_shape": (4, 4, 1), "channels": [2], "output_dim": 1}),
    "autoencoder": (ngd.networks.autoencoder, {"input_dim": 3, "encoder_widths": [2]}),
    "standard_parameterization": (ngd.networks.standard_parameterization, {"network": NET}),
    "scaled_init": (
        ngd.networks.scaled_init,
        {"network": NET, "key": jax.random.key(0), "gain": 1.0},
    ),
    "sparse_init": (
        ngd.networks.sparse_init,
        {"network": NET, "key": jax.random.key(0), "num_connections": 2},
    ),
    "init": (NET.init, {"key": jax.random.key(0)}),
    "apply": (NET.apply, {"params": PARAMS, "x": X}),
    "linearize": (ngd.networks.linearize, {"network": NET, "params": PARAMS, "x": X}),
    "linearize_function": (
        ngd.networks.linearize_function,
        {"apply": NET.apply, "params": PARAMS, "x": X},
    ),
    "natural_gradient": (
        EXACT.natural_gradient,
        {"lin": LIN, "cotangent": LIN.outputs, "damping": 0.1},
    ),
    "function_space_map": (EXACT.function_space_map, {"lin": LIN, "damping": 0.1}),
    "layer_maps": (ngd.fisher.KFAC().layer_maps, {"lin": LIN, "damping": 0.1}),
    "by_name": (ngd.fisher.by_name, {"name": "exact"}),
    "Exact": (ngd.fisher.Exact, {"kind": ngd.fisher.TrueFisher(), "solver": "auto"}),
    "as_damping": (ngd.fisher.as_damping, {"damping": 0.1}),
    "ntk": (ngd.kernels.ntk, {"lin": LIN}),
    "layerwise_ntk": (ngd.kernels.layerwise_ntk, {"lin": LIN}),
    "infinite.ntk": (ngd.kernels.infinite.ntk, {"net": NET, "x1": X}),
    "infinite.nngp": (ngd.kernels.infinite.nngp, {"net": NET, "x1": X}),
    "predict": (
        ngd.dynamics.predict,
        {
            **{"approximation": EXACT, "lin": LIN, "targets": Y, "step_size": 0.1},
            **{"num_steps": 1, "damping": 0.1, "batches": BATCHES, "momentum": 0.5},
        },
    ),
    "Momentum": (ngd.dynamics.Momentum, {"decay": 0.5, "correction": 0.1}),
    "spring": (ngd.dynamics.spring, {"decay": 0.5, "constant": 2.0}),
    "draw_batches": (
        ngd.dynamics.draw_batches,
        {"key": jax.random.key(0), "num_samples": 4, "size": 2, "num_steps": 3},
    ),
    "spectral_radius": (
        ngd.dynamics.spectral_radius,
        {"eigenvalues": X[:, 0], "step_size": 0.1, "momentum": 0.5},
    ),
    "train": (
        ngd.dynamics.train,
        {
            **{"network": NET, "params": PARAMS, "x": X, "y": Y, "approximation": EXACT},
            **{"step_size": 0.1, "num_steps": 1, "damping": 0.1},
            **{"batches": BATCHES, "momentum": 0.5},
        },
    ),
    "isotropy": (ngd.theory.isotropy, {"map": jnp.eye(3)}),
    "isotropy_constant": (
        ngd.theory.isotropy_constant,
        {"approximation": EXACT, "net": NET, "num_samples": 4},
    ),
    "step_memory": (
        ngd.theory.step_memory,
        {"approximation": EXACT, "net": NET, "num_samples": 4},
    ),
    "check_conditions": (
        ngd.theory.check_conditions,
        {"approximation": EXACT, "net": NET, "lin": LIN, "damping": 0.1},
    ),
    "kfac": (optim.kfac, {"network": NET, "loss": "mse"}),
    "kfac.init": (optim.kfac(NET).init, {"params": PARAMS}),
    "batch_sizes": (optim.batch_sizes, {"first": 1, "last": 2, "num_steps": 3}),
    "load_state": (optim.load_state, {"path": "/no/such/file", "like": PARAMS}),
    "losses.by_name": (ngd.losses.by_name, {"name": "mse"}),
    "mse.value": (ngd.losses.MSE.value, {"outputs": LIN.outputs, "targets": Y}),
    "data.load": (ngd.data.load, {"source": "gaussian", "num_train": 2, "input_dim": 2}),
}
#: Wrong for most, right for these: a text is a name or a path, and what has a default of None takes it.
MAY_PASS = {
    ("linearize_function", "apply"),
    ("check_conditions", "net"),  # None for a function without layers
    ("isotropy", "map"),
    ("as_damping", "damping"),
    ("natural_gradient", "damping"),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_argument_of_another_type_is_refused_in_words(name):
    function, arguments = CALLS[name]
    refused = 0
    for argument in arguments:
        for wrong in WRONG:
            try:
                function(**{**arguments, argument: wrong})
            except NGDTheoryError as error:
                assert len(str(error).splitlines()) == 1, (argument, wrong, error)
                refused += 1
        assert refused or (name, argument) in MAY_PASS, f"{argument} may be anything"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ngd.networks.linearize(None, PARAMS, X),
            "network is None; it must be of type Net",
        ),
        (
            lambda: ngd.networks.mlp(3, [4], 1, weight_std="1"),
            "weight_std is '1'; it must be a num",
        ),
        (lambda: ngd.networks.network(abs, [3], (3,)), "layers is a list; it must be a dict"),
        (lambda: ngd.networks.mlp(3, "44", 1), "hidden_widths is '44'; it must be a sequence"),
        (lambda: ngd.networks.mlp(3, [4], True), "output_dim is True; it must be a whole number"),
        (lambda: NET.init(None), r"key is None; it must be a key: jax.random.key\(0\)"),
        (
            lambda: NET.apply(PARAMS, X.astype(int)),
            "x is an array of int.*must be a floating array",
        ),
        (
            lambda: NET.apply(jax.tree.map(lambda p: p + 1j, PARAMS), X),
            "'bias' in the parameters of layer 1 is an array of complex",
        ),
        (
            lambda: ngd.networks.linearize(NET, jax.tree.map(jnp.rint, PARAMS), {"x": X}),
            "x is a dict; it must be an array",
        ),
        (
            lambda: ngd.fisher.by_name("exact", kind="true"),
            "kind is 'true'; it must be of type True",
        ),
        (
            lambda: ngd.fisher.by_name("exact", memory_limit="2G"),
            "memory_limit is '2G'; it must be a whole number",
        ),
        (lambda: ngd.fisher.by_name("exact", rank=3, kind=1), "does not take rank; its options: k"),
        (
            lambda: EXACT.natural_gradient(None, Y, 0.1),
            "lin is None; it must be of type Linearizat",
        ),
        (
            lambda: jax.jit(partial(ngd.dynamics.train, NET), static_argnums=(3, 4, 5, 6))(
                PARAMS, X, Y, EXACT, 0.1, 1, 0.1
            ),
            "train needs the values of its arguments, which are unknown inside jit, vmap and grad",
        ),
        (
            lambda: jax.jit(lambda n: ngd.networks.mlp(3, [4], n))(2),
            "output_dim is an array of .* inside jit, vmap or grad; it must be a whole number",
        ),
        (
            lambda: jax.jit(lambda d: optim.kfac(NET, l2=d).init(PARAMS))(1.0),
            "kfac needs the values",
        ),
        (
            lambda: jax.jit(lambda d: optim.kfac(NET, damping=d).init(PARAMS))(1.0),
            "damping is .*, which varies",
        ),
        (
            lambda: optim.save_state("/no/such/folder/state", PARAMS),
            "make the folder /no/such/folder first",
        ),
        (
            lambda: ngd.dynamics.predict(EXACT, LIN, Y, 0.1, 2.5, 0.1),
            "num_steps is 2.5; it must be",
        ),
        (lambda: ngd.dynamics.train(NET, PARAMS, X, Y, EXACT, None, 1, 0.1), "step_size is None"),
    ],
)
def test_the_message_says_what_it_is_and_what_it_must_be(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("number", [1, np.int64(1), np.int8(1), 1.0, np.float32(1)])
def test_numbers_of_numpy_are_numbers(number):
    assert ngd.networks.mlp(3, [number], number, weight_std=number) == ngd.networks.mlp(
        3, [1], 1, weight_std=1.0
    )
    optimizer = optim.kfac(NET, damping=number, inverse_period=number, adapt_damping=np.True_)
    assert optimizer == optim.kfac(NET, damping=1.0, inverse_period=1)
    assert float(ngd.fisher.as_damping(number).value) == 1
    first, same = (
        ngd.dynamics.predict(EXACT, LIN, Y, n, n, n).outputs for n in (number, int(number))
    )
    np.testing.assert_array_equal(first, same)


def test_checked_functions_keep_their_names_signatures_and_docs():
    for name, (function, _) in CALLS.items():
        assert function.__doc__ or name in ("Exact", "kfac.init", "mse.value"), name
    assert list(inspect.signature(ngd.networks.mlp).parameters)[:2] == [
        "input_dim",
        "hidden_widths",
    ]
    assert ngd.dynamics.train.__name__ == "train"


def test_checks_work_inside_jit_and_convert_whole_numbers():
    @checked
    def twice(x: ngd.networks.linearization.Float[jax.Array, " N"], times: int, scale: float = 1.0):
        assert type(times) is int
        return x * times * scale

    assert float(jax.jit(lambda x, s: twice(x, 2.0, scale=s))(jnp.ones(1), 3.0)[0]) == 6
    with pytest.raises(InputError, match=r"times is 2\.5; it must be a whole number"):
        twice(jnp.ones(1), 2.5)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        twice(jnp.ones(1))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_number_that_is_not_finite_is_named(bad):
    tree = {"a": jnp.ones((2, 2)), "b": [np.array([[1.0, bad]], np.float32), jnp.arange(3)]}
    assert not is_finite(tree)
    with pytest.raises(InputError, match=r"x\['b'\]\[0\] has a NaN or infinity at index \(0, 1\)"):
        check_finite("x", tree)
    check_finite("x", {"empty": np.empty((0, 2)), "whole": jnp.arange(3), "none": None})
    assert jax.jit(is_finite)(jnp.asarray(bad))  # unknown there
    require_known("this", tree)

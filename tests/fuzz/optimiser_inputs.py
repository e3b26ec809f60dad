"""What K-FAC is given wrongly: options, parameters, gradients, batches, states and their files."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from bad_inputs import OPTIMISER, Bad, short, varied

from ngd_theory import networks, optim

NET = networks.mlp(3, [6], 2, "tanh", bias_std=0.1)
OTHER = networks.mlp(3, [6, 6], 2, "tanh", bias_std=0.1)


def drawn(net):
    """Parameters of a network, made without compiling anything."""
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), jnp.float32), shapes)


PARAMS = drawn(NET)
X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
Y = jnp.asarray(np.eye(2)[[0, 1, 0, 1]], jnp.float32)

NOT_NUMBERS = ("1", 1j, [1.0], np.ones(2), True)
POSITIVE = (None, *NOT_NUMBERS, 0.0, -1.0, np.nan, np.inf)
COUNTS = (None, *NOT_NUMBERS, 0, -1, 1.5, np.nan, np.inf)
PERIODS = (*COUNTS, 2**31, 10**30)
OPTIONS = {
    "network": (None, "mlp", PARAMS),
    "loss": (None, "l1", "", 3, "MSE", lambda f, y: 0.0),
    "structure": (None, "", "diagonal", 3, ["block-diagonal"]),
    "l2": (None, *NOT_NUMBERS, -1.0, np.nan, np.inf),
    "damping": POSITIVE,
    "min_damping": (None, *NOT_NUMBERS, -1.0, np.nan, np.inf, 151.0),
    "adapt_damping": (None, "no", 0, 1.0),
    "damping_period": PERIODS,
    "damping_rate": (None, *NOT_NUMBERS, 0.0, 1.0, -0.5, 2.0, np.nan),
    "factor_damping": POSITIVE[1:],
    "adapt_factor_damping": (None, "no", 0),
    "factor_damping_period": PERIODS,
    "inverse_period": PERIODS,
    "statistics_period": PERIODS,
    "statistics_fraction": (None, *NOT_NUMBERS, 0.0, -0.5, 1.5, np.nan),
    "curvature_fraction": (None, *NOT_NUMBERS, 0.0, -0.5, 1.5, np.nan),
    "num_draws": PERIODS,
    "decay": (None, *NOT_NUMBERS, 1.0, -0.1, np.nan),
    "averaging": (None, *NOT_NUMBERS, 1.0, -0.1, np.nan),
    "step_size": (*POSITIVE[1:], 0.1),  # alone it has no momentum
    "momentum": (*NOT_NUMBERS, 0.9, 1.0, -0.1, np.nan),
    "largest_change": (*POSITIVE[1:], 0.1),
    "reject_worse": (None, "no", 0),
    "seed": (None, *NOT_NUMBERS, 1.5, np.nan, 2**70),
}


def _first(array, value):
    """With ``value`` as its first number."""
    changed = np.array(array)
    changed.flat[0] = value
    return jnp.asarray(changed)


def _mapped(function, tree=PARAMS):
    return jax.tree.map(function, tree)


class Layer(dict):
    """Another pytree than a dict."""


#: No tree of parameters of `NET`.
TREES = {
    "a list": list(PARAMS),
    "layers that are no plain dicts": tuple(map(Layer, PARAMS)),
    "nothing": None,
    "a text": "params",
    "an array": jnp.ones(3),
    "an empty tuple": (),
    "a layer too few": PARAMS[:1],
    "a layer too many": (*PARAMS, PARAMS[0]),
    "the layers of another network": drawn(OTHER),
    "no biases": tuple({"weight": p["weight"]} for p in PARAMS),
    "names of its own": tuple({"w": p["weight"], "bias": p["bias"]} for p in PARAMS),
    "one name more": tuple({**p, "scale": jnp.ones(1)} for p in PARAMS),
    "transposed weights": tuple({**p, "weight": p["weight"].T} for p in PARAMS),
    "an axis more": _mapped(lambda p: p[None]),
    "a dictionary": dict(enumerate(PARAMS)),
    "lists": _mapped(lambda p: p.tolist()),
    "texts": tuple({"weight": "w", "bias": "b"} for _ in PARAMS),
    "None in it": tuple({**p, "bias": None} for p in PARAMS),
}
#: Besides, no parameters.
NUMBERS = {
    "whole numbers": _mapped(lambda p: jnp.asarray(np.ones(p.shape, np.int32))),
    "complex numbers": _mapped(lambda p: jnp.asarray(np.asarray(p) + 1j, jnp.complex64)),
    "a NaN": _mapped(lambda p: _first(p, np.nan)),
    "an infinity": _mapped(lambda p: _first(p, np.inf)),
}
#: Parameters that the optimiser takes. Files do not hold them in place of float32.
HALF = {
    "half precision": _mapped(lambda p: jnp.asarray(np.asarray(p, np.float16))),
    "bfloat16": _mapped(lambda p: jnp.asarray(np.asarray(p, jnp.bfloat16))),
}
#: No inputs of `NET`, and no targets of four samples.
INPUTS = {
    "nothing": None,
    "a text": "x",
    "a list": [[1.0, 2.0, 3.0]],
    "a number": 1.0,
    "one row": X[0],
    "a column too few": X[:, :2],
    "an axis too many": X[None],
    "complex": X + 1j,
    "texts": np.full((4, 3), "a"),
    "objects": np.full((4, 3), None),
    "no rows": X[:0],
    "more rows than targets": jnp.concatenate([X, X]),
    "a dictionary": {"x": X},
}
TARGETS = {
    "nothing": None,
    "a text": "y",
    "a list": [[1.0, 0.0]] * 4,
    "labels": jnp.array([0, 1, 0, 1]),
    "labels in a column": jnp.array([[0], [1], [0], [1]]),
    "a column too many": jnp.ones((4, 3)),
    "transposed": Y.T,
    "an axis too many": Y[None],
    "one row": Y[0],
    "one for all": Y[:1],
    "complex": Y + 1j,
    "texts": np.full((4, 2), "a"),
    "objects": np.full((4, 2), None),
}
#: No distribution.
SHARES = {
    "negative": _first(Y, -1.0),
    "more than 1 in all": Y + 0.5,
    "nothing in all": 0 * Y,
    "percent": 100 * Y,
    "centred": Y - 0.5,
}


def _updates() -> list[Bad]:
    optimizer = optim.kfac(NET, damping=1.0)
    cross = optim.kfac(NET, "cross-entropy", damping=1.0)
    single = optim.kfac(networks.mlp(3, [6], 1, "tanh", bias_std=0.1), damping=1.0)
    one = drawn(networks.mlp(3, [6], 1, "tanh", bias_std=0.1))
    state, grads = optimizer.init(PARAMS), PARAMS

    def update(optimizer=optimizer, **changes):
        good = {"grads": grads, "state": state, "params": PARAMS, "x": X, "y": Y}
        given = {**good, **changes}
        positional = [given.pop(name) for name in ("grads", "state", "params") if name in given]
        return optimizer.update(*positional, **given)

    tables = {
        "grads": {
            **{**TREES, "complex": NUMBERS["complex numbers"], "whole": NUMBERS["whole numbers"]},
            "truth values": _mapped(lambda p: p > 0),
        },
        "params": {**TREES, **{n: NUMBERS[n] for n in ("whole numbers", "complex numbers")}},
        "x": {**INPUTS, "beyond float32": np.full((4, 3), 1e39)},
        "y": {**TARGETS, "beyond float32": np.full((4, 2), -1e39)},
        "state": {
            "nothing": None,
            "parameters": PARAMS,
            "an empty tuple": (),
            "of another network": optim.kfac(OTHER).init(drawn(OTHER)),
            "a dictionary": state._asdict(),
            "moments of another network": state._replace(previous=PARAMS[:1]),
        },
    }
    bad = [
        Bad(OPTIMISER, f"update({name}: {label})", lambda n=name, v=value: update(**{n: v}))
        for name, table in tables.items()
        for label, value in table.items()
    ]
    bad += [
        Bad(OPTIMISER, f"cross-entropy: update(y: {label})", lambda v=v: update(cross, y=v))
        for label, v in SHARES.items()
    ]
    # (N,) against (N, 1) would broadcast to (N, N).
    label = "one output: update(y: labels)"
    call = lambda: single.update(one, single.init(one), one, x=X, y=Y[:, 0])  # noqa: E731
    bad.append(Bad(OPTIMISER, label, call))
    calls = {
        "without anything": lambda: optimizer.update(),
        "without a state": lambda: optimizer.update(grads),
        "without parameters": lambda: optimizer.update(grads, state, x=X, y=Y),
        "without x": lambda: optimizer.update(grads, state, PARAMS, y=Y),
        "without y": lambda: optimizer.update(grads, state, PARAMS, x=X),
        "with an unknown argument": lambda: update(batch=X, x=None),
        "with inputs by position": lambda: optimizer.update(grads, state, PARAMS, X, Y),
    }
    return bad + [Bad(OPTIMISER, f"update {label}", call) for label, call in calls.items()]


def _files(folder: Path) -> list[Bad]:
    good = folder / "state"
    optim.save_state(good, PARAMS)
    content = good.read_bytes()
    broken = {
        "empty": b"",
        "a text": b"state",
        "cut": content[: len(content) // 2],
        "no zip": content[40:],
        "flipped": content[:200] + bytes(b ^ 0xFF for b in content[200:210]) + content[210:],
        "lies": content.replace(b"'shape': (6, ", b"'shape': (9" + b"9" * 2 + b", ", 1),
        "code": content.replace(b"'descr': '<f4'", b"'descr': '|O8'", 1),
        "header": content.replace(b"False", b"exit)"),
    }
    bad = []
    for label, data in broken.items():
        path = folder / f"state-{label}"
        path.write_bytes(data)
        call = lambda path=path: optim.load_state(path, PARAMS)  # noqa: E731
        bad.append(Bad(OPTIMISER, f"load_state({label})", call))
    likes = {
        n: tree for n, tree in (TREES | NUMBERS | HALF).items() if n not in ("a NaN", "an infinity")
    }
    del likes["a dictionary"]  # its leaves have the names of a tuple's
    # So has a list.
    del likes["a list"], likes["layers that are no plain dicts"]
    likes |= {"an object": object(), "a number": 3.0}
    given = {"path": good, "like": PARAMS}
    bad += varied(OPTIMISER, "load_state", optim.load_state, given, {"like": likes})
    paths = (None, 3, "", "none", str(folder), "a\0b", "x" * 300, "state/below")
    bad += varied(OPTIMISER, "load_state", optim.load_state, given, {"path": paths})
    paths = (None, 3, "", str(folder), "a\0b", "x" * 300, "none/below", "state/below", "/proc/none")
    given = {"path": folder / "saved", "tree": PARAMS}
    bad += varied(OPTIMISER, "save_state", optim.save_state, given, {"path": paths})
    trees = ("params", object(), 3.0, jax.random.key(0), [np.array(["a"])], [np.array([None])])
    trees += (lambda: 0, HALF["bfloat16"])
    return bad + varied(OPTIMISER, "save_state", optim.save_state, given, {"tree": trees})


def inputs(folder: Path) -> list[Bad]:
    """Options, `init`, `update`, sizes of batches, averages and files."""
    bad = varied(OPTIMISER, "kfac", optim.kfac, {"network": NET}, OPTIONS)
    bad.append(Bad(OPTIMISER, "kfac(an unknown option)", lambda: optim.kfac(NET, dampings=1.0)))
    bad.append(Bad(OPTIMISER, "kfac(nothing)", lambda: optim.kfac()))
    bad.append(Bad(OPTIMISER, "kfac(options by position)", lambda: optim.kfac(NET, "mse", 1.0)))
    images = networks.cnn((4, 4, 1), [2], 1)
    joint = lambda: optim.kfac(images, structure="block-tridiagonal")  # noqa: E731
    bad.append(Bad(OPTIMISER, "kfac(convolutions, block-tridiagonal)", joint))
    optimizer = optim.kfac(NET)
    for label, params in (TREES | NUMBERS).items():
        call = lambda params=params: optimizer.init(params)  # noqa: E731
        bad.append(Bad(OPTIMISER, f"init({label})", call))
    sizes = {"first": 2, "last": 8, "num_steps": 4}
    wrong = {**{name: COUNTS for name in sizes}, "levels": COUNTS}
    wrong |= {"last": (*COUNTS, 1), "num_steps": (*COUNTS, 1), "levels": (*COUNTS, 1)}
    bad += varied(OPTIMISER, "batch_sizes", optim.batch_sizes, sizes, wrong)
    states = {"state": (None, (), PARAMS, "state")}
    average = {"params": PARAMS, "state": optimizer.init(PARAMS)}
    bad += varied(OPTIMISER, "averaged_params", optim.averaged_params, average, states)
    others = {"params": {n: t for n, t in TREES.items() if n not in ("transposed weights",)}}
    bad += varied(OPTIMISER, "averaged_params of others", optim.averaged_params, average, others)
    # In the type of the parameters, float32.
    names = ("damping", "l2", "factor_damping")
    for name, value in [(n, v) for n in names for v in (1e300, 1e39, 1e-60, 10**400)]:
        call = lambda n=name, v=value: optim.kfac(NET, **{n: v}).init(PARAMS)  # noqa: E731
        bad.append(Bad(OPTIMISER, f"init with {name} {short(value)}", call))
    return bad + _updates() + _files(folder)

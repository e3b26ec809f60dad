"""What the public functions of the sub-packages are given wrongly."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bad_inputs import PYTHON, Bad, varied
from optimiser_inputs import (
    INPUTS,
    NET,
    NUMBERS,
    OTHER,
    PARAMS,
    SHARES,
    TARGETS,
    TREES,
    X,
    Y,
    drawn,
)

import ngd_theory as ngd
from ngd_theory import data, dynamics, experiment, fisher, kernels, losses, networks, sweeps, theory

infinite = kernels.infinite
KEY = jax.random.key(0)
_linearize = jax.jit(networks.linearize, static_argnums=0)
LIN = _linearize(NET, PARAMS, X)
OTHER_LIN = _linearize(OTHER, drawn(OTHER), X)
#: Of a network with one output.
NARROW = networks.mlp(3, [6], 1, "tanh", bias_std=0.1)
NARROW_LIN = _linearize(NARROW, drawn(NARROW), X)
FUNCTION = jax.jit(lambda p, x: networks.linearize_function(NET.apply, p, x))(PARAMS, X)
K = np.eye(8, dtype=np.float32)

NOT_NUMBERS = (None, "1", 1j, [1.0], {"a": 1.0})
NOT_FINITE = (np.nan, np.inf, -np.inf)
COUNTS = (*NOT_NUMBERS, True, 0, -1, 2.5, *NOT_FINITE)
POSITIVE = (*NOT_NUMBERS, True, 0.0, -1.0, *NOT_FINITE)
NOT_NEGATIVE = (*NOT_NUMBERS, True, -1.0, *NOT_FINITE)
#: Neither names nor objects.
NO_OBJECTS = (None, "mlp", 3, object())
DAMPINGS = (*NOT_NEGATIVE, np.float32(-1), jnp.asarray(-1.0), jnp.asarray(np.nan), jnp.ones(2))
DAMPINGS += (np.array(1j), np.array("a"), np.array(None), 1e39, 1e300, 10**400)
STEP_SIZES = (*POSITIVE, jnp.asarray(0.0), jnp.asarray(np.nan), jnp.full(2, 0.1))
STEP_SIZES += (1e39, 1e-60, 10**400)
COUNTS_OF_STEPS = (*NOT_NUMBERS, True, -1, 2.5, *NOT_FINITE, 10**12, 2**31, 10**400)
NAMES = (None, "", 3, "nothing", ["relu"])
#: Neither maps of a network with 8 numbers nor anything else of its own.
WRONG_MAPS: dict[str, Any] = {
    "nothing": None,
    "a number": 1.0,
    "a list": [[1.0]],
    "a vector": K[0],
    "a rectangle": K[:, :7],
    "too small": K[:7, :7],
    "a NaN": np.where(K == 1, np.nan, K),
    "complex": K + 0j,
    "texts": K.astype(str),
}
MAPS = {
    **{name: WRONG_MAPS[name] for name in WRONG_MAPS if name != "too small"},
    "a text": "K",
    "a cube": np.ones((2, 2, 2)),
    "no rows": np.zeros((0, 0)),
    "beyond float32": 1e39 * np.eye(3),
    "an infinity": np.where(K == 1, np.inf, K),
    "truth values": K > 0,
    "objects": K.astype(object),
    "nothing but zeros": 0 * K,
    "a negative trace": -np.diag(np.arange(1, 7.0, dtype=np.float32)),
    "a trace of zero": np.diag(np.array([1, -1], np.float32)),
}
#: Inputs that a network takes, with numbers that nothing is computed from.
NOT_FINITE_INPUTS = {
    "a NaN": X.at[1, 2].set(jnp.nan),
    "an infinity": X.at[1, 2].set(jnp.inf),
    "beyond float32": np.full((4, 3), 1e39),
    "whole numbers": jnp.ones((4, 3), int),
    "truth values": jnp.ones((4, 3), bool),
}
ROWS = {n: v for n, v in INPUTS.items() if n != "more rows than targets"}
COTANGENTS = {
    **{n: v for n, v in TARGETS.items() if not n.startswith("labels")},
    "a NaN": Y.at[0, 0].set(jnp.nan),
    "an infinity": Y.at[3, 1].set(-jnp.inf),
    "beyond float32": np.full((4, 2), 1e39),
}
#: Targets of the squared error.
WRONG_TARGETS = {
    **TARGETS,
    "a NaN": Y.at[0, 0].set(jnp.nan),
    "an infinity": Y.at[3, 1].set(-jnp.inf),
    "beyond float32": np.full((4, 2), -1e39),
}


def _networks() -> list[Bad]:
    widths = (
        [0],
        [-2],
        [2.5],
        [np.nan],
        "66",
        6,
        None,
        [[6]],
        {"a": 6},
        [None],
        ["6"],
        [True],
        [1j],
    )
    dense = {"input_dim": 3, "hidden_widths": [6], "output_dim": 2}
    images = {"input_shape": (4, 4, 1), "channels": [2], "output_dim": 1}
    pairs = (None, "3", 0, -1, 2.5, (3, 3), (3, 3, 3), (0,), (np.nan,), np.inf, np.array([3, 3]))
    scales = {"weight_std": POSITIVE, "bias_std": NOT_NEGATIVE}
    activations = (*NAMES, "ReLU", object())
    shapes = (
        None,
        "441",
        4,
        (4, 4),
        (0, 4, 1),
        (4, -4, 1),
        (4.5, 4, 1),
        (np.nan, 4, 1),
        (4, 4, 1, 1),
    )
    trees = TREES | {n: NUMBERS[n] for n in ("whole numbers", "complex numbers")}
    spoilt = {n: NUMBERS[n] for n in ("a NaN", "an infinity")}
    run = {"params": PARAMS, "x": X}
    linearize = {"network": NET, **run}

    def odd(answer):
        return lambda params, x: answer(NET.apply(params, x))

    functions = {
        "nothing": None,
        "a text": "apply",
        "a network": NET,
        "one number a sample": odd(lambda f: f[:, 0]),
        "one number": odd(jnp.sum),
        "a pair": odd(lambda f: (f, f)),
        "nothing in return": odd(lambda f: None),
        "whole numbers": odd(lambda f: f.astype(int)),
        "complex numbers": odd(lambda f: f + 1j),
        "too many rows": odd(lambda f: jnp.concatenate([f, f])),
        "an axis more": odd(lambda f: f[:, None]),
        "NaN": odd(lambda f: f * jnp.nan),
    }
    groups = (3, "layer", ["nothing"], [0], {"a": 1}, [None])
    function = {"apply": NET.apply, **run}
    tables: list[tuple[str, Any, dict, dict]] = [
        ("mlp", networks.mlp, dense, {"input_dim": COUNTS, "output_dim": COUNTS}),
        ("mlp", networks.mlp, dense, {"hidden_widths": widths, "activation": activations, **scales}),
        ("cnn", networks.cnn, images, {"input_shape": shapes, "channels": widths}),
        ("cnn", networks.cnn, images, {"kernel_size": pairs, "stride": pairs, "pool": pairs}),
        ("cnn", networks.cnn, images, {"padding": NAMES, "readout": NAMES, "output_dim": COUNTS}),
        ("cnn", networks.cnn, {**images, "padding": "valid"}, {"kernel_size": (5, (5, 1), 10**9)}),
        ("autoencoder", networks.autoencoder, {"input_dim": 3, "encoder_widths": [2]}, {
            "input_dim": COUNTS, "encoder_widths": widths, "activation": activations,
            "code_activation": activations,
        }),
        ("init", NET.init, {"key": KEY}, {
            "key": (None, 0, "key", 1.5, jnp.ones(3), jax.random.split(KEY, 2), jnp.zeros(3, jnp.uint32)),
            "dtype": ("float99", int, complex, "x", object(), bool, 3),
        }),
        ("scaled_init", networks.scaled_init, {"network": NET, "key": KEY}, {
            "network": NO_OBJECTS, "gain": POSITIVE, "key": (None, 0), "dtype": ("x", int),
        }),
        ("sparse_init", networks.sparse_init, {"network": NET, "key": KEY, "num_connections": 2}, {
            "network": NO_OBJECTS, "num_connections": COUNTS, "scale": (*NOT_NUMBERS, *NOT_FINITE, 1e39, 1e-60),
            "bias": (*NOT_NUMBERS, *NOT_FINITE, 1e39), "key": (None, 0),
        }),
        ("apply", NET.apply, run, {"params": trees, "x": ROWS}),
        ("linearize", networks.linearize, linearize, {"params": trees | spoilt}),
        ("linearize", networks.linearize, linearize, {"x": ROWS | NOT_FINITE_INPUTS}),
        ("linearize", networks.linearize, linearize, {"network": NO_OBJECTS}),
        ("linearize_function", networks.linearize_function, function, {"apply": functions}),
        ("linearize_function", networks.linearize_function, function, {
            "params": {
                **{"nothing": None, "empty": {}, "a text": "p"},
                **NUMBERS,
            },
            "groups": groups,
            "x": {n: ROWS[n] for n in ("nothing", "a text", "a list", "a dictionary", "no rows")}
            | NOT_FINITE_INPUTS,
        }),
        ("standard_parameterization", networks.standard_parameterization, {"network": NET}, {
            "network": NO_OBJECTS,
        }),
        ("device_mesh", networks.device_mesh, {}, {
            "width": (*COUNTS, 1000), "devices": (3, "cpu", [], [None], ["cpu"]),
        }),
    ]  # fmt: skip
    return _varied(tables)


def _varied(tables) -> list[Bad]:
    return [bad for table in tables for bad in varied(PYTHON, *table)]


def _kernels() -> list[Bad]:
    images = networks.cnn((3, 1, 1), [2], 1)
    lins = {"lin": (*NO_OBJECTS, X, NET)}
    others = {
        "other": {"a number": 3, "rows": X, "of another network": OTHER_LIN, "narrow": NARROW_LIN}
    }
    rows = {n: v for n, v in (ROWS | NOT_FINITE_INPUTS).items()}
    limits = {"memory_budget": (None, "2G", 0, -1, np.nan, 1.5)}
    kernel = {"net": NET, "x1": X}
    wide = {"net": {"nothing": None, "a text": "mlp", "parameters": PARAMS}, "x1": rows}
    wide |= {"x2": {n: v for n, v in rows.items() if n not in ("nothing", "no rows")}}
    predictor = {
        "approximation": fisher.Exact(),
        "net": NET,
        "x": X,
        "x_test": X + 1,
        "damping": 1e-3,
    }
    maps = dynamics.predictor(**predictor)
    ensemble = {"maps": maps, "net": NET, "x": X, "x_test": X + 1, "targets": Y}
    ensemble |= {"step_size": 0.1, "steps": [0, 2]}
    risk = {n: v for n, v in ensemble.items() if n != "steps"}
    risk |= {"test_targets": Y, "noise": 0.1, "times": [0, 2]}
    few = {
        n: rows[n]
        for n in ("nothing", "a list", "a column too few", "complex", "a NaN", "an infinity")
    }
    stax = {
        "a text": "p",
        "nothing": None,
        "an empty list": [],
        "an array": jnp.ones(3),
        "of ours": PARAMS[:1],
    }
    return _varied([
        ("ntk", kernels.ntk, {"lin": LIN}, {**lins, **others}),
        ("layerwise_ntk", kernels.layerwise_ntk, {"lin": LIN}, {**lins, **others}),
        ("layer_kernel", kernels.layer_kernel, {"layer": LIN.layers[0]}, {
            "layer": (*NO_OBJECTS, LIN), "other": (3, LIN.layers[1]), **limits,
        }),
        ("infinite.ntk", infinite.ntk, kernel, {**wide, **limits, "source": NAMES}),
        ("infinite.nngp", infinite.nngp, kernel, {"x1": few, "source": NAMES}),
        ("infinite.layerwise_ntk", infinite.layerwise_ntk, kernel, {"x1": few, "source": NAMES}),
        ("infinite.layer_kernels", infinite.layer_kernels, kernel, {"x1": few, "x2": {"narrow": X[:, :2]}}),
        ("infinite.layerwise_distance", infinite.layerwise_distance, {"net": NET, "lin": LIN, "x": X}, {
            "net": {"nothing": None, "another": OTHER}, "lin": NO_OBJECTS,
            "x": few | {"fewer rows": X[:2]},
        }),
        ("infinite.linearize", infinite.linearize, {"net": NET, "x": X}, {
            "x": few, "output_dim": COUNTS[1:], "x_test": {"narrow": X[:, :2], "a NaN": few["a NaN"]},
            "net": {"nothing": None},
        }),
        ("dynamics.predictor", dynamics.predictor, predictor, {
            "approximation": (*NO_OBJECTS, fisher.EntryWise()), "net": (None, "mlp", images),
            "x": few, "x_test": few, "damping": DAMPINGS,
        }),
        ("dynamics.predictor of unit-wise", dynamics.predictor,
         {**predictor, "approximation": fisher.UnitWise(), "key": KEY, "num_units": 5},
         {"key": (None, 0, "k"), "num_units": COUNTS, "damping": (*NOT_NEGATIVE, 1e39, 10**400)}),
        ("dynamics.ensemble", dynamics.ensemble, ensemble, {
            "maps": NO_OBJECTS, "net": (None, "mlp"), "x": few | {"fewer rows": X[:2]},
            "x_test": few | {"fewer rows": X[:2]},
            "targets": {n: v for n, v in WRONG_TARGETS.items()
                        if n not in ("labels in a column", "a column too many")},
            "step_size": (*POSITIVE, 1e39, 1e-60),
            "steps": (None, 3, "12", [-1], [1.5], [None], [np.nan], ["1"], [2**31], [10**400]),
        }),
        ("dynamics.ensemble_risk", dynamics.ensemble_risk, risk, {
            "maps": NO_OBJECTS, "net": (None, "mlp"), "x": few | {"fewer rows": X[:2]},
            "targets": {n: v for n, v in WRONG_TARGETS.items() if n != "labels in a column"},
            "test_targets": {n: v for n, v in WRONG_TARGETS.items() if n != "labels in a column"},
            "noise": (*NOT_NEGATIVE, 1e39), "step_size": (*POSITIVE, 1e39, 1e-60), "times": TIMES,
        }),
        ("params_to_stax", infinite.params_to_stax, {"net": NET, "params": PARAMS}, {
            "net": (None, "mlp"), "params": {n: v for n, v in TREES.items()},
        }),
        ("params_from_stax", infinite.params_from_stax,
         {"net": NET, "stax_params": infinite.params_to_stax(NET, PARAMS)}, {"stax_params": stax}),
    ])  # fmt: skip


#: Numbers that are no two samples of a pool.
SAMPLES = (None, 3, "12", [], [-1], [1.5], [None], [np.nan], ["1"], [10**6], [10**400], [0, 0])


def _approximations() -> list[Bad]:
    kinds = (None, "true", 3, fisher.TrueFisher)
    solvers = (None, "lu", "", 3, "Cholesky")
    pooled = {"approximation": fisher.Exact(), "pool": LIN, "labelled": [1, 0], "damping": 0.1}
    tables: list[tuple[str, Any, dict, dict]] = [
        ("by_name", fisher.by_name, {"name": "exact"}, {
            "name": NAMES, "kind": kinds, "solver": solvers, "rank": (3,), "damping": (1.0,),
            "memory_limit": ("2G", None, np.nan, -1, 1.5),
        }),
        ("KFAC", fisher.KFAC, {}, {
            "kind": kinds, "output_factor": NAMES, "damping_split": NAMES, "sharing": NAMES,
        }),
        ("KFACTridiagonal", fisher.KFACTridiagonal, {}, {"kind": kinds, "damping_split": NAMES}),
        ("BlockTridiagonal", fisher.BlockTridiagonal, {}, {"kind": kinds}),
        ("EntryWise", fisher.EntryWise, {}, {"kind": kinds}),
        ("QuasiDiagonal", fisher.QuasiDiagonal, {}, {"kind": kinds}),
        ("ConjugateGradients", fisher.ConjugateGradients, {}, {
            "tolerance": (0.0, -1.0, "x", 1j, *NOT_FINITE), "max_iterations": COUNTS,
            "rank": (*NOT_NUMBERS, -1, 2.5, np.nan),
        }),
        ("TrueFisher", fisher.TrueFisher, {}, {"loss": (None, "l1", 3, "")}),
        ("SampledFisher", fisher.SampledFisher, {"key": KEY}, {
            "key": (None, 0, "key", jnp.ones(2)), "loss": (None, "l1"), "num_samples": COUNTS,
        }),
        ("EmpiricalFisher", fisher.EmpiricalFisher, {"targets": Y}, {
            "targets": (None, "y", 3.0, [[1.0]], Y + 1j, Y * jnp.nan), "loss": (None, "l1"),
        }),
        ("EmpiricalFisher of shares", fisher.EmpiricalFisher, {"targets": Y, "loss": "cross-entropy"}, {
            "targets": SHARES,
        }),
        ("as_damping", fisher.as_damping, {"damping": 0.1}, {"damping": DAMPINGS}),
        ("kronecker_fisher", fisher.kronecker_fisher, {"layers": LIN.layers}, {
            "layers": (None, "layers", [], LIN, [None], [X]), "bandwidth": (-1, 1.5, "1", np.nan),
        }),
        ("tridiagonal_coupling", fisher.tridiagonal_coupling, {"depth": 3}, {"depth": COUNTS}),
        ("population_maps", fisher.population_maps, pooled, {
            "approximation": NO_OBJECTS, "pool": NO_OBJECTS, "labelled": SAMPLES, "damping": DAMPINGS,
            "at": {"a number": 3, "rows": X, "of another network": OTHER_LIN},
        }),
        ("population_gradient", fisher.population_gradient, {**pooled, "cotangent": Y[:2]}, {
            "cotangent": {n: v for n, v in COTANGENTS.items()}, "labelled": SAMPLES,
        }),
    ]  # fmt: skip
    factors = fisher.kronecker_fisher(LIN.layers, 1)
    pairs = [(0.1, 0.1), (0.1, 0.1)]
    dampings = (None, "1", 0.1, [], pairs[:1], [*pairs, *pairs], [0.1, 0.1], [(0.1,), (0.1,)])
    dampings += ([("1", 0.1), pairs[0]], [(1e39, 0.1), pairs[0]], [(10**400, 0.1), pairs[0]])
    for name, function in (
        ("invert_diagonal", fisher.invert_diagonal),
        ("invert_tridiagonal", fisher.invert_tridiagonal),
    ):
        good = {"fisher": factors, "damping": pairs}
        tables.append((name, function, good, {"fisher": NO_OBJECTS, "damping": dampings}))
    made = [
        *(fisher.Identity(), fisher.Exact(), fisher.BlockDiagonal(), fisher.BlockTridiagonal()),
        *(fisher.KFAC(), fisher.KFACTridiagonal(), fisher.UnitWise(), fisher.EntryWise()),
    ]
    elsewhere = {"a number": 3, "rows": X, "of another network": OTHER_LIN, "narrow": NARROW_LIN}
    few = {n: COTANGENTS[n] for n in ("nothing", "labels", "a NaN", "complex") if n in COTANGENTS}
    for one in made:
        first = one.name == "exact"
        step = {"lin": LIN, "cotangent": Y, "damping": 0.1}
        wrong = {
            "lin": NO_OBJECTS if first else (None,),
            "cotangent": COTANGENTS if first else few,
            "damping": DAMPINGS if first else (None, -1.0, np.nan, "1"),
        }
        tables.append((f"{one.name}.natural_gradient", one.natural_gradient, step, wrong))
        wrong = {n: wrong[n] for n in ("lin", "damping")} | {"at": elsewhere}
        given = {"lin": LIN, "damping": 0.1}
        tables.append((f"{one.name}.function_space_map", one.function_space_map, given, wrong))
    misfits = {
        "empirical: other targets": (fisher.Exact(fisher.EmpiricalFisher(Y[:, :1])), LIN),
        "empirical: fewer targets": (fisher.Exact(fisher.EmpiricalFisher(Y[:2])), LIN),
        "unit-wise of a function": (fisher.UnitWise(), FUNCTION),
        "K-FAC of a function": (fisher.KFAC(), FUNCTION),
        "tridiagonal K-FAC of a function": (fisher.KFACTridiagonal(), FUNCTION),
    }  # fmt: skip
    calls = {
        f"{label} ({method})": lambda a=a, lin=lin, method=method: (
            a.natural_gradient(lin, Y, 0.1)
            if method == "gradient"
            else a.function_space_map(lin, 0.1)
        )
        for label, (a, lin) in misfits.items()
        for method in ("gradient", "map")
    }
    return _varied(tables) + [Bad(PYTHON, label, call) for label, call in calls.items()]


def _theory() -> list[Bad]:
    sized = {"approximation": fisher.Exact(), "net": NET, "num_samples": 4}
    wrong = {"approximation": NO_OBJECTS, "net": (*NO_OBJECTS, LIN), "num_samples": COUNTS}
    conditions = {"approximation": fisher.Exact(), "net": NET, "lin": LIN, "damping": 0.1}
    itemsize = {"itemsize": COUNTS}
    bad = _varied([
        ("isotropy", theory.isotropy, {"map": K}, {"map": MAPS}),
        ("largest_monotone_step_size", theory.largest_monotone_step_size, {"map": K}, {"map": MAPS}),
        ("isotropy_constant", theory.isotropy_constant, sized, wrong),
        ("optimal_step_size", theory.optimal_step_size, sized, wrong),
        ("stable_step_sizes", theory.stable_step_sizes, sized, wrong),
        ("step_memory", theory.step_memory, sized, {**wrong, **itemsize}),
        ("check_conditions", theory.check_conditions, conditions, {
            "approximation": NO_OBJECTS,
            "net": {"a text": "mlp", "a linearisation": LIN, "deeper": OTHER, "narrower": NARROW},
            "lin": (*NO_OBJECTS, X), "damping": DAMPINGS,
        }),
        ("unit_wise_dispersion", theory.unit_wise_dispersion, {"net": NET}, {"net": (*NO_OBJECTS, LIN)}),
    ])  # fmt: skip
    for name in ("entry-wise", "identity"):
        for function in (theory.optimal_step_size, theory.stable_step_sizes):
            call = lambda f=function, n=name: f(fisher.by_name(n), NET, 4)  # noqa: E731
            bad.append(Bad(PYTHON, f"{function.__name__} of {name}", call))
    return bad


#: Times of a risk, of which infinity is one.
TIMES = (*(None, 3, "12", [], [-1], [1.5], [None], [np.nan], [-np.inf], ["1"], [2**31], [10**400]),)


def _dynamics() -> list[Bad]:
    steps = {"step_size": STEP_SIZES, "num_steps": COUNTS_OF_STEPS, "damping": DAMPINGS}
    predict = {"approximation": fisher.Exact(), "lin": LIN, "targets": Y}
    predict |= {"step_size": 0.1, "num_steps": 1, "damping": 0.1}
    train = {"network": NET, "params": PARAMS, "x": X, "y": Y, "approximation": fisher.Exact()}
    train |= {"step_size": 0.1, "num_steps": 1, "damping": 0.1}
    maps = {"k": jnp.asarray(K), "outputs": Y, "targets": Y - 1, "step_size": 0.1, "num_steps": 2}
    test = {**maps, "q": jnp.asarray(K[:4]), "test_outputs": Y[:2]}
    noisy = {"noise": (*NOT_NEGATIVE, 1e39), "times": TIMES}
    risk = {n: predict[n] for n in ("approximation", "lin", "targets", "step_size", "damping")}
    risk |= {"noise": 0.1, "times": [1]}
    risky = {n: v for n, v in test.items() if n != "num_steps"}
    prior = {n: risky[n] for n in ("k", "q", "step_size")}
    prior |= {"noise": 0.1, "times": [1], "prior": jnp.eye(len(K) + 4)}
    risky |= {"noise": 0.1, "times": [1], "test_targets": Y[:2]}
    limit = {
        "approximation": fisher.Exact(),
        "network": NET,
        "x": X,
        "outputs": Y,
        "targets": Y - 1,
    }
    limit |= {"step_size": 0.1, "num_steps": 1, "damping": 0.1}
    loss = {"loss": (None, "l1", "", 3, losses)}
    scheme = {
        "batches": {
            **{"a number": 3, "a text": "1", "a list": [[0, 1]], "floating": jnp.ones((1, 2))},
            **{"beyond": jnp.array([[0, 99]]), "negative": jnp.array([[-1, 0]])},
            **{"a vector": jnp.arange(1), "no sample": jnp.zeros((1, 0), int)},
            "more steps": jnp.zeros((3, 2), int),
        },
        "momentum": (None, -0.1, 1.5, np.nan, np.inf, "1", [0.5], 1j, 10**400, fisher),
    }
    trees = TREES | NUMBERS
    spoilt = ROWS | {n: NOT_FINITE_INPUTS[n] for n in ("a NaN", "an infinity")}
    few = {n: spoilt[n] for n in ("a list", "a column too few", "complex", "a NaN", "an infinity")}
    outputs = {n: v for n, v in WRONG_TARGETS.items() if n not in ("one for all",)}
    tests = {"a vector": Y[0], "a NaN": Y[:2] * jnp.nan, "more rows": Y, "a list": [[1.0, 2.0]]}
    return _varied([
        ("predict", dynamics.predict, predict, {
            "approximation": NO_OBJECTS, "lin": (*NO_OBJECTS, X), "targets": WRONG_TARGETS, **steps, **loss,
            "at": {"rows": X, "of another network": OTHER_LIN, "narrow": NARROW_LIN, "a number": 3}, **scheme,
        }),
        ("draw_batches", dynamics.draw_batches,
         {"key": jax.random.key(0), "num_samples": 4, "size": 2, "num_steps": 3},
         {"key": (None, 3), "num_samples": (None, -1, 1.5), "size": (0, 5, -1, 1.5, None), "num_steps": (-1, 1.5, None),
          "order": (None, "", "random", 3)}),
        ("spring", dynamics.spring, {"decay": 0.5, "constant": 2.0}, {
            "decay": scheme["momentum"], "constant": (None, 0.0, -1.0, np.nan, np.inf, "1", 1j),
        }),
        ("predict under cross-entropy", dynamics.predict,
         {**predict, "loss": "cross-entropy", "approximation": fisher.Exact(fisher.TrueFisher("cross-entropy"))},
         {"targets": SHARES, "step_size": (0.0, np.nan), "num_steps": (-1, 1.5)}),
        ("train", dynamics.train, train, {
            "network": NO_OBJECTS, "params": trees, "x": spoilt | {"more rows": jnp.concatenate([X, X])},
            "y": WRONG_TARGETS, "approximation": NO_OBJECTS, **steps, "x_test": few, **loss,
            "on_step": ("print", 3), **scheme,
        }),
        ("train under cross-entropy", dynamics.train, {**train, "loss": "cross-entropy"}, {"y": SHARES}),
        ("predict_from_maps", dynamics.predict_from_maps, maps, {
            "k": WRONG_MAPS, "outputs": outputs, "targets": WRONG_TARGETS,
            "step_size": STEP_SIZES, "num_steps": COUNTS_OF_STEPS,
            "q": {"alone": jnp.asarray(K[:4])}, "test_outputs": {"alone": Y[:2]},
        }),
        ("predict_from_maps with tests", dynamics.predict_from_maps, test, {
            "q": {n: v for n, v in WRONG_MAPS.items()}, "test_outputs": tests,
        }),
        ("risk", dynamics.risk, risk, {
            "approximation": NO_OBJECTS, "lin": (*NO_OBJECTS, X), "targets": WRONG_TARGETS, "damping": DAMPINGS,
            "step_size": STEP_SIZES, **noisy,
            "at": {"alone": LIN, "rows": X, "a number": 3}, "test_targets": {"alone": Y},
        }),
        ("risk_from_maps", dynamics.risk_from_maps, risky, {
            "k": WRONG_MAPS, "outputs": outputs, "targets": WRONG_TARGETS, "step_size": STEP_SIZES, **noisy,
            "q": {n: v for n, v in WRONG_MAPS.items()}, "test_outputs": tests, "test_targets": tests,
        }),
        ("prior_risk", dynamics.prior_risk, prior, {
            "k": WRONG_MAPS, "q": WRONG_MAPS, "prior": WRONG_MAPS, "step_size": STEP_SIZES, **noisy,
        }),
        ("predict_limit", dynamics.predict_limit, limit, {
            "approximation": (*NO_OBJECTS, fisher.EntryWise()), "network": NO_OBJECTS,
            "x": few, "x_test": few, "outputs": {n: outputs[n] for n in ("nothing", "labels", "a NaN")},
            "targets": {n: WRONG_TARGETS[n] for n in ("nothing", "labels", "a NaN", "transposed")},
            "step_size": (None, 0.0, np.nan, "1", 1e39), "num_steps": (None, -1, 1.5, 10**12),
            "damping": (None, -1.0, np.nan, "1", 1e39),
        }),
    ])  # fmt: skip


def _losses() -> list[Bad]:
    bad = varied(
        PYTHON,
        "losses.by_name",
        losses.by_name,
        {"name": "mse"},
        {"name": (None, "", "l1", 3, ["mse"])},
    )
    shapes = {n: v for n, v in TARGETS.items() if n not in ("objects",)}
    entries = {"negative": Y - 2, "above 1": Y + 1}
    for loss, domain in (
        (losses.MSE, {}),
        (losses.CROSS_ENTROPY, SHARES),
        (losses.SIGMOID_CROSS_ENTROPY, entries),
    ):
        for method in ("value", "residual"):
            function = getattr(loss, method)
            call = lambda outputs, targets, function=function: function(outputs, targets)  # noqa: E731
            name, good = f"{loss.name}.{method}", {"outputs": Y, "targets": Y}
            wrong = {n: v for n, v in shapes.items()}
            bad += varied(PYTHON, name, call, good, {"targets": {**wrong, **domain}})
            bad += varied(
                PYTHON, name, call, good, {"outputs": {n: wrong[n] for n in ("nothing", "one row")}}
            )
    return bad


def _data(folder: Path) -> list[Bad]:
    x, y = np.random.default_rng(0).normal(size=(2, 9, 3))
    zero = np.vstack([x[:2], 0 * x[:1]])
    matrices: dict[str, Any] = {
        "nothing": None, "a text": "x", "a vector": x[0], "a cube": x[None], "ragged": [[1.0], [1.0, 2.0]],
        "a NaN": np.where(x > 1, np.nan, x), "an infinity": np.where(x > 1, np.inf, x),
        "texts": x.astype(str), "complex": x + 1j, "objects": x.astype(object), "no columns": x[:, :0],
        "dates": x.astype("datetime64[s]"),
    }  # fmt: skip
    pair = {"train": x, "test": y}
    gaussian = {
        "source": "gaussian",
        "num_train": 4,
        "num_test": 2,
        "input_dim": 3,
        "output_dim": 1,
    }
    digits = {"source": "digits", "num_train": 6}
    flags: Sequence = (None, "no", 1.0, 2, [])
    paths = (
        None,
        3,
        "",
        "nothing",
        "MNIST",
        "openml:",
        "none.npz",
        ".",
        1j,
        ["mnist"],
        "a\0b",
        b"mnist",
    )
    tests = (*NOT_NUMBERS, True, -1, 2.5, *NOT_FINITE)
    return _varied([
        ("data.load", data.load, gaussian, {
            "source": paths, "num_train": (*COUNTS, np.float64(3)), "num_test": tests, "seed": tests,
            "targets": NAMES, "standardise": flags, "unit_norm": flags, "forster": flags,
            "input_dim": COUNTS, "output_dim": COUNTS[1:],
            "classes": ([0, 1],), "data_dir": (3, 1j, ["x"]),
        }),
        ("data.load(digits)", data.load, digits, {
            "num_train": (10**8, 1798), "num_test": (1797,), "output_dim": (2, 11), "input_dim": (65, 7),
            "classes": ("01", 3, [], [0], [0, 0], [0, 10], ["a", "b"], [None, 1], [0.5, 1], {0, 1}, [[0], [1]]),
            "forster": (True,),
        }),
        ("principal_components", data.principal_components, {**pair, "num_components": 2}, {
            "train": matrices, "test": {**matrices, "narrow": y[:, :2]}, "num_components": (*COUNTS, 4),
        }),
        ("standardise", data.standardise, pair, {
            "train": {**matrices, "no rows": x[:0]}, "test": {**matrices, "narrow": y[:, :2]},
            "reference": {n: v for n, v in matrices.items() if n != "nothing"} | {"no rows": x[:0]},
        }),
        ("unit_rows", data.unit_rows, {"x": x}, {
            "x": {**matrices, "a row of zeros": zero}, "scale": (*POSITIVE[1:],),
        }),
        ("forster", data.forster, {"x": x}, {
            "x": {**matrices, "fewer rows than columns": x[:2], "a rank too few": np.ones((9, 3)),
                  "a row of zeros": np.vstack([x, 0 * x[:1]])},
            "scale": (*POSITIVE[1:],), "tolerance": POSITIVE, "max_iterations": COUNTS,
        }),
        ("curves", data.curves, {"num_images": 1}, {"num_images": COUNTS, "seed": tests, "size": COUNTS}),
        ("autoencoder_images", data.autoencoder_images, {"name": "curves", "num_images": 2}, {
            "name": (*NAMES, "digits"), "num_images": COUNTS[1:], "seed": tests, "data_dir": (3, ["x"]),
        }),
    ])  # fmt: skip


def _studies(folder: Path) -> list[Bad]:
    from toml_inputs import GOOD, values

    good = values(GOOD)
    study = sweeps.Study(**good)
    (folder / "plain").write_text("x")
    names = {name: COUNTS for name in ("num_train", "width", "steps")}
    names |= {
        "damping": NOT_NEGATIVE[:-2],
        "seed": (*NOT_NUMBERS, -1, 1.5, 2**32),
        "forster": (None, "x", 3),
    }
    rules = (None, 3, "", "<=", "<= x", "in [2, 1]", "in [1]", "<= nan", ">= inf x", "== 1")
    points = {"x": [1.0, 2.0, 4.0] * 2, "y": [1.0, 0.5, 0.25] * 2, "seed": [0] * 3 + [1] * 3}
    parse = lambda **values: experiment.parse({"dataset": "gaussian", **values})  # noqa: E731
    for name in names:
        names[name] = [v for v in names[name] if not (v is True or v == "1")]
    return _varied([
        ("experiment.parse", parse, {}, {**names, "loss": NAMES, "activation": NAMES, "widht": (3,)}),
        ("sweeps.Study", sweeps.Study, good, {
            "title": (None, "", 3), "approximations": (None, [], "exact", ["exakt"]), "measure": (None, []),
            "grid": (None, 3, {"width": []}, {"width": [0]}), "steps": (0, "two", 2.5), "widht": (3,),
        }),
        ("Rule.parse", sweeps.Rule.parse, {"text": "<= 1"}, {"text": rules}),
        ("sweeps.power_law", sweeps.power_law, points, {
            "x": (None, [1.0], [0.0] * 6, [-1.0] * 6, [np.nan] * 6, [2.0] * 6, "x"),
            "y": (None, [1.0], ["a"] * 6, [points["y"]]), "seed": (None, [0], 3),
        }),
        ("sweeps.contraction_rate", sweeps.contraction_rate, {"residuals": [1.0, 0.5, 0.25]}, {
            "residuals": (None, [], [1.0], "abc", [0.0, 0.0], [np.nan, 1.0], [1.0, np.inf], [1.0, -1.0]),
        }),
        ("sweeps.load", _missing(sweeps.load), {}, {"results": (None, 3, "", "nothing", ".", "a\0b")}),
        ("sweeps.read", _missing(sweeps.read), {}, {"path": (None, 3, "", "nothing", ".")}),
        ("sweeps.list_studies", _missing(sweeps.list_studies), {}, {"folder": (None, 3, "nothing", "a\0b")}),
        ("sweeps.run", _missing(sweeps.run), {}, {
            "study": (None, 3, "", "nothing"),
        }),
        ("sweeps.run", _missing(sweeps.run, study=study), {}, {
            "out": (None, 3, "", "plain/below", "a\0b"), "scheduler": ("", "slurm", 3, "local:0"),
        }),
        ("experiment.verify", _missing(experiment.verify), {}, {"settings": (None, {}, "mnist", 3)}),
    ])  # fmt: skip


def _missing(function, **fixed):
    """The function, doing nothing without arguments: nothing good is cheap."""
    if function is sweeps.run:
        fixed |= {"out": "results"}
    return lambda **given: function(**{**fixed, **given}) if given else None


def _pythons_own() -> list[Bad]:
    functions = [
        *(networks.mlp, networks.cnn, networks.linearize, NET.init, NET.apply, kernels.ntk),
        *(
            fisher.by_name,
            fisher.Exact().natural_gradient,
            theory.isotropy,
            theory.check_conditions,
        ),
        *(dynamics.predict, dynamics.train, data.load, data.unit_rows, infinite.ntk),
        *(losses.by_name, sweeps.read, experiment.parse),
    ]
    named = {f"{f.__module__}.{f.__qualname__}": f for f in functions}
    bad = [Bad(PYTHON, f"{name}()", lambda f=f: f()) for name, f in named.items()]
    bad += [Bad(PYTHON, f"{n}(unknown=1)", lambda f=f: f(unknown=1)) for n, f in named.items()]
    positional = {"data.load by position": lambda: data.load("gaussian", 4, 2)}
    positional["fisher.Identity(1)"] = lambda: fisher.Identity(1)
    return bad + [Bad(PYTHON, label, call) for label, call in positional.items()]


def inputs(folder: Path) -> list[Bad]:
    """Every sub-package."""
    assert ngd.__version__
    parts = (_networks(), _kernels(), _approximations(), _theory(), _dynamics(), _losses())
    parts += (_data(folder), _studies(folder), _pythons_own())
    return [bad for part in parts for bad in part]

"""What the assertions of `ngd_theory.testing` are given wrongly, or must fail on."""

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
from bad_inputs import ASSERTIONS, Bad, varied

from ngd_theory import testing
from ngd_theory.dynamics import Trajectory

WRONG_MAPS = (
    *(None, "I", 1.0, [[1.0]], {"K": 1}, object()),
    *(np.ones(3), np.ones((2, 3)), np.ones((2, 2, 2)), np.zeros((0, 0))),
    *(np.eye(2) + 0j, np.eye(2).astype(object), np.eye(2, dtype=bool), np.array([["a"]])),
)
#: Maps whose numbers are wrong: an assertion fails on them.
FALSE_MAPS = (
    *(np.diag([1.0, np.nan]), np.diag([1.0, np.inf]), np.full((2, 2), np.nan)),
    *(np.zeros((3, 3)), -np.eye(3), -np.diag(np.arange(1.0, 7)), np.diag([1.0, -1.0])),
    *(np.array([[0.0, 1.0], [-1.0, 0.0]]), np.diag([1.0, 2.0]), jnp.diag(jnp.array([1.0, 1.1]))),
)
#: No maps of the types that JAX is set to.
WRONG_MAPS += (1e300 * np.eye(2), np.diag([1.0, -1e39]))
NUMBERS = (None, "1", 1j, np.nan, np.inf, -np.inf, [1.0], np.ones(2), True)
LOSSES = 0.5 ** (2 * np.arange(6.0))


def _trajectory(losses) -> Trajectory:
    return Trajectory(jnp.zeros((6, 2, 1)), None, losses)


def _changed(index, value):
    losses = LOSSES.copy()
    losses[index] = value
    return _trajectory(losses)


def _frame(**columns) -> pd.DataFrame:
    widths, seeds = np.meshgrid([16, 32, 64, 128], [0, 1, 2])
    good = {"width": widths.ravel(), "seed": seeds.ravel()}
    good["gap"] = (1 + 0.01 * good["seed"]) / good["width"]
    return pd.DataFrame({**good, **columns})


def _frames() -> list[Bad]:
    gap = _frame()["gap"].to_numpy()
    spoilt = {name: gap.copy() for name in ("nan", "inf", "zero", "negative")}
    for name, value in zip(spoilt, (np.nan, np.inf, 0.0, -1.0), strict=True):
        spoilt[name][3] = value
    frames = {
        "nothing": None,
        "a dictionary": {"width": [1], "seed": [0], "gap": [1.0]},
        "an array": np.ones((3, 3)),
        "a path": "results/smoke",
        "no rows": _frame().iloc[:0],
        "no columns": pd.DataFrame(),
        "no gap": _frame().drop(columns="gap"),
        "no seed": _frame().drop(columns="seed"),
        "a gap of texts": _frame(gap="small"),
        "a gap of dates": _frame(gap=pd.Timestamp(0)),
        "a gap of lists": _frame(gap=[[1.0]] * 12),
        "a gap that is complex": _frame(gap=gap + 1j),
        "a width of texts": _frame(width="wide"),
        "a width of NaN": _frame(width=np.nan),
        "widths of 0": _frame(width=0),
        "widths below 0": _frame(width=-_frame()["width"]),
        "one width": _frame(width=16),
        "one seed": _frame().query("seed == 0"),
        "two approximations": _frame(approximation=["exact", "kfac"] * 6),
        "a seed of NaN": _frame(seed=np.nan),
        "seeds in lists": _frame(seed=[[0]] * 12),
        "cells in lists": _frame(cell=[[0]] * 12),
        "a missing approximation": _frame(approximation=["exact"] * 11 + [None]),
        "approximations in lists": _frame(approximation=[["exact"]] * 12),
        "a gap of truth values": _frame(gap=True),
        **{
            f"two columns {name}": pd.concat([whole, whole[[name]]], axis=1)
            for whole in [_frame(approximation="exact", cell=0)]
            for name in whole.columns
        },
        "gaps that grow": _frame(gap=1 / gap),
        **{f"a gap of {name}": _frame(gap=values) for name, values in spoilt.items()},
    }
    return [
        Bad(
            ASSERTIONS,
            f"assert_gap_shrinks: {label}",
            lambda frame=frame: testing.assert_gap_shrinks(frame, -0.5),
            may_fail=True,
        )
        for label, frame in frames.items()
    ]


def inputs(folder: Path) -> list[Bad]:
    """Maps, trajectories, frames and numbers."""
    eye, sound = np.eye(3), _trajectory(LOSSES)
    calls = [
        (testing.assert_isotropic, {"map": eye}, {"map": WRONG_MAPS}),
        (testing.assert_isotropic, {"map": eye}, {"dispersion": (*NUMBERS, -1e-6)}),
        (testing.assert_isotropy_constant, {"map": eye, "expected": 1.0}, {"map": WRONG_MAPS}),
        (
            testing.assert_isotropy_constant,
            {"map": eye, "expected": 1.0},
            # True is 1 here as elsewhere no number is.
            {"expected": (*NUMBERS, 0.0, -1.0), "rtol": (*NUMBERS, -1e-3)},
        ),
        (
            testing.assert_convergence_rate,
            {"trajectory": sound, "expected": 0.5},
            {
                "trajectory": {
                    "nothing": None,
                    "a text": "t",
                    "an array": LOSSES,
                    "without losses": _trajectory(None),
                    "no losses": _trajectory(LOSSES[:0]),
                    "one loss": _trajectory(LOSSES[:1]),
                    "losses that are whole numbers": _trajectory(np.ones(3, int)),
                    "losses in a row": _trajectory(LOSSES[None]),
                    "losses that are complex": _trajectory(LOSSES + 0j),
                    "losses that are texts": _trajectory(np.array(["a", "b"])),
                },
                "expected": (*NUMBERS, -0.5),
                "tolerance": (*NUMBERS, -0.1),
                "floor": (*NUMBERS[1:], -1.0, 2.0),
            },
        ),
        (
            testing.assert_gap_shrinks,
            {"frame": _frame(), "exponent": -0.5},
            {
                "exponent": (*NUMBERS, 10**400),
                "column": (None, 3, "gaps", "", ["gap"], "seed", "width"),
                "over": (None, 3, "height", ["width"], "gap", "seed"),
            },
        ),
    ]
    bad = [
        one
        for function, good, wrong in calls
        for one in varied(ASSERTIONS, function.__name__, function, good, wrong)
    ]
    false = {"map": FALSE_MAPS}
    bad += varied(
        *(ASSERTIONS, "assert_isotropic on numbers", testing.assert_isotropic, {"map": eye}, false),
        may_fail=True,
    )
    bad += varied(
        *(ASSERTIONS, "assert_isotropy_constant on numbers", testing.assert_isotropy_constant),
        {"map": eye, "expected": 1.0},
        {"map": FALSE_MAPS[:8]},
        may_fail=True,
    )
    broken = {
        "losses of NaN": _changed(3, np.nan),
        "losses of infinity": _changed(3, np.inf),
        "a negative loss": _changed(3, -1.0),
        "a first loss of 0": _changed(0, 0.0),
        "losses of 0": _trajectory(np.zeros(4)),
        "losses that grow": _trajectory(1 / LOSSES),
        "losses that stay": _trajectory(np.ones(4)),
        "losses of another rate": _trajectory(LOSSES**2),
        "a run that diverged": replace(_trajectory(np.array([1.0, np.inf])), diverged=True),
    }
    for label, trajectory in broken.items():
        call = lambda t=trajectory: testing.assert_convergence_rate(t, 0.5)  # noqa: E731
        bad.append(Bad(ASSERTIONS, f"assert_convergence_rate: {label}", call, may_fail=True))
    missing = {
        "no map": lambda: testing.assert_isotropic(),
        "an unknown option": lambda: testing.assert_isotropic(eye, atol=1),
        "an option by position": lambda: testing.assert_isotropic(eye, 1e-6),
        "no expectation": lambda: testing.assert_isotropy_constant(eye),
    }
    bad += [Bad(ASSERTIONS, label, call) for label, call in missing.items()]
    return bad + _frames()

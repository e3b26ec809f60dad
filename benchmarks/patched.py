"""``python -m benchmarks.patched``: put one error at a time into a copy of the code, and name the claims that fail.

`ngd-theory verify --plant` plants errors in predictions or measurements. Here the code itself is wrong, so that code
shared by a prediction and a measurement is wrong in both.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import ngd_theory

#: A small run of every approximation.
SETTINGS = {"--dataset": "gaussian", "--input-dim": "32", "--num-train": "20", "--num-test": "20"}
SETTINGS |= {"--width": "512", "--steps": "3"}
SOFT = {"--loss": "cross-entropy", "--output-dim": "3", "--damping": "1e-9"}

#: (what is wrong, file, right text, wrong text, further settings)
ERRORS = [
    (
        "damping added twice",
        "fisher/damping.py",
        "else positive(self.value, *args)",
        "else positive(2 * self.value, *args)",
        {},
    ),
    (
        "pi on the wrong factor",
        "fisher/factored_damping.py",
        "return pi * root, root / pi",
        "return root / pi, pi * root",
        {},
    ),
    (
        "pi left out",
        "fisher/factored_damping.py",
        "pi = SPLITS[split](mean_a, mean_b)",
        "pi = 1.0",
        {},
    ),
    (
        "an output factor I/N",
        "fisher/kfac.py",
        '_OUTPUT_FACTORS = {"fisher": lambda n: 1.0,',
        '_OUTPUT_FACTORS = {"fisher": lambda n: 1.0 / n,',
        {},
    ),
    (
        "a pair of layers not coupled",
        "fisher/block_tridiagonal.py",
        "return (np.abs(index[:, None] - index[None, :]) <= 1).astype(float)",
        "found = (np.abs(index[:, None] - index[None, :]) <= 1).astype(float)\n"
        "    found[:2, :2] = np.eye(min(2, depth))\n    return found",
        {},
    ),
    (
        "unit-wise without 1/N",
        "fisher/unit_wise.py",
        "gram, cross = _gram(layer, layer) / n, _gram(there, layer) / n",
        "gram, cross = _gram(layer, layer), _gram(there, layer) / n",
        {},
    ),
    (
        "no square on the diagonal",
        "fisher/entry_wise.py",
        "layer.layout.pull_back(layer.inputs**2, jnp.sum(delta**2, axis=1) / n)",
        "layer.layout.pull_back(abs(layer.inputs), jnp.sum(abs(delta), axis=1) / n)",
        {},
    ),
    (
        "sensitivities after the activation",
        "networks/chain.py",
        "            h = layers[str(number)](h)\n"
        "            for function in block.after:\n                h = function(h)",
        "            h = layers[str(number)](h)\n"
        "            shift = 0.0 if layers._shifts is None else layers._shifts[len(layers.calls) - 1]\n"
        "            h = h - shift\n"
        "            for function in block.after:\n                h = function(h)\n"
        "            h = h + shift",
        {},
    ),
    (
        "a test prediction one step late",
        "dynamics/predict.py",
        "return train, test.reshape(-1, *test_outputs.shape)",
        "test = test.reshape(-1, *test_outputs.shape)\n    return train, jnp.concatenate([test[:1], test[:-1]])",
        {},
    ),
    (
        "training with 1.002 eta",
        "dynamics/train.py",
        "laziness * step_size * g",
        "laziness * step_size * 1.002 * g",
        {},
    ),
    (
        "ceil(L/3) rounded down (L = 4)",
        "fisher/block_tridiagonal.py",
        "1: (1.0, 0.0, 0.0)",
        "1: (0.5, 0.0, 0.0)",
        {"--depth": "4"},
    ),
    (
        "maps of K-FAC and its kin without the last layer",
        "fisher/base.py",
        "terms = self.layer_terms(lin, factors, at)\n        return sum(terms[1:], terms[0])",
        "terms = self.layer_terms(lin, factors, at)\n        return sum(terms[1:-1], terms[0])",
        {},
    ),
    (
        "Lambda without p p^T",
        "losses.py",
        "/ 2) * (tangent - first - mean)",
        "/ 2) * tangent",
        SOFT,
    ),
]


def failures(package: Path, more: dict[str, str]) -> set[str] | None:
    """Return the claims that fail when the package in a folder runs `verify`; None if the run crashes."""
    options = [word for pair in (SETTINGS | more).items() for word in pair]
    out = package / "out"
    command = [sys.executable, "-m", "ngd_theory.cli", "verify", "--no-cache", "--out", str(out)]
    run = subprocess.run(
        [*command, *options],
        cwd=package,
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode not in (0, 1) or not (out / "result.json").exists():
        print(run.stderr.strip().splitlines()[-1:], flush=True)
        return None
    claims = json.loads((out / "result.json").read_text())["claims"]
    return {f"{c['claim']} ({c['approximation']})" for c in claims if c["status"] == "FAIL"}


def patched(name: str, right: str, wrong: str, more: dict[str, str]) -> set[str] | None:
    """Return `failures` of a copy of the package in which ``wrong`` replaces ``right``."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "ngd_theory"
        source = Path(ngd_theory.__file__).parent
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        text = (copy / name).read_text(encoding="utf-8")
        if text.count(right) != 1:
            sys.exit(f"{name} has {right!r} {text.count(right)} times; mend this benchmark")
        (copy / name).write_text(text.replace(right, wrong), encoding="utf-8")
        return failures(Path(folder), more)


def main() -> int:
    """Try every error; return 1 if one is not noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="errors whose words hold this")
    only = parser.parse_args().only
    errors = [error for error in ERRORS if only in error[0]]
    right: dict[str, set[str] | None] = {}
    missed = 0
    for meaning, name, text, wrong, more in errors:
        words = " ".join(more.values())
        if words not in right:
            right[words] = patched(name, text, text, more)
        found, before = patched(name, text, wrong, more), right[words]
        if found is None or before is None:
            missed += 1
            print(f"{meaning}: CRASHED", flush=True)
            continue
        new = sorted(found - before)
        missed += not new
        print(f"{meaning}: {len(new)}: {', '.join(new) or 'NOTHING'}", flush=True)
    print(f"{len(errors) - missed} of {len(errors)} errors of code noticed")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())

"""Eight devices give what one gives; two processes too."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory as ngd
from ngd_theory.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "helpers" / "on_devices.py"


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process):
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(output.splitlines()[-1])


@pytest.mark.slow
def test_eight_devices_give_what_one_gives():
    found = result(start("eight"))
    assert found["devices"] == 8
    wanted = {*ngd.fisher.APPROXIMATIONS, "exact, cg", "training", "optim.kfac"}
    assert set(found["differences"]) == wanted
    assert all(d < 1e-10 for d in found["differences"].values()), found["differences"]
    assert found["programs of the step"] == 1
    # Nothing is held whole by a device: samples over four, units over two.
    assert found["parts"] == {"sensitivities": 1 / 8, "weight": 1 / 2}
    assert found["trained parts"] == [1 / 2] * 3
    # Of a batch of eight units each of two devices solves four, and only those are gathered over the samples; the two
    # outputs are on one. Conjugate gradients gather all eight samples of a device's units.
    assert found["units"] == {"solved": [2, 4], "gathered": 8}
    assert found["refused"] == [
        "layer 2 has 3 units, no multiple of the 2 devices along 'width'",
        "6 samples are no multiple of the 4 devices along 'samples'",
    ]


def test_two_processes_give_what_one_gives():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [start("hosts", address, str(i)) for i in range(2)]
    try:
        found = [result(p) for p in processes]
    finally:
        for process in processes:
            process.kill()
    assert [f["devices"] for f in found] == [8, 8]
    assert found[0]["losses"] == found[1]["losses"]

    rng = np.random.default_rng(0)
    network = ngd.networks.mlp(12, [32, 32], 2, activation="tanh", bias_std=0.3)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), shapes)
    x, y = (jnp.asarray(rng.normal(size=(8, size))) for size in (12, 2))
    alone = ngd.dynamics.train(network, params, x, y, ngd.fisher.Exact(), 0.5, 2, 1e-3)
    np.testing.assert_allclose(found[0]["losses"], alone.losses, rtol=1e-10)
    assert "inputs 0 and 1 are equal to round-off" in found[0]["broken"]


def test_a_mesh_takes_all_devices():
    mesh = ngd.networks.device_mesh()
    assert mesh.shape == {"samples": len(jax.devices()), "width": 1}
    with pytest.raises(InputError, match="width is 3; it must divide the number of devices, 1"):
        ngd.networks.device_mesh(3, jax.devices()[:1])

"""Arguments of another type, as users meet them: without the checks of shapes and types that these tests install."""

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import jax, jax.numpy as jnp
import ngd_theory as ngd
from ngd_theory.errors import InputError

net = ngd.networks.mlp(3, [4], 1)
params, x, y = net.init(jax.random.key(0)), jnp.ones((2, 3)), jnp.ones((2, 1))
lin, exact = ngd.networks.linearize(net, params, x), ngd.fisher.Exact()
ENTRY = "of type Approximation: ngd.fisher.by_name"
CASES = [
    (lambda: ngd.networks.mlp(3, 64, 1), "hidden_widths is 64"),
    (lambda: ngd.networks.cnn((4, 4, 1), 64, 1), "channels is 64"),
    (lambda: ngd.networks.linearize(net, params, [[1.0, 2.0, 3.0]]), "x is a list"),
    (lambda: net.apply(None, x), "params is None"),
    (lambda: ngd.dynamics.train(net, params, x, y, "kfac", 0.1, 1, 1e-3), ENTRY),
    (lambda: ngd.dynamics.predict("kfac", lin, y, 0.1, 1, 1e-3), ENTRY),
    (lambda: ngd.kernels.infinite.predictor("kfac", net, x, x, damping=1e-3), ENTRY),
    (lambda: ngd.theory.isotropy_constant("kfac", net, 2), ENTRY),
    (lambda: ngd.theory.step_memory("kfac", net, 2), ENTRY),
    (lambda: ngd.theory.check_conditions("kfac", net, lin), ENTRY),
    (lambda: ngd.theory.check_conditions(exact, None, lin), "net is None"),
    (lambda: ngd.theory.check_conditions(exact, net, x), "of type Linearization"),
]
for number, (call, words) in enumerate(CASES):
    try:
        call()
    except InputError as error:
        assert words in str(error), (number, str(error))
    else:
        raise AssertionError(f"case {number} raised nothing")
"""


def test_the_error_says_what_it_is_and_what_to_give():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

"""Parameters drawn by NumPy: a program that draws compiles for longer than most tests compute."""

import jax
import jax.numpy as jnp
import numpy as np


def drawn(network, seed=0, dtype=None):
    """As ``network.init``, other numbers: every entry from N(0, 1)."""
    rng = np.random.default_rng([seed, 1])
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), dtype))
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), shapes)

"""How one damping rho of ``A (x) B`` is shared by the factors: ``A + pi sqrt(rho)``, ``B + sqrt(rho)/pi``."""

import jax.numpy as jnp


def _ratio(a, b):
    """``sqrt(a/b)``, or 1 if a or b is 0. It takes two roots, since the quotient may be out of range."""
    both = (a > 0) & (b > 0)
    # Avoid the root of 0: its derivative is infinite.
    a, b = (jnp.where(both, mean, 1) for mean in (a, b))
    return jnp.sqrt(a) / jnp.sqrt(b)


#: (mean diagonals of A and B) -> pi.
SPLITS = {
    "factored": _ratio,
    "equal": lambda a, b: jnp.ones_like(a),
}


def factored_damping(mean_a, mean_b, root, split: str = "factored"):
    """Dampings of A and B.

    Parameters
    ----------
    mean_a, mean_b : scalar arrays
        Mean diagonal entries, ``tr A / dim A`` and ``tr B / dim B``.
    root : scalar array
        sqrt(rho), rho on the scale of ``A (x) B``; gamma of Martens & Grosse.
    split : {"factored", "equal"}
        "factored": ``pi^2 = mean_a / mean_b`` (Martens & Grosse 2015 section 6.3); "equal": pi = 1.

    Returns
    -------
    (scalar array, scalar array)
        ``pi sqrt(rho)`` and ``sqrt(rho)/pi``. The damped product exceeds ``A (x) B + rho`` by a positive
        semi-definite term.
    """
    pi = SPLITS[split](mean_a, mean_b)
    return pi * root, root / pi

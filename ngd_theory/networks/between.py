"""What the maps after a layer do to its pre-activations, found at several random points.

The theory knows the ranks if every entry after the maps depends on positions of one unit, and no two entries share a
position: activations, pooling, slices, reorderings. To find the entry i that a pre-activation feeds, cotangents are
pulled back: random weights r_i, and r_i times each digit of i. If it feeds only entry i, the ratios give the digits.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import jax
import jax.numpy as jnp
import numpy as np

from ngd_theory.errors import InputError, NotPredictedError, shown
from ngd_theory.networks.activations import ACTIVATIONS, Activation

#: Centre and spread of the random points: first N(0, 1), then close to 0 and on either side of it.
POINTS = ((0.0, 1.0), (0.0, 0.1), (3.0, 0.5), (-3.0, 0.5))
#: Random points at each of them.
DRAWS = 6
#: Entry-wise maps are examined on this many numbers, whatever the width.
FEW = 256
#: Base of the digits of an entry's number, small enough to tell digits apart in float32.
BASE = 64
#: Largest count of numbers in all points of `_peaks` together.
MOST = 2**30


@dataclass(frozen=True, eq=False)
class Between:
    """What the maps after a layer do.

    Attributes
    ----------
    shape : tuple of int or None
        Shape of one sample after the maps; None for entry-wise maps, which keep the shape.
    feeds : int array like one sample's pre-activations, or None
        Number of the entry that each pre-activation feeds, -1 for none. None if each feeds its own entry.
    linear : bool
    active : float
        Share of the entries after the maps that depend on u, at u ~ N(0, 1).
    chooses : bool
        Whether an entry depends on only some of its positions, and on others at another point: max pooling.
    """

    shape: tuple[int, ...] | None
    feeds: np.ndarray | None
    linear: bool
    active: float
    chooses: bool = False


def composed(after: tuple[Callable, ...]) -> Callable:
    """One function that applies the maps in turn."""

    def apply(h):
        for function in after:
            h = function(h)
        return h

    return apply


def entry_wise(after: tuple[Callable, ...]) -> bool:
    """Whether the maps are activations only."""
    return all(isinstance(function, Activation) for function in after)


def shape_after(after: tuple[Callable, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of one sample after the maps; nothing is computed."""
    if entry_wise(after):
        return shape
    given = jax.ShapeDtypeStruct((1, *shape), jnp.result_type(float))
    return jax.eval_shape(composed(after), given).shape[1:]


def between(after: tuple[Callable, ...], shape: tuple[int, ...]) -> Between:
    """Find out what the maps after a layer do.

    Parameters
    ----------
    after : tuple of functions
    shape : tuple of int
        Shape of one sample's pre-activations; the last axis is the units.

    Raises
    ------
    NotPredictedError
        If the theory does not know the ranks after such maps; the message says why.
    InputError
        If a map cannot be hashed. The result is cached for the next call, which needs a hash.
    """
    for function in after:
        try:
            hash(function)
        except TypeError:
            raise InputError(
                f"a map after a layer is {shown(function)}, which cannot be hashed: take a function, or a frozen "
                "dataclass"
            ) from None
    if not entry_wise(after):
        return _look(after, shape)
    if not after:
        return Between(None, None, linear=True, active=1.0)
    if len(after) == 1 and isinstance(phi := after[0], Activation) and phi in ACTIVATIONS.values():
        # The package's own activations are known, so nothing is compiled.
        return Between(None, None, phi.name == "identity", phi.active_fraction)
    found = _look(after, (FEW,))
    own = np.arange(FEW)
    if found.feeds is None or found.shape != own.shape or not np.array_equal(found.feeds, own):
        raise NotPredictedError("its activation is not entry-wise")
    return Between(None, None, found.linear, found.active)


@lru_cache(maxsize=64)
def _look(after: tuple[Callable, ...], shape: tuple[int, ...]) -> Between:
    rng = np.random.default_rng(0)
    look, out = _compiled(after, shape, rng)
    feeds = np.full(shape, -1)
    active, steady, straight, slopes = [], True, True, None

    def add(u):
        value, pulled = look(np.stack([u, rng.normal(size=shape)]))
        if np.any(pulled[:, 1] != 0):
            raise NotPredictedError("its map lets samples see each other")
        fed = _fed(value, pulled[:, 0], prod(out))
        if ((feeds >= 0) & (fed >= 0) & (feeds != fed)).any():
            raise NotPredictedError(
                "its map sends a unit to different numbers at different inputs, as sorting does"
            )
        np.copyto(feeds, fed, where=fed >= 0)
        return fed, pulled[0, 0]

    for centre, spread in POINTS:
        seen = []
        for _ in range(DRAWS):
            fed, here = add(centre + spread * rng.normal(size=shape))
            seen.append(fed >= 0)
            slopes = here if slopes is None else slopes
            straight &= np.allclose(slopes, here, rtol=1e-4, atol=0)
            if (centre, spread) == POINTS[0]:
                active.append(len(np.unique(fed[fed >= 0])) / prod(out))
        # Away from zero an activation does not switch, but a map that chooses among positions does.
        steady &= centre == 0 or all(np.array_equal(seen[0], live) for live in seen)
    if not steady and (feeds < 0).any():
        for u in _peaks(rng, shape):
            add(u)
    if (feeds < 0).all():
        raise NotPredictedError("no number after its map depends on a unit")
    _check_units(feeds)
    first, second = rng.normal(size=(2, *shape))
    values, _ = look(np.stack([first, second]))
    of_sum, _ = look(np.stack([0.7 * first - 1.3 * second, second]))
    error = np.abs(of_sum[0] - (0.7 * values[0] - 1.3 * values[1])).max()
    if straight != (error <= 1e-4 * np.abs(values).max()):
        raise NotPredictedError(
            "its map has the same slopes everywhere and is not linear: it adds constants, or has a gradient of its own"
        )
    return Between(out, feeds, straight, float(np.mean(active)), not steady)


def _compiled(
    after: tuple[Callable, ...], shape: tuple[int, ...], rng
) -> tuple[Callable, tuple[int, ...]]:
    """A function of two samples that gives values and pulled-back cotangents of the first; the shape after the maps."""
    function = composed(after)
    # Compiled ahead of time, so that it also runs if this is called inside jit.
    given = jax.ShapeDtypeStruct((2, *shape), jnp.result_type(float))
    out = jax.eval_shape(function, given)
    count = prod(out.shape[1:])
    if out.shape[0] != 2 or count == 0 or not jnp.issubdtype(out.dtype, jnp.floating):
        raise NotPredictedError(f"its map makes {out.shape} of {given.shape}, of type {out.dtype}")
    places = -(-count.bit_length() // (BASE.bit_length() - 1))
    digits = np.arange(count) // BASE ** np.arange(places)[:, None] % BASE + 1
    rows = np.concatenate([np.ones((1, count)), digits]) * rng.uniform(0.5, 1.5, count)
    cotangents = np.stack([rows, np.zeros_like(rows)], 1).reshape(-1, *out.shape)

    def look(u, cotangents):
        value, pull = jax.vjp(function, u)
        return value, jax.vmap(lambda c: pull(c)[0])(cotangents)

    like = jax.ShapeDtypeStruct(cotangents.shape, out.dtype)
    compiled = jax.jit(look).lower(given, like).compile()
    cotangents = cotangents.astype(out.dtype)

    def run(u):
        value, pulled = compiled(u.astype(given.dtype), cotangents)
        return np.asarray(value, float), np.asarray(pulled, float)

    return run, out.shape[1:]


def _fed(value, pulled, count: int) -> np.ndarray:
    """The entry that each pre-activation feeds at a point, -1 for none."""
    if not (np.isfinite(value).all() and np.isfinite(pulled).all()):
        raise NotPredictedError("its map has values or slopes that are not finite")
    live = pulled[0] != 0
    ratios = pulled[1:] / np.where(live, pulled[0], 1)
    digits = np.rint(ratios)
    if (np.abs(ratios - digits) > 1e-2)[:, live].any():
        raise NotPredictedError(
            "its map lets a unit reach several numbers after it, as normalisation over units, softmax, overlapping "
            "windows and copies do"
        )
    powers = (BASE ** np.arange(len(digits))).reshape(-1, *[1] * (digits.ndim - 1))
    fed = np.where(live, ((digits - 1) * powers).sum(0), -1).astype(int)
    if (fed >= count).any():
        raise NotPredictedError("its map has slopes that are lost in round-off")
    return fed


def _peaks(rng, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Points at which each position in turn is the largest, then the smallest."""
    positions = prod(shape[:-1])
    if 2 * positions * prod(shape) > MOST:
        raise NotPredictedError(
            f"its map chooses among positions, and {positions} of them are too many to look at each"
        )
    for position in range(positions):
        for sign in (1, -1):
            u = 0.2 * rng.normal(size=(positions, shape[-1]))
            u[position] += 3 * sign
            yield u.reshape(shape)


def _check_units(feeds: np.ndarray) -> None:
    """Raise unless every entry is fed by one unit."""
    units = np.broadcast_to(np.arange(feeds.shape[-1]), feeds.shape)[feeds >= 0]
    entries = feeds[feeds >= 0]
    owner = np.full(entries.max(initial=-1) + 1, -1)
    owner[entries] = units
    if (owner[entries] != units).any():
        raise NotPredictedError("its map mixes units in one number after it")

"""The layers that a forward function receives, by name. It may call each anywhere and any number of times."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jaxtyping import Array

from ngd_theory.arguments import is_known
from ngd_theory.errors import InputError, shown
from ngd_theory.networks.layers import Layer


@dataclass(frozen=True)
class Call:
    """One place of a forward function where a layer is called.

    Attributes
    ----------
    layer : int
        Its number, from 0.
    shape : tuple of int
        Shape of one sample's pre-activations.
    steps : tuple of int
        Lengths of the loops (`Layers.scan`) around it, outermost first.
    """

    layer: int
    shape: tuple[int, ...]
    steps: tuple[int, ...] = ()


class Layers:
    """The layers of a network with their parameters, while its forward function runs.

    ``layers["a"](h)`` is the pre-activation of layer "a" at ``h``, an array with the samples first. Each call records
    ``h``, and shifts the pre-activation if `linearize` asks for it. A linearisation needs nothing else from a network.
    """

    def __init__(self, names: Sequence[str], affine: Sequence[Layer], params, shifts=None):
        self._numbers = {name: number for number, name in enumerate(names)}
        self._affine, self._params, self._shifts = affine, params, shifts
        #: The calls so far, and the input of the layer at each: (*steps, N, ...).
        self.calls: list[Call] = []
        self.given: list[Array] = []

    def __getitem__(self, name: str) -> Callable[[Array], Array]:
        """The layer called ``name``, from its input (N, ...) to its pre-activation."""
        if name not in self._numbers:
            known = ", ".join(map(repr, self._numbers))
            raise InputError(
                f"the forward function asks for layer {shown(name)}; there are {known}"
            )
        return partial(self._call, self._numbers[name])

    def _call(self, number: int, h: Array) -> Array:
        u = self._affine[number](self._params[number], h)
        if self._shifts is not None:
            u = u + self._shifts[len(self.calls)]
        self.calls.append(Call(number, u.shape[1:]))
        self.given.append(h)
        return u

    def scan(self, step: Callable, carry, xs=None, length: int | None = None) -> tuple[Any, Any]:
        """`jax.lax.scan` for loops that call layers: recurrence with tied weights in one compiled step.

        Parameters
        ----------
        step : ``(layers, carry, x) -> (carry, y)``
            Use this ``layers`` inside the step; it has the same layers.
        carry : pytree
        xs : pytree of (S, ...) arrays, optional
            Scanned over their first axis. None for ``length`` steps without input.
        length : int, optional

        Returns
        -------
        carry, ys
            As `jax.lax.scan` returns them.
        """
        first = len(self.calls)
        calls: list[Call] = []

        def body(carry, scanned):
            x, shifts = scanned
            inner = Layers(tuple(self._numbers), self._affine, self._params, shifts)
            carry, y = step(inner, carry, x)
            calls[:] = inner.calls
            return carry, (y, inner.given)

        shifts = self._shifts
        if shifts is not None:
            # Counts how many of the shifts belong to the loop, without computing anything.
            jax.eval_shape(lambda: jax.lax.scan(lambda c, x: body(c, (x, None)), carry, xs, length))
            shifts = shifts[first : first + len(calls)]
        carry, (ys, given) = jax.lax.scan(body, carry, (xs, shifts), length)
        steps = jax.tree.leaves((xs, ys, given))[0].shape[0] if length is None else length
        self.calls += [Call(call.layer, call.shape, (steps, *call.steps)) for call in calls]
        self.given += given
        return carry, ys


def traced_shapes(function: Callable, *args):
    """`jax.eval_shape` that also detects values kept from a trace that has ended.

    Raises
    ------
    jax.errors.UnexpectedTracerError
        If the function keeps a value from inside its own `jax.jit`, `jax.lax.scan` or the like.
    """
    traced, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    # JAX treats such a value as a constant of the program.
    for value in traced.consts:
        if not is_known(value):
            raise jax.errors.UnexpectedTracerError(f"a value of an inner trace: {value}")
    return shapes

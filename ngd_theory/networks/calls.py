"""What a forward function is handed: its layers by name, each to be called as often and wherever it likes."""

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
        Of one sample's pre-activations.
    steps : tuple of int
        Lengths of the loops (`Layers.scan`) around it, outermost first.
    """

    layer: int
    shape: tuple[int, ...]
    steps: tuple[int, ...] = ()


class Layers:
    """The layers of a network with their parameters, while its forward function runs.

    ``layers["a"](h)`` is the pre-activation of layer "a" at ``h``, an array with the samples first. What the layer was
    given is recorded, and its pre-activation is shifted where `linearize` asks for it: these two are all that a
    linearisation needs of a network.
    """

    def __init__(self, names: Sequence[str], affine: Sequence[Layer], params, shifts=None):
        self._numbers = {name: number for number, name in enumerate(names)}
        self._affine, self._params, self._shifts = affine, params, shifts
        #: Calls so far, and what the layer was given at each: (*steps, N, ...).
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
            ``layers`` is to be used inside; it has the same layers.
        carry : pytree
        xs : pytree of (S, ...) arrays, optional
            Scanned over their first axis. None for ``length`` steps without.
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
            # How many of the shifts are the loop's own: counted without computing anything.
            jax.eval_shape(lambda: jax.lax.scan(lambda c, x: body(c, (x, None)), carry, xs, length))
            shifts = shifts[first : first + len(calls)]
        carry, (ys, given) = jax.lax.scan(body, carry, (xs, shifts), length)
        steps = jax.tree.leaves((xs, ys, given))[0].shape[0] if length is None else length
        self.calls += [Call(call.layer, call.shape, (steps, *call.steps)) for call in calls]
        self.given += given
        return carry, ys


def traced_shapes(function: Callable, *args):
    """`jax.eval_shape` that notices what a function kept of a trace that has ended.

    Raises
    ------
    jax.errors.UnexpectedTracerError
        For a value that was recorded inside `jax.jit`, `jax.lax.scan` or the like of the function's own.
    """
    traced, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    # To JAX such a value is a constant of the program.
    for value in traced.consts:
        if not is_known(value):
            raise jax.errors.UnexpectedTracerError(f"a value of an inner trace: {value}")
    return shapes

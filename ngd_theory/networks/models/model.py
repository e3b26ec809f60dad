"""The interface between `linearize_model` and models of other libraries."""

import abc
from typing import Any

from jaxtyping import Array

from ngd_theory.networks.models.known import Known


class AnyModel(abc.ABC):
    """A model of some library with its arrays.

    Attributes
    ----------
    params : pytree
        Its floating parameters, in the model's own tree.
    known : list of Known
        The layers that we know; complete after `run` was called once.
    takes_batches : bool
        Whether `batch` is implemented.
    boxed : bool
        Whether names of leaves end with one more key, "value".
    """

    params: Any
    known: list[Known]
    takes_batches: bool = True
    boxed: bool = False

    @abc.abstractmethod
    def run(self, params, sample, tap) -> Array:
        """Outputs (C,) of one sample; the output of layer i is replaced by what ``tap(i, input, output)`` returns."""

    def batch(self, params, x) -> Array:
        """Outputs (N, C) of all samples at once."""
        raise NotImplementedError

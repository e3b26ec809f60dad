"""How the steps of a run are made: on which samples, and with what momentum."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ngd_theory import networks
from ngd_theory.dynamics import Momentum, contraction_bound, draw_batches, spring
from ngd_theory.experiment.settings import Settings

#: Batches that the mean of a bound is taken over: all subsets where there are no more.
BOUND_BATCHES = 5000
#: Of the key that batches are drawn with, beside the seed: parameters are drawn with the seed alone.
_BATCHES, _BOUND = 1, 2


@dataclass(frozen=True)
class Scheme:
    """Steps of mini-batches, or with momentum.

    Attributes
    ----------
    words : str
        Empty for plain steps on the full batch.
    batches : (T, B) array or None
        None for those.
    settings : Settings
    """

    words: str
    batches: Any
    settings: Settings

    @classmethod
    def of(cls, settings: Settings, num_samples: int) -> "Scheme":
        """Draw the batches."""
        size, momentum = settings.batch_size or num_samples, settings.momentum
        words = [f"batches of {size}"] if size < num_samples else []
        if momentum:
            words.append(f"momentum {momentum:g} ({settings.momentum_kind})")
        if not words:
            return cls("", None, settings)
        if size == num_samples:
            # By steps, not in closed form: that has no parameters, whose distances claims read.
            batches = jnp.tile(jnp.arange(num_samples), (settings.steps, 1))
        else:
            how = num_samples, size, settings.steps, settings.batch_order
            batches = draw_batches(_key(settings, _BATCHES), *how)
        return cls(", ".join(words), batches, settings)

    def linearisations(self, lin) -> Iterator[networks.Linearization]:
        """Of what the steps see, one after the other; one alone where all see all samples."""
        if self.batches is None or self.batches.shape[1] == lin.num_samples:
            yield lin
        else:
            yield from map(lin.take, self.batches)

    def options(self, constant: float) -> dict[str, Any]:
        """Of `dynamics.train` and `dynamics.predict`; alpha is that of a step's samples."""
        if self.batches is None:
            return {}
        how = self.settings.momentum
        kept = spring(how, constant) if self.settings.momentum_kind == "spring" else Momentum(how)
        return {"batches": self.batches, "momentum": kept}

    def bound(self, kernel, output_dim: int) -> float | None:
        """What a step of exact leaves of ``|Theta^(-1/2) r|``, in quadratic mean; None but for independent batches."""
        settings = self.settings
        samples = len(kernel) // output_dim
        if self.batches is None or settings.momentum or settings.batch_order != "independent":
            return None
        size = self.batches.shape[1]
        if comb(samples, size) <= BOUND_BATCHES:
            batches = _subsets(samples, size)
        else:
            batches = draw_batches(
                _key(settings, _BOUND), samples, size, BOUND_BATCHES, "independent"
            )
        found = contraction_bound(jnp.asarray(kernel), batches, settings.step_scale, output_dim)
        return float(np.sqrt(found))


def _key(settings: Settings, purpose: int):
    return jax.random.fold_in(jax.random.key(settings.seed), purpose)


def _subsets(samples: int, size: int):
    return jnp.asarray(list(combinations(range(samples), size)))

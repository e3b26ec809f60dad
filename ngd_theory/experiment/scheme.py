"""Samples and momentum of the steps of a run."""

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

#: Most batches over which a bound is averaged. All subsets are taken if there are no more.
BOUND_BATCHES = 5000
#: Folded into the key of the seed for drawing batches. Parameters are drawn with the seed alone.
_BATCHES, _BOUND = 1, 2


@dataclass(frozen=True)
class Scheme:
    """Mini-batches and momentum of the steps.

    Attributes
    ----------
    words : str
        Empty for plain steps on the full batch.
    batches : (T, B) array or None
        None for plain steps on the full batch.
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
            # In steps: the closed form has no parameters, and claims read their distances.
            batches = jnp.tile(jnp.arange(num_samples), (settings.steps, 1))
        else:
            how = num_samples, size, settings.steps, settings.batch_order
            batches = draw_batches(_key(settings, _BATCHES), *how)
        return cls(", ".join(words), batches, settings)

    def linearisations(self, lin) -> Iterator[networks.Linearization]:
        """Linearisation at the samples of each step; only one if every step sees all samples."""
        if self.batches is None or self.batches.shape[1] == lin.num_samples:
            yield lin
        else:
            yield from map(lin.take, self.batches)

    def options(self, constant: float) -> dict[str, Any]:
        """Options of `dynamics.train` and `dynamics.predict`; ``constant`` is alpha of a step's samples."""
        if self.batches is None:
            return {}
        how = self.settings.momentum
        kept = spring(how, constant) if self.settings.momentum_kind == "spring" else Momentum(how)
        return {"batches": self.batches, "momentum": kept}

    def bound(self, kernel, output_dim: int) -> float | None:
        """See `Evidence.batch_bound`; None unless batches are independent and there is no momentum."""
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

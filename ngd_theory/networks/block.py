"""A link of a network: an affine layer, then parameter-free maps."""

from collections.abc import Callable
from dataclasses import dataclass

from ngd_theory.networks.layers import Affine


@dataclass(frozen=True)
class Block:
    """An affine layer followed by parameter-free maps of its pre-activation.

    Attributes
    ----------
    affine : Affine
        Such as `ngd_theory.networks.layers.Dense`.
    after : tuple of functions
        Each maps (N, ...) arrays, sample by sample. The theory states ranks and constants if every entry after the
        maps depends on positions of one unit, and no two entries share a position (activations, pooling, slices,
        reorderings). For other maps it says that it states none; such networks can still be linearised and trained.
    active_fraction : float
        gamma of the layer's units.
    linear : bool
        Whether ``after`` is linear. This and ``active_fraction`` are checked against the maps at random points.
    """

    affine: Affine
    after: tuple[Callable, ...] = ()
    active_fraction: float = 1.0
    linear: bool = True

    @property
    def smooth(self) -> bool:
        """Whether all maps after the layer are declared to have derivatives of all orders."""
        return all(getattr(function, "smooth", False) for function in self.after)

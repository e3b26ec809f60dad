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
        Each of (N, ...) arrays, sample by sample. The theory states ranks and constants where every number after them
        is made of positions of one unit that nothing else is made of (activations, pooling, slices, other orders), and
        says so where it states none. Networks with other maps are linearised and trained all the same.
    active_fraction : float
        gamma of the layer's units.
    linear : bool
        Whether ``after`` is linear. This and ``active_fraction`` are compared with what the maps do at random points.
    """

    affine: Affine
    after: tuple[Callable, ...] = ()
    active_fraction: float = 1.0
    linear: bool = True

    @property
    def smooth(self) -> bool:
        """Whether all maps after the layer say that they have derivatives of all orders."""
        return all(getattr(function, "smooth", False) for function in self.after)

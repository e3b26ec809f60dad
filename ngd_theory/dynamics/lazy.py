"""The lazy family: the same network trained towards targets a share of the way (docs/theory.md, section 8)."""

from ngd_theory.arguments import is_known
from ngd_theory.errors import InputError
from ngd_theory.losses import MSE, Loss


def lazy_targets(outputs, targets, laziness):
    """``f_0 + epsilon (y - f_0)``: as epsilon -> 0, training is that of the linearised network, at any width.

    Under MSE, training towards them is training ``f_0 + (f - f_0)/epsilon`` towards y, and all that is relative to
    ``||f_0 - y||`` in the prediction does not depend on epsilon.

    Parameters
    ----------
    outputs, targets : (N, C)
        f_0 and y.
    laziness : float
        epsilon, above 0 and at most 1.
    """
    return outputs + laziness * (targets - outputs)


def check_laziness(laziness, loss: Loss) -> None:
    """Raise `InputError` for a laziness that is not in (0, 1], or below 1 under another loss than MSE."""
    if not is_known(laziness) or not 0 < laziness <= 1:
        raise InputError(f"laziness is {laziness}; it must be a number above 0 and at most 1")
    if laziness != 1 and loss != MSE:
        raise InputError("a laziness below 1 moves the targets, which has a meaning under mse only")

"""Premises of isotropy that the sizes of a network alone show to fail (docs/theory.md section 3).

They are known before anything is drawn. `ngd_theory.theory.check_conditions` measures the others.
"""

from collections.abc import Sequence

from ngd_theory.networks import LayerSize

#: Names of the premises, by which a study may allow grid points that break them.
PREMISES = ("input-rank", "width")


def input_rank(
    name: str, sizes: Sequence[LayerSize], num_samples: int, mend: str
) -> dict[str, str]:
    """Check ``N <= P_1``, the inputs of a unit in layer 1 with its bias; return what is wrong, by name."""
    inputs = sizes[0].num_inputs
    if num_samples <= inputs:
        return {}
    return {
        "input-rank": f"{name} with {num_samples} samples of {inputs} inputs (a bias counts as one), so that layer 1 "
        f"disperses at every width: use fewer samples, more input dimensions{mend}"
    }


def width(name: str, sizes: Sequence[LayerSize], needed: int) -> dict[str, str]:
    """Check ``M >= needed`` for every hidden layer; return what is wrong, by name."""
    narrowest = min((size.num_units for size in sizes[:-1]), default=needed)
    if narrowest >= needed:
        return {}
    return {
        "width": f"{name} at width {narrowest}, too narrow for hidden layers of full rank: it takes {needed}; widen or "
        "use fewer samples"
    }


def of_both_factors(
    name: str, sizes: Sequence[LayerSize], num_samples: int, equal_leverages: bool
) -> dict[str, str]:
    """Check the premises of ``A (x) B``: for layer 1 (unless the leverages are equal) and for hidden layers.

    Empty if positions share weights.
    """
    if any(s.positions > 1 for s in sizes):
        return {}
    mend = ", or forster = true without biases"
    rank = {} if equal_leverages else input_rank(name, sizes, num_samples, mend)
    return rank | width(name, sizes, num_samples * sizes[-1].output_dim)

"""Floor 3: Fisher approximations, each a small function of a linearisation."""

from ngd_theory.errors import InputError, choose
from ngd_theory.fisher.base import Approximation, Look, Prepared, approximation
from ngd_theory.fisher.block_tridiagonal import BlockTridiagonal, tridiagonal_coupling
from ngd_theory.fisher.damping import Damping, as_damping
from ngd_theory.fisher.dual import BlockDiagonal, Exact
from ngd_theory.fisher.ekfac import EKFAC
from ngd_theory.fisher.entry_wise import EntryWise
from ngd_theory.fisher.identity import Identity
from ngd_theory.fisher.kfac import KFAC
from ngd_theory.fisher.kfac_tridiagonal import KFACTridiagonal
from ngd_theory.fisher.kinds import EmpiricalFisher, SampledFisher, TrueFisher
from ngd_theory.fisher.kronecker import (
    DiagonalInverse,
    KroneckerFisher,
    TridiagonalInverse,
    invert_diagonal,
    invert_tridiagonal,
    kronecker_fisher,
)
from ngd_theory.fisher.matrix_free import ConjugateGradients, Solution
from ngd_theory.fisher.one_sided import KFACInput, KFACOutput
from ngd_theory.fisher.population import population_gradient, population_maps
from ngd_theory.fisher.premises import PREMISES
from ngd_theory.fisher.quasi_diagonal import QuasiDiagonal
from ngd_theory.fisher.registry import Approximations
from ngd_theory.fisher.shampoo import Shampoo
from ngd_theory.fisher.solve import DampedMatrix
from ngd_theory.fisher.unit_wise import UnitWise
from ngd_theory.fisher.whitened import WhitenedApproximation

#: Every approximation by its public name. One of the package has a file and an entry here; others use `register`.
APPROXIMATIONS = Approximations(
    (
        Identity,
        Exact,
        BlockDiagonal,
        BlockTridiagonal,
        KFAC,
        KFACTridiagonal,
        UnitWise,
        EntryWise,
        KFACInput,
        KFACOutput,
        EKFAC,
        Shampoo,
        QuasiDiagonal,
    )
)


def register(cls):
    """Class decorator: register an approximation from outside the package under its name.

    Write it above `approximation`. Then `by_name`, ``ngd-theory verify`` and ``run`` (with ``--import`` of the module),
    studies and reports know the class. ``verify`` runs it only if it is named. An installed package needs no
    ``--import`` if an entry point of the group ``ngd_theory.approximations`` names the class.

    Raises
    ------
    InputError
        If the class is not a concrete dataclass derived from `Approximation`, has a field without default, or has a
        name that another class has or that does not fit into a command line.
    """
    APPROXIMATIONS.add(cls)
    return cls


def by_name(name: str, **options) -> Approximation:
    """Make the approximation called ``name``.

    Parameters
    ----------
    name : str
        One of `APPROXIMATIONS`.
    **options
        Passed to the class, for example ``kind=SampledFisher(key)``.

    Raises
    ------
    InputError
        For an unknown name, an option that this approximation does not have, or a value of the wrong type.

    Examples
    --------
    >>> import ngd_theory as ngd
    >>> ngd.fisher.by_name("kfac", output_factor="uniform").name
    'kfac'
    """
    cls = choose(APPROXIMATIONS, name, "approximation")
    known = list(getattr(cls, "__dataclass_fields__", {}))
    if unknown := [option for option in options if option not in known]:
        raise InputError(
            f"approximation {name!r} does not take {', '.join(unknown)}; its options: {', '.join(known) or 'none'}"
        )
    return cls(**options)


__all__ = [
    "APPROXIMATIONS",
    "EKFAC",
    "KFAC",
    "PREMISES",
    "Approximation",
    "BlockDiagonal",
    "BlockTridiagonal",
    "ConjugateGradients",
    "DampedMatrix",
    "Damping",
    "DiagonalInverse",
    "EmpiricalFisher",
    "EntryWise",
    "Exact",
    "Identity",
    "KFACInput",
    "KFACOutput",
    "KFACTridiagonal",
    "KroneckerFisher",
    "Look",
    "Prepared",
    "QuasiDiagonal",
    "SampledFisher",
    "Shampoo",
    "Solution",
    "TridiagonalInverse",
    "TrueFisher",
    "UnitWise",
    "WhitenedApproximation",
    "approximation",
    "as_damping",
    "by_name",
    "invert_diagonal",
    "invert_tridiagonal",
    "kronecker_fisher",
    "population_gradient",
    "population_maps",
    "register",
    "tridiagonal_coupling",
]

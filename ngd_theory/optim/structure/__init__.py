"""The structure of a trained classifier's Fisher and of K-FAC's approximations of it.

This is the study of Martens & Grosse (2015), figures 2, 3, 5 and 6. It shows how near F-tilde is to the exact
Fisher, that F-tilde^-1 is nearly block-tridiagonal but F-tilde is not, and how near F-breve, F-hat and their
inverses are to F-tilde and F-tilde^-1 (docs/theory.md section 6).
"""

from ngd_theory.optim.structure.blocks import REFERENCES
from ngd_theory.optim.structure.compare import (
    GAMMA,
    MATRICES,
    FisherStructure,
    fisher_structure,
    rows,
    structure_rows,
)
from ngd_theory.optim.structure.problem import (
    UNTIL,
    WIDTHS,
    PartlyTrained,
    area_resampling,
    partly_trained,
    small_digits,
    small_digits_network,
)

__all__ = [
    "GAMMA",
    "MATRICES",
    "REFERENCES",
    "UNTIL",
    "WIDTHS",
    "FisherStructure",
    "PartlyTrained",
    "area_resampling",
    "fisher_structure",
    "partly_trained",
    "rows",
    "small_digits",
    "small_digits_network",
    "structure_rows",
]

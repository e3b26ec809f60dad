"""Floor 5: studies, their cells, the runner, the store and the statistics.

A study (TOML) is expanded into cells. `run` measures every cell once and writes one Parquet file for each; it can be
interrupted at any time. `load` reads the files as one tidy table. `evaluate` judges the study's claims on this table.
Nothing below this floor knows about files.
"""

from ngd_theory.estimates import Estimate, power_law, seed_mean
from ngd_theory.experiment.claim import Outcome
from ngd_theory.sweeps.base import AnyClaim, AnyStudy, StudyVerdict, evaluate
from ngd_theory.sweeps.cells import Cell
from ngd_theory.sweeps.kinds import KINDS, Listing, list_studies, read
from ngd_theory.sweeps.runner import Progress, Summary, run
from ngd_theory.sweeps.statistics import Rule, contraction_rate, judge
from ngd_theory.sweeps.store import load
from ngd_theory.sweeps.structure import StructureStudy
from ngd_theory.sweeps.theory import Study
from ngd_theory.sweeps.theory_claims import STATISTICS, Statistic, StudyClaim
from ngd_theory.sweeps.training import TrainingStudy

__all__ = [
    "KINDS",
    "STATISTICS",
    "AnyClaim",
    "AnyStudy",
    "Cell",
    "Estimate",
    "Listing",
    "Outcome",
    "Progress",
    "Rule",
    "Statistic",
    "StructureStudy",
    "Study",
    "StudyClaim",
    "StudyVerdict",
    "Summary",
    "TrainingStudy",
    "contraction_rate",
    "evaluate",
    "judge",
    "list_studies",
    "load",
    "power_law",
    "read",
    "run",
    "seed_mean",
]

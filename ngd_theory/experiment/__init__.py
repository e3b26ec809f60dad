"""Floor 4: one pipeline from settings to evidence, and every statement of the theory as a claim on it."""

from ngd_theory.experiment import statements  # noqa: F401 - registers the claims
from ngd_theory.experiment.building import (
    DataSize,
    data_size,
    load_data,
    make_approximation,
    make_network,
)
from ngd_theory.experiment.claim import CLAIMS, Claim, Outcome, Verdict, judge
from ngd_theory.experiment.columns import COLUMNS, Column
from ngd_theory.experiment.evidence import Evidence, LayerEvidence
from ngd_theory.experiment.experiment import Experiment
from ngd_theory.experiment.pipeline import measure
from ngd_theory.experiment.planted import PLANTED, Noticed, Planted
from ngd_theory.experiment.settings import Settings, parse
from ngd_theory.experiment.verification import Report, verify

__all__ = [
    "CLAIMS",
    "COLUMNS",
    "PLANTED",
    "Claim",
    "Column",
    "DataSize",
    "Evidence",
    "Experiment",
    "LayerEvidence",
    "Noticed",
    "Outcome",
    "Planted",
    "Report",
    "Settings",
    "Verdict",
    "data_size",
    "judge",
    "load_data",
    "make_approximation",
    "make_network",
    "measure",
    "parse",
    "verify",
]

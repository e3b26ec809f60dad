"""Floor 4: one pipeline from settings to evidence, and every statement of the theory as a claim on it."""

from ngd_theory.experiment import statements  # noqa: F401 - registers the claims
from ngd_theory.experiment.claim import CLAIMS, Claim, Outcome, Verdict, judge
from ngd_theory.experiment.columns import COLUMNS, Column
from ngd_theory.experiment.evidence import Evidence, LayerEvidence
from ngd_theory.experiment.pipeline import (
    DataSize,
    Experiment,
    Report,
    data_size,
    load_data,
    make_approximation,
    make_network,
    measure,
    verify,
)
from ngd_theory.experiment.settings import Settings, parse

__all__ = [
    "CLAIMS",
    "COLUMNS",
    "Claim",
    "Column",
    "DataSize",
    "Evidence",
    "Experiment",
    "LayerEvidence",
    "Outcome",
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

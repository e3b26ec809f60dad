"""Floor 4: every statement of the theory as an object that an experiment can contradict."""

from ngd_theory.claims import statements  # noqa: F401 - registers the claims
from ngd_theory.claims.claim import CLAIMS, Claim, Finding, Status, Verdict, judge
from ngd_theory.claims.evidence import Evidence
from ngd_theory.claims.experiment import (
    DataSize,
    Report,
    data_size,
    load_data,
    make_approximation,
    make_network,
    verify,
)
from ngd_theory.claims.settings import Settings, parse

__all__ = [
    "CLAIMS",
    "Claim",
    "DataSize",
    "Evidence",
    "Finding",
    "Report",
    "Settings",
    "Status",
    "Verdict",
    "data_size",
    "judge",
    "load_data",
    "make_approximation",
    "make_network",
    "parse",
    "verify",
]

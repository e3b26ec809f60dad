"""Floor 3: isotropy, constants and step sizes, the conditions they hold under, what training does to features."""

from ngd_theory.theory.conditions import Condition, check_conditions
from ngd_theory.theory.constants import (
    isotropy_constant,
    largest_monotone_step_size,
    optimal_step_size,
    stable_step_sizes,
    unit_wise_dispersion,
)
from ngd_theory.theory.coordinates import CoordinateCheck, coordinate_check
from ngd_theory.theory.features import FeatureChanges, feature_changes
from ngd_theory.theory.isotropy import Isotropy, isotropy
from ngd_theory.theory.memory import StepMemory, step_memory
from ngd_theory.theory.ranks import MeasuredSize, measured_constant, measured_sizes

__all__ = [
    "Condition",
    "CoordinateCheck",
    "FeatureChanges",
    "Isotropy",
    "MeasuredSize",
    "StepMemory",
    "check_conditions",
    "coordinate_check",
    "feature_changes",
    "isotropy",
    "isotropy_constant",
    "largest_monotone_step_size",
    "measured_constant",
    "measured_sizes",
    "optimal_step_size",
    "stable_step_sizes",
    "step_memory",
    "unit_wise_dispersion",
]

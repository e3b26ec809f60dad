"""Floor 3: isotropy, constants and step sizes, and the conditions they hold under."""

from ngd_theory.theory.conditions import Condition, check_conditions
from ngd_theory.theory.constants import (
    isotropy_constant,
    largest_monotone_step_size,
    optimal_step_size,
    stable_step_sizes,
    unit_wise_dispersion,
)
from ngd_theory.theory.isotropy import Isotropy, isotropy
from ngd_theory.theory.memory import StepMemory, step_memory
from ngd_theory.theory.ranks import MeasuredSize, measured_constant, measured_sizes

__all__ = [
    "Condition",
    "Isotropy",
    "MeasuredSize",
    "StepMemory",
    "check_conditions",
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

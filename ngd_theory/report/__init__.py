"""Floor 6: tables, figures and files of the results."""

from ngd_theory.report.coordinates import draw_coordinates
from ngd_theory.report.figures import draw_dynamics, draw_isotropy, draw_lazy
from ngd_theory.report.result import write_result
from ngd_theory.report.table import print_report

__all__ = [
    "draw_coordinates",
    "draw_dynamics",
    "draw_isotropy",
    "draw_lazy",
    "print_report",
    "write_result",
]

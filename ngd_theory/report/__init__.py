"""Floor 6: tables, figures and files made of what was found."""

from ngd_theory.report.figures import draw_dynamics, draw_isotropy
from ngd_theory.report.files import check_output_folder
from ngd_theory.report.result import write_result
from ngd_theory.report.table import print_report

__all__ = [
    "check_output_folder",
    "draw_dynamics",
    "draw_isotropy",
    "print_report",
    "write_result",
]

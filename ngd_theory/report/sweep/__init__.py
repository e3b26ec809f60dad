"""A sweep as figures and one self-contained HTML page.

`found.read` gathers a results folder, `curves.series` reduces a claim's rows to curves over one axis,
`panels`, `trajectories` and `lazy` draw them, `page.render` writes the page, `write_report` all of it.
"""

from ngd_theory.report.sweep.write import write_report

__all__ = ["write_report"]

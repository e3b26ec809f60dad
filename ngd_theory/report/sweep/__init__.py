"""A sweep as figures and one self-contained HTML page.

`found.read` reads a results folder. `curves.series` reduces a claim's rows to curves over one axis. `panels`,
`trajectories` and `lazy` draw them. `page.render` makes the page. `write_report` does all of it.
"""

from ngd_theory.report.sweep.write import write_report

__all__ = ["write_report"]

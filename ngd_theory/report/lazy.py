"""Gaps over epsilon on logarithmic axes, for the figures of one run and of a study."""

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes

from ngd_theory.report.style import colour, label, marker

#: Slopes that are drawn beside the gaps, and their line styles.
_SLOPES = ((1.0, "--"), (0.5, ":"))


def draw_gaps(
    axes: Axes,
    name: str,
    epsilons: Float[np.ndarray, " E"],
    gaps: Float[np.ndarray, " E"],
    shown: Bool[np.ndarray, " E"],
) -> None:
    """Draw one approximation's line. Marks are hollow if a gap is not ``shown``, that is, within rounding.

    A gap that is not finite, or 0, has no mark.
    """
    drawn = np.where(np.isfinite(gaps) & (gaps > 0), gaps, np.nan)
    axes.plot(epsilons, drawn, color=colour(name), lw=1.2, gid=f"gaps-{name}")
    for which, face in ((~shown, "none"), (shown, colour(name))):
        axes.plot(
            epsilons[which],
            drawn[which],
            linestyle="none",
            marker=marker(name),
            markersize=5,
            color=colour(name),
            markerfacecolor=face,
            label=label(name) if face != "none" else None,
        )


def finish_gaps(axes: Axes) -> None:
    """Set logarithmic axes and draw lines of slope 1 and 1/2 above all gaps. Call it after `draw_gaps`."""
    lines = [np.asarray(line.get_data(), float) for line in axes.get_lines()]
    epsilons, gaps = np.concatenate(lines, axis=1)
    high = np.nanmax(gaps, initial=0.0) or 1.0
    span = np.array([epsilons.min(), 1.0])
    for slope, dashes in _SLOPES:
        guide = 1.5 * high * span**slope
        axes.plot(span, guide, dashes, color="0.4", lw=1, label=f"slope {slope:g}", gid="slope")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(r"$\epsilon$")

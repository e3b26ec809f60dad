"""A verification run as terminal tables."""

import numpy as np
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ngd_theory.experiment import Outcome, Report

#: At most this many steps are shown; result.json has all of them.
SHOWN_STEPS = 6
_STYLES = {Outcome.PASS: "green", Outcome.FAIL: "bold red"}
_RUNS = ("training", "prediction", "limit")


def print_report(report: Report, console: Console) -> None:
    """Print the table of approximations and, below it, the claims."""
    console.print(Group(_approximations(report), _legend(report), _claims(report)))
    if report.noticed:
        console.print(Group(planted_table(report), planted_words(report)))


def planted_words(report: Report) -> Text:
    """How many of the planted errors were noticed, and which change nothing in this experiment."""
    here = [n for n in report.noticed if n.applies]
    noticed = sum(n.noticed for n in here)
    words = f"{noticed} of {len(here)} planted errors noticed"
    if rest := [n.planted.name for n in report.noticed if not n.applies]:
        words += f"; nothing to plant here: {', '.join(rest)}"
    return Text(f"{words}.", style="" if noticed == len(here) else "bold red")


def planted_table(report: Report) -> Table:
    """Each planted error, the claim off by the most tolerances, and in how many approximations a claim fails."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("planted error", no_wrap=True)
    table.add_column("noticed by", no_wrap=True)
    table.add_column("of", no_wrap=True)
    for name in ("tolerances off", "noticed in"):
        table.add_column(name, justify="right")
    table.add_column("what is wrong")
    for n in report.noticed:
        if not n.applies:
            continue
        v, seen = n.strongest, sum(v is not None for v in n.verdicts.values())
        table.add_row(
            n.planted.name,
            Text("nothing", style="bold red") if v is None else v.claim,
            "" if v is None else v.approximation,
            "" if v is None else number(v.excess),
            f"{seen} of {len(n.verdicts)}",
            Text(n.planted.meaning, style="dim"),
        )
    return table


def number(value) -> str:
    """Format a number in at most eight characters, or a dash."""
    if value is None:
        return "–"
    value = float(value)
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4g}"
    return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")


def _percent(power) -> str:
    """Format a power as a percentage."""
    return "–" if power is None or not np.isfinite(power) else f"{number(100 * power)} %"


def _stack(*values) -> Text:
    return Text("\n".join(number(v) for v in values), justify="right")


def _approximations(report: Report) -> Table:
    steps = report.settings.steps
    shown = sorted({round(i) for i in np.linspace(0, steps, min(steps + 1, SHOWN_STEPS))})
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=False)
    table.add_column("approximation", no_wrap=True)
    table.add_column("ρ", justify="right")
    table.add_column("α", justify="right")
    table.add_column("dispersion", justify="right")
    for step in shown:
        table.add_column(f"loss {step}" if step == 0 else str(step), justify="right")
    has_test = report.dataset.num_test > 0
    if has_test:
        table.add_column("test loss", justify="right")
    table.add_column("moved", justify="right")
    table.add_column("s", justify="right")
    for name, e in report.evidence.items():
        # Measured and predicted; below them the infinite width, if it was asked for.
        lines = 3 if report.settings.kernel == "infinite" else 2
        curves = [e.losses(run) for run in _RUNS[:lines]]
        cells = [number(e.damping), _stack(e.isotropy.constant, e.constant)]
        cells.append(number(e.isotropy.dispersion))
        cells += [_stack(*(_at(curve, step) for curve in curves)) for step in shown]
        if has_test:
            tests = [e.losses(run, "test") for run in _RUNS[:lines]]
            cells.append(_stack(*(_at(curve, -1) for curve in tests)))
        moved = e.training.parameter_distances
        cells.append(_stack(None if moved is None else moved[-1], e.predicted_distance))
        table.add_row(name, *cells, f"{e.seconds:.1f}")
    return table


def _at(curve, step):
    return None if curve is None or step >= len(curve) else curve[step]


def _legend(report: Report) -> Text:
    s = report.settings
    mse = s.loss == "mse"
    lines = [
        "Upper line measured, lower line predicted"
        + (", third the infinite width's prediction." if s.kernel == "infinite" else "."),
        f"ρ: damping; --damping is {s.damping:g}. K-FAC gets its square, whose root damps each factor.",
        "α: tr K/(NC)." if mse else "α: tr KΛ/rank Λ, with Λ = RRᵀ the Fisher of the outputs.",
        f"dispersion: of {'K' if mse else 'RᵀKR, on the range of Λ'}, 0 if isotropic.",
        f"loss: training loss after each step at ηα = {s.step_scale:g} (without an α: at η λ_max(K) = "
        f"{s.step_scale:g}); test loss after the last; inf: beyond the range of floats, –: not made.",
        "moved: ‖θ_T − θ_0‖.",
    ]
    if words := next(iter(report.evidence.values())).scheme:
        lines.append(f"Steps: {words}; α in ηα is that of what a step sees.")
    by_reason: dict[str, list[str]] = {}
    for name, why in s.left_out.items():
        by_reason.setdefault(why, []).append(name)
    lines += [f"Not run: {', '.join(names)}: {why}." for why, names in by_reason.items()]
    return Text(" ".join(lines), style="dim")


def _claims(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("claim", no_wrap=True)
    table.add_column("approximation", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for name in ("measured", "predicted", "tolerance", "notices"):
        table.add_column(name, justify="right")
    table.add_column("what is compared; source")
    last = None
    for v in report.verdicts:
        if v.claim != last:
            table.add_section()
            table.add_row(Text(v.claim, style="bold"), *[""] * 6, Text(v.statement))
        applies = v.outcome is not Outcome.NOT_APPLICABLE
        table.add_row(
            "",
            v.approximation,
            Text(str(v.outcome), style=_STYLES.get(v.outcome, "yellow")),
            number(v.measured) if applies else "",
            number(v.predicted) if applies else "",
            number(v.tolerance) if applies else "",
            _percent(v.power) if applies else "",
            Text(v.why if v.claim == last else f"{v.why} [{v.source}]", style="dim"),
        )
        last = v.claim
    return table

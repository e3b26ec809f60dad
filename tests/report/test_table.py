"""The table says what was found, at any width of the terminal."""

import io
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from ngd_theory.experiment import Outcome
from ngd_theory.report import print_report
from ngd_theory.report.table import number


def printed(report, width):
    text = io.StringIO()
    print_report(report, Console(file=text, width=width))
    return text.getvalue()


@pytest.mark.parametrize(
    "value, shown",
    [
        (None, "–"),
        (0.0, "0"),
        (1, "1"),
        (1.0, "1"),
        (0.5, "0.5"),
        (-0.5, "-0.5"),
        (0.001, "0.001"),
        (0.00123456, "0.001235"),
        (1234.5678, "1235"),
        (0.000999, "1.0e-3"),
        (1e-16, "1.0e-16"),
        (-2.5e-7, "-2.5e-7"),
        (123456.0, "1.2e5"),
        (1e100, "1.0e+100"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (np.float32(0.25), "0.25"),
    ],
)
def test_numbers_are_short(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize("power", range(-12, 13))
@pytest.mark.parametrize("sign", [1, -1])
def test_a_number_takes_eight_characters_and_a_sign_and_keeps_two_digits(power, sign):
    value = sign * 1.23456789 * 10.0**power
    assert len(number(value).lstrip("-")) <= 8
    assert float(number(value)) == pytest.approx(value, rel=0.05)


@pytest.mark.parametrize("width", [20, 40, 80, 100, 140, 240])
def test_the_table_prints_at_any_width(report, width):
    text = printed(report, width)
    assert max(len(line) for line in text.splitlines()) <= width


def test_the_table_has_a_row_an_approximation_and_the_claims(report):
    text = printed(report, 140)
    for words in ("approximation", "dispersion", "test loss", "identity", "exact"):
        assert words in text
    for verdict in report.verdicts:
        assert verdict.claim in text
        assert str(verdict.outcome) in text
    flat = "".join(text.split())
    for verdict in report.verdicts:
        assert "".join(verdict.statement.split())[:20] in flat


def test_words_are_not_cut_at_80_columns(report):
    """A statement may wrap; a verdict and the name of an approximation may not be lost."""
    text = printed(report, 80)
    for verdict in report.verdicts:
        assert verdict.approximation in text and str(verdict.outcome) in text


def test_a_failure_is_shown_as_one(report):
    failed = replace(report.verdicts[0], outcome=Outcome.FAIL, measured=0.123, tolerance=1e-9)
    text = printed(replace(report, verdicts=(failed,)), 120)
    assert "FAIL" in text and "0.123" in text and "1.0e-9" in text


def test_brackets_in_words_are_not_markup(report):
    odd = replace(report.verdicts[0], why="[bold]not markup[/bold] [/]", statement="[red]x[/red]")
    text = printed(replace(report, verdicts=(odd,)), 200)
    assert "[bold]not markup[/bold] [/]" in text and "[red]x[/red]" in text


def test_a_run_that_stopped_early_shows_dashes(report):
    evidence = report.evidence["exact"]
    run = replace(evidence.training, losses=jnp.asarray([1.0, 1e30]), diverged=True)
    broken = replace(report, evidence={**report.evidence, "exact": replace(evidence, training=run)})
    text = printed(broken, 140)
    assert "1.0e+30" in text and "–" in text


@pytest.mark.parametrize("steps", [1, 2, 7, 200])
def test_at_most_six_steps_are_shown_the_last_among_them(report, steps):
    settings = report.settings.model_copy(update={"steps": steps})
    header = printed(replace(report, settings=settings), 200).splitlines()[1]
    shown = [int(w) for w in header.replace("loss 0", "0").split() if w.isdigit()]
    assert len(shown) == min(steps + 1, 6)
    assert shown[0] == 0 and shown[-1] == steps


def test_the_infinite_width_is_a_third_line_where_it_was_asked_for(report):
    assert "infinite width" not in printed(report, 160)
    evidence = {n: replace(e, limit=e.prediction) for n, e in report.evidence.items()}
    settings = report.settings.model_copy(update={"kernel": "infinite"})
    shown = printed(replace(report, evidence=evidence, settings=settings), 160)
    assert "third the infinite width's prediction" in shown
    assert shown.count("\n") == printed(report, 160).count("\n") + len(evidence)


def test_the_damping_that_each_was_given_is_a_column(report):
    squared = replace(report.evidence["exact"], damping=1e-16)
    text = printed(replace(report, evidence={**report.evidence, "exact": squared}), 140)
    rows = [line.split() for line in text.split("claim ")[0].splitlines()]
    shown = {row[0]: row[1] for row in rows if row and row[0] in report.evidence}
    assert shown == {"identity": "1.0e-8", "exact": "1.0e-16"}


def test_a_loss_beyond_the_range_of_floats_is_infinite(report):
    evidence = report.evidence["exact"]
    run = replace(evidence.training, losses=jnp.asarray([1.0, jnp.nan, 2.0, jnp.inf]))
    broken = replace(report, evidence={**report.evidence, "exact": replace(evidence, training=run)})
    text = printed(broken, 140).split("claim ")[0]
    assert "nan" not in text and "inf" in text

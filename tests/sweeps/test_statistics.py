import math

import numpy as np
import pytest

from ngd_theory.errors import InputError
from ngd_theory.estimates import LEVEL
from ngd_theory.sweeps import Outcome, Rule, contraction_rate, judge, power_law, seed_mean
from ngd_theory.sweeps.statistics import more_seeds

WIDTHS = np.array([64, 128, 256, 512, 1024])


def measurements(exponent, seeds, noise, rng):
    x = np.tile(WIDTHS, seeds)
    seed = np.repeat(np.arange(seeds), len(WIDTHS))
    return x, 3 * x**exponent * np.exp(noise * rng.standard_normal(x.size)), seed


def test_exponent_of_an_exact_power_law_is_exact():
    found = power_law(*measurements(-0.5, 4, 0.0, np.random.default_rng(0)))
    assert found.value == pytest.approx(-0.5, abs=1e-12)
    assert found.high - found.low < 1e-12


@pytest.mark.parametrize("seeds", [4, 10])
def test_intervals_cover_the_true_exponent_as_often_as_they_say(seeds):
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        found = power_law(*measurements(-0.5, seeds, 0.3, rng))
        covered += found.low <= -0.5 <= found.high
    assert abs(covered / 400 - LEVEL) < 0.035


@pytest.mark.parametrize(
    ("exponent", "outcome"),
    [
        (-0.7, Outcome.PASS),
        (-0.1, Outcome.FAIL),
        (0.0, Outcome.FAIL),
        (-0.41, Outcome.INCONCLUSIVE),
    ],
)
def test_the_three_way_rule_on_synthetic_power_laws(exponent, outcome):
    found = power_law(*measurements(exponent, 6, 0.2, np.random.default_rng(2)))
    assert judge(found, Rule.parse("<= -0.4"))[0] is outcome


def test_more_seeds_as_many_as_asked_for_decide():
    rng = np.random.default_rng(3)
    few = power_law(*measurements(-0.47, 5, 0.4, rng))
    rule = Rule.parse("<= -0.4")
    assert judge(few, rule)[0] is Outcome.INCONCLUSIVE
    more = more_seeds(few, rule)
    assert f"about {more} more seeds" in judge(few, rule)[1]
    # Twice as many, as the estimate itself moves.
    many = power_law(*measurements(-0.47, 5 + 2 * more, 0.4, rng))
    assert judge(many, rule)[0] is Outcome.PASS


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 1.0], [1.0, 2.0, np.inf], [1.0, 2.0, np.nan]])
def test_too_few_or_infinite_numbers_decide_nothing(values):
    assert judge(seed_mean(values), Rule.parse("<= 5"))[0] is Outcome.INCONCLUSIVE


def test_equal_numbers_have_no_spread():
    assert (seed_mean([2.0] * 3).low, seed_mean([2.0] * 3).high) == (2.0, 2.0)


def test_no_number_of_seeds_tells_a_value_on_the_bound():
    assert more_seeds(seed_mean([-1.0, 0.0, 1.0]), Rule.parse("<= 0")) is None


def test_a_power_law_needs_positive_values():
    x, y, seed = measurements(-0.5, 3, 0.1, np.random.default_rng(0))
    y[3] = 0
    assert math.isnan(power_law(x, y, seed).value)
    with pytest.raises(InputError, match="two different x"):
        power_law([1, 1, 1], [1, 2, 3], [0, 0, 0])
    with pytest.raises(InputError, match="positive x"):
        power_law([0, 1], [1, 2], [0, 0])


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [("<= -0.5", -math.inf, -0.5), (">=1e-3", 1e-3, math.inf), ("in [-0.6, -.4]", -0.6, -0.4)],
)
def test_rules_are_read(text, low, high):
    assert Rule.parse(text) == Rule(low, high)


@pytest.mark.parametrize("text", ["", "< 1", "<= x", "in [2, 1]", "in (1, 2)"])
def test_other_rules_are_refused(text):
    with pytest.raises(InputError, match="rule"):
        Rule.parse(text)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 1.2])
def test_rate_of_a_geometric_residual(rate):
    assert contraction_rate(7 * rate ** np.arange(8)) == pytest.approx(rate, rel=1e-12)


def test_rate_ignores_what_lies_below_the_round_off_floor():
    residuals = np.maximum(0.01 ** np.arange(20), 1e-16)
    assert contraction_rate(residuals) == pytest.approx(0.01, rel=1e-9)
    # Without a floor the plateau makes it look slow.
    assert contraction_rate(residuals, floor=0) > 0.1


def test_rate_of_one_step_to_the_floor_is_its_upper_end():
    assert contraction_rate([1.0, 1e-16, 1e-16]) == 1e-16


def test_rate_stops_at_an_infinity():
    assert contraction_rate([1.0, 10.0, 100.0, np.inf]) == pytest.approx(10)


@pytest.mark.parametrize("residuals", [[1.0], [0.0, 1.0], [1.0, np.nan]])
def test_a_rate_needs_two_residuals(residuals):
    with pytest.raises(InputError, match="two finite"):
        contraction_rate(residuals)

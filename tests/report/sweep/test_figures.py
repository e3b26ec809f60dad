"""The figures hold the numbers that were measured, and what the theory says of them."""

import made_up
import numpy as np
import pytest
from matplotlib.text import Text

from ngd_theory import sweeps
from ngd_theory.report.sweep.captions import lazy_caption
from ngd_theory.report.sweep.curves import series
from ngd_theory.report.sweep.lazy import draw_lazy_gaps, lazy_gaps
from ngd_theory.report.sweep.panels import draw
from ngd_theory.report.sweep.trajectories import draw_trajectories, trajectories

GAP = {"statement": "s", "statistic": "exponent", "of": "gap", "rule": "<= 0"}
LEVEL = {"statement": "s", "statistic": "max", "of": "dispersion", "rule": "<= 1e-3"}
RATE = {"statement": "s", "statistic": "rate", "rule": "<= 0.9"}


@pytest.fixture
def drawn(make_study, tmp_path):
    """Axes of the figure of a study's only claim."""

    def make(claim, measure=made_up.measure, **changes):
        study = make_study(claims=[claim], **changes)
        sweeps.run(study, tmp_path, measure=measure)
        figure = draw(series(study, study.claims[0], sweeps.load(tmp_path)))
        figure.draw_without_rendering()
        return [axes for axes in figure.axes if axes.axison]

    return make


def line(axes, gid):
    (found,) = [one for one in axes.get_lines() if one.get_gid() == gid]
    return np.asarray(found.get_xdata(), float), np.asarray(found.get_ydata(), float)


def texts(axes):
    return " ".join(text.get_text() for text in axes.texts)


def test_an_exponent_is_drawn_over_its_axis_on_logarithms(drawn):
    (axes,) = drawn(GAP)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    for name, factor in (("exact", 1), ("kfac", 2)):
        x, y = line(axes, f"centre-{name}")
        np.testing.assert_array_equal(x, [16, 32, 64])
        np.testing.assert_allclose(y, factor * 6 ** (1 / 3) * x**-0.5)
        x, y = line(axes, f"fit-{name}")
        np.testing.assert_allclose(np.diff(np.log(y)) / np.diff(np.log(x)), -0.5)
        np.testing.assert_allclose(y, factor * 6 ** (1 / 3) * x**-0.5)
    assert "exact  −0.50" in texts(axes) and "K-FAC  −0.50" in texts(axes)


def test_the_slope_drawn_is_the_one_judged(make_study, tmp_path, drawn):
    def noisy(cell):
        rng = np.random.default_rng(int(cell.id[:8], 16))
        return [row | {"gap": row["gap"] * rng.uniform(0.5, 2)} for row in made_up.measure(cell)]

    (axes,) = drawn(GAP, noisy)
    verdicts = sweeps.evaluate(make_study(claims=[GAP]), sweeps.load(tmp_path))
    for verdict in verdicts:
        x, y = line(axes, f"fit-{verdict.approximation}")
        np.testing.assert_allclose(np.diff(np.log(y)) / np.diff(np.log(x)), verdict.estimate.value)
        assert abs(verdict.estimate.value + 0.5) > 1e-3


def test_the_band_spans_the_seeds(drawn):
    (axes,) = drawn({**GAP, "approximations": ["exact"]})
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    at_64 = corners[np.isclose(corners[:, 0], 64), 1]
    np.testing.assert_allclose([at_64.min(), at_64.max()], [0.125, 0.375])


def test_a_column_is_drawn_over_the_width_with_the_rules_bound(drawn):
    (axes,) = drawn(LEVEL)
    x, y = line(axes, "centre-kfac")
    # Seeds have the factors 1, 2, 3: their mean, which the verdict judges.
    np.testing.assert_allclose(y, 1e-6 * 2 / x)
    assert set(line(axes, "level")[1]) == {1e-3}
    assert axes.get_ylim()[1] > 1e-3 and axes.get_yscale() == "log"
    assert axes.get_xlabel().startswith("width")
    assert "rule: ≤ 0.001" in texts(axes)


def test_both_ends_of_a_range_are_drawn(drawn):
    (axes,) = drawn({**LEVEL, "rule": "in [1e-8, 1e-3]"})
    levels = [one.get_ydata()[0] for one in axes.get_lines() if one.get_gid() == "level"]
    assert levels == [1e-8, 1e-3]


def test_the_rate_is_drawn_over_the_step_scale_with_its_theory(drawn):
    scales = [0.25, 0.5, 1.0, 1.5]
    grid = {"width": [16, 32], "seed": [0, 1, 2]}
    (axes,) = drawn(RATE, step_scales=scales, grid=grid)
    x, y = line(axes, "centre-exact")
    np.testing.assert_array_equal(x, scales)
    np.testing.assert_allclose(y, np.abs(1 - x) + 0.01)
    x, y = line(axes, "theory")
    np.testing.assert_allclose(y, np.abs(1 - x))
    assert (x[0], x[-1]) == (0.25, 1.5)
    assert "ηα" in axes.get_xlabel() and axes.get_xscale() == "linear"


def test_at_one_step_scale_the_rate_is_drawn_over_the_width(drawn):
    (axes,) = drawn(RATE)
    np.testing.assert_array_equal(line(axes, "centre-exact")[0], [16, 32, 64])
    levels = [one.get_ydata()[0] for one in axes.get_lines() if one.get_gid() == "level"]
    assert levels == [0.5, 0.9]


def test_where_only_the_seed_varies_every_cell_is_a_dot(drawn):
    (axes,) = drawn({**LEVEL, "where": {"width": 32}})
    dots = [one for one in axes.get_lines() if one.get_linestyle() == "None"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["exact", "K-FAC"]
    for one in dots:
        np.testing.assert_allclose(one.get_ydata(), 1e-6 * np.array([1, 2, 3]) / 32)
    assert len(dots) == 2


def test_each_value_of_each_has_a_panel(drawn):
    axes = drawn({**GAP, "each": ["damping"]}, damping=[1e-6, 1e-4, 1e-2, 1.0])
    assert [one.get_title().split("\n")[0] for one in axes] == [
        f"damping ρ = {value}" for value in ("1e-06", "0.0001", "0.01", "1.0")
    ]
    for one in axes:
        np.testing.assert_allclose(line(one, "centre-exact")[1][0], 6 ** (1 / 3) / 4)


def test_settings_without_an_order_have_panels_but_not_in_a_fit(drawn, tmp_path, make_study):
    grid = {"width": [16, 32, 64], "activation": ["relu", "tanh"], "seed": [0, 1, 2]}
    titles = [axes.get_title() for axes in drawn(LEVEL, grid=grid)]
    assert titles == ["activation = relu", "activation = tanh"]
    study = make_study(claims=[GAP], grid=grid)
    found = series(study, study.claims[0], sweeps.load(tmp_path))
    assert (len(found.panels), found.pooled) == (1, ("activation",))


def test_numbers_that_are_not_finite_are_left_out(drawn):
    def diverges(cell):
        bad = cell.settings.seed == 2
        return [row | ({"gap": np.inf} if bad else {}) for row in made_up.measure(cell)]

    (axes,) = drawn({**GAP, "statistic": "max", "rule": "<= 10"}, diverges)
    np.testing.assert_allclose(line(axes, "centre-exact")[1].max(), np.mean([1, 2]) / 4, rtol=0.1)


@pytest.mark.parametrize("value", [0.0, np.inf])
def test_a_number_that_no_power_law_has_leaves_no_fit(drawn, value):
    def broken(cell):
        bad = cell.settings.seed == 2
        return [row | ({"gap": value} if bad else {}) for row in made_up.measure(cell)]

    (axes,) = drawn({**GAP, "approximations": ["exact"]}, broken)
    np.testing.assert_allclose(
        line(axes, "centre-exact")[1], [(2 / w) ** 0.5 for w in (16, 32, 64)]
    )
    assert not [one for one in axes.get_lines() if one.get_gid() == "fit-exact"]
    assert texts(axes) == "exact"


def test_labels_do_not_lie_over_each_other(drawn):
    names = ["exact", "block-diagonal", "block-tridiagonal", "kfac", "unit-wise", "entry-wise"]
    (axes,) = drawn(LEVEL, approximations=names, allow=["width"])
    # Of the words, without the line that leads from the curve to them.
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    assert len(boxes) == 7
    for i, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[i + 1 :])
        assert axes.figure.bbox.contains(one.x0, one.y0)
        assert axes.figure.bbox.contains(one.x1, one.y1)


@pytest.fixture
def trained(make_study, tmp_path):
    def make(measure=made_up.measure, **changes):
        study = make_study(claims=None, **changes)
        sweeps.run(study, tmp_path, measure=measure)
        return trajectories(study, sweeps.load(tmp_path))

    return make


def test_trajectories_show_residual_and_test_loss_with_predictions(trained):
    figure = draw_trajectories(trained())
    assert len(figure.axes) == 3 * 2
    assert [axes.get_title() for axes in figure.axes[:3]] == [
        f"width M = {value}" for value in (16, 32, 64)
    ]
    for axes, base, offset in ((figure.axes[0], 0.51, 0.0), (figure.axes[3], 0.5, 0.5)):
        x, y = line(axes, "centre-exact")
        np.testing.assert_array_equal(x, [0, 1, 2, 3])
        np.testing.assert_allclose(y, offset + base**x)
    dashed = [one for one in figure.axes[0].get_lines() if one.get_linestyle() == "--"]
    assert any(np.allclose(one.get_ydata(), [1, 0.5, 0.25, 0.125]) for one in dashed)


def test_a_prediction_of_zero_leaves_room_for_what_was_measured(trained):
    figure = draw_trajectories(trained(step_scales=1.0))
    low, high = figure.axes[0].get_ylim()
    # Measured: 0.01^3 after three steps.
    assert 1e-8 < low < 1e-6 and high >= 1


def test_step_scales_are_compared_before_widths_and_the_rest_is_held(trained):
    found = trained(step_scales=[0.1, 0.2, 0.3, 0.4, 0.5])
    assert [where for where, _ in found.points] == [{"step_scale": v} for v in (0.1, 0.3, 0.5)]
    assert found.fixed == {"width": 64}
    assert all(set(rows["width"]) == {64} for _, rows in found.points)


def test_without_a_measured_trajectory_there_is_no_such_figure(make_study, tmp_path):
    study = make_study(claims=None, measure=["gap"])
    sweeps.run(study, tmp_path, measure=made_up.measure)
    assert trajectories(study, sweeps.load(tmp_path)) is None


@pytest.fixture
def lazily(make_study, tmp_path):
    """Gaps of a study with a row an epsilon, (1 + seed) epsilon; K-FAC's smallest is rounding for one seed."""

    def rows(cell):
        seed = cell.settings.seed
        base = {"applicable": True, "reason": "", "step": 3, "damping_used": 1e-8, "layer": 0}
        epsilons = (1e-6, 1e-2, 1.0)
        return made_up.measure(cell) + [
            {
                **base,
                "approximation": name,
                "epsilon": e,
                "epsilon_gap": (1 + seed) * e * cell.settings.width**-0.5,
                "epsilon_rounding": 1e-3 if (name, seed, e) == ("kfac", 1, 1e-6) else 1e-12,
            }
            for name in cell.settings.chosen_approximations
            for e in epsilons
        ]

    def make(**changes):
        study = make_study(**{"claims": None, "measure": ["gap", "lazy"]} | changes)
        sweeps.run(study, tmp_path, measure=rows)
        return study, sweeps.load(tmp_path)

    return make


def test_gaps_are_drawn_over_epsilon_with_hollow_marks_within_rounding(lazily):
    found = lazy_gaps(*lazily())
    figure = draw_lazy_gaps(found)
    assert [axes.get_title() for axes in figure.axes] == [f"width M = {m}" for m in (16, 32, 64)]
    for axes, width in zip(figure.axes, (16, 32, 64), strict=True):
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        for name, hollow in (("exact", 0), ("kfac", 1)):
            x, y = line(axes, f"gaps-{name}")
            np.testing.assert_array_equal(x, [1e-6, 1e-2, 1])
            np.testing.assert_allclose(y, 6 ** (1 / 3) * x * width**-0.5)
            place = [one.get_gid() for one in axes.get_lines()].index(f"gaps-{name}")
            marks = axes.get_lines()[place + 1]
            assert (marks.get_markerfacecolor(), len(marks.get_xdata())) == ("none", hollow)
        slopes = [one for one in axes.get_lines() if one.get_gid() == "slope"]
        assert [one.get_label() for one in slopes] == ["slope 1", "slope 0.5"]


def test_activations_have_panels_before_widths(lazily):
    grid = {"activation": ["tanh", "erf", "gelu", "relu"], "width": [16, 32], "seed": [0, 1]}
    found = lazy_gaps(*lazily(grid=grid))
    names = ["erf", "gelu", "relu", "tanh"]
    assert [where for where, _ in found.points] == [{"activation": name} for name in names]
    assert found.fixed == {"width": 32} and all(set(r["width"]) == {32} for _, r in found.points)
    assert lazy_caption(found).endswith("Held at width M = 32.")


def test_without_the_lazy_family_there_is_no_such_figure(lazily):
    study, frame = lazily()
    assert lazy_gaps(study.model_copy(update={"measure": ("gap",)}), frame) is None
    assert lazy_gaps(study, frame[frame["epsilon"].isna()]) is None


def test_a_claim_reads_no_row_of_an_epsilon(lazily):
    """Their columns of steps are empty, which would be a number that is missing."""
    study, frame = lazily(claims=[GAP])
    for verdict in sweeps.evaluate(study, frame):
        assert verdict.estimate.value == pytest.approx(made_up.EXPONENT)

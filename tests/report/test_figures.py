"""Figures are valid images of a size to look at, whatever the numbers."""

import os
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from ngd_theory import fisher
from ngd_theory.report import draw_dynamics, draw_isotropy, draw_lazy
from ngd_theory.report.lazy import draw_gaps, finish_gaps
from ngd_theory.report.style import colour, label, marker

DRAW = {"dynamics": draw_dynamics, "isotropy": draw_isotropy, "lazy": draw_lazy}


def image(path):
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    pixels = imread(path)
    height, width, channels = pixels.shape
    assert 200 < height < 3000 and 300 < width < 3000 and channels in (3, 4)
    assert pixels[..., :3].std() > 0.01, "the image is blank"
    return pixels


def without_test_rows(report):
    dataset = replace(
        report.dataset,
        test_inputs=report.dataset.test_inputs[:0],
        test_targets=report.dataset.test_targets[:0],
    )
    return replace(report, dataset=dataset)


@pytest.mark.parametrize("name", DRAW)
def test_the_figure_is_an_image(report, tmp_path, name):
    DRAW[name](report, tmp_path / "figure.png")
    image(tmp_path / "figure.png")
    assert os.listdir(tmp_path) == ["figure.png"]


def test_without_a_test_set_the_figure_has_one_panel(report, tmp_path):
    draw_dynamics(report, tmp_path / "both.png")
    draw_dynamics(without_test_rows(report), tmp_path / "one.png")
    assert image(tmp_path / "one.png").shape[1] < image(tmp_path / "both.png").shape[1]


def test_seven_maps_are_drawn_beside_each_other(report, tmp_path):
    names = list(fisher.APPROXIMATIONS)
    many = replace(
        report,
        evidence=dict.fromkeys(names, report.evidence["exact"]),
    )
    draw_isotropy(many, tmp_path / "figure.png")
    draw_isotropy(report, tmp_path / "two.png")
    seven, two = image(tmp_path / "figure.png"), image(tmp_path / "two.png")
    assert seven.shape[0] > two.shape[0] and seven.shape[1] > two.shape[1]


def test_a_map_is_shown_over_its_own_mean_eigenvalue(report, tmp_path):
    """Scaling K changes nothing: the heat map is of K/alpha."""
    larger = {n: replace(e, map=1e6 * e.map) for n, e in report.evidence.items()}
    scaled = replace(report, evidence=larger)
    draw_isotropy(report, tmp_path / "a.png")
    draw_isotropy(scaled, tmp_path / "b.png")
    np.testing.assert_array_equal(image(tmp_path / "a.png"), image(tmp_path / "b.png"))


def test_a_divergence_is_drawn(report, tmp_path):
    evidence = report.evidence["exact"]
    run = replace(evidence.training, losses=jnp.asarray([1.0, 1e30]), diverged=True)
    broken = replace(report, evidence={**report.evidence, "exact": replace(evidence, training=run)})
    draw_dynamics(broken, tmp_path / "figure.png")
    image(tmp_path / "figure.png")


def test_gaps_within_rounding_are_hollow_and_those_that_are_no_numbers_are_left_out():
    axes = Figure().subplots()
    epsilons = np.array([1e-6, 1e-4, 1e-2, 1.0])
    gaps = np.array([1e-9, 2e-5, 2e-3, np.inf])
    draw_gaps(axes, "exact", epsilons, gaps, np.array([False, True, True, True]))
    finish_gaps(axes)
    curve, hollow, filled, first, half = axes.get_lines()
    np.testing.assert_array_equal(curve.get_ydata(), [*gaps[:3], np.nan])
    np.testing.assert_array_equal(hollow.get_ydata(), gaps[:1])
    np.testing.assert_array_equal(filled.get_ydata(), [*gaps[1:3], np.nan])
    assert hollow.get_markerfacecolor() == "none" != filled.get_markerfacecolor()
    for guide, slope in ((first, 1), (half, 0.5)):
        x, y = np.log(guide.get_xdata()), np.log(guide.get_ydata())
        np.testing.assert_allclose((y[1] - y[0]) / (x[1] - x[0]), slope)
        assert guide.get_ydata()[1] > 2e-3 and guide.get_xdata()[0] == 1e-6


def test_gaps_of_which_none_is_a_number_leave_the_lines_of_slopes():
    axes = Figure().subplots()
    draw_gaps(axes, "exact", np.array([0.1, 1.0]), np.full(2, np.inf), np.full(2, True))
    finish_gaps(axes)
    assert all(np.isfinite(line.get_ydata()).all() for line in axes.get_lines()[-2:])


@pytest.mark.parametrize("name", DRAW)
def test_a_failure_while_drawing_keeps_the_old_figure(report, tmp_path, monkeypatch, name):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")

    def half(self, where, **keywords):
        where.write_bytes(b"\x89PNG")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="No space left"):
        DRAW[name](report, path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["figure.png"]


def test_every_approximation_has_a_look_of_its_own():
    names = [*fisher.APPROXIMATIONS, "mine"]
    assert len({colour(n) for n in names}) == len({marker(n) for n in names}) == len(names)


def test_an_approximation_of_a_users_own_has_a_look_too():
    assert label("mine") == "mine" and colour("mine").startswith("#") and marker("mine")

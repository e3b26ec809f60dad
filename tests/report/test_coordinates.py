"""The figure of a coordinate check is an image, whatever the numbers, and shows the exponents."""

from dataclasses import replace
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from ngd_theory.errors import InputError
from ngd_theory.report import coordinates, draw_coordinates
from ngd_theory.theory import CoordinateCheck


def made_up(depth=3):
    """Features of gradient descent change as M^(-1/2), K-FAC's as M^0."""
    widths = (64, 128, 256)
    powers = np.array([-0.5, 0.0])[:, None, None, None, None]
    change = np.array(widths, float)[None, :, None, None, None] ** powers
    change = np.broadcast_to(change, (2, 3, 2, 2, 1))
    made, seen = (np.repeat(change, k, axis=4) for k in (depth, depth - 1))
    names = tuple(str(n + 1) for n in range(depth))
    return CoordinateCheck(
        ("identity", "kfac"), widths, (0, 1), names, made, seen, made, seen, np.ones((2, 3, 2))
    )


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draw a check: its figure."""
    figures = []

    class Kept(Figure):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            figures.append(self)

    monkeypatch.setattr(coordinates, "Figure", Kept)

    def draw(check, **how):
        draw_coordinates(check, tmp_path / "figure.png", **how)
        pixels = imread(tmp_path / "figure.png")
        assert pixels[..., :3].std() > 0.01, "the image is blank"
        return figures[-1]

    return draw


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_there_is_a_panel_a_layer_with_the_exponents(drawn, depth):
    figure = drawn(made_up(depth))
    panels = [axes for axes in figure.axes if axes.axison]
    assert len(panels) == 2 * depth - 1
    for axes in panels:
        texts = [text.get_text() for text in axes.get_legend().get_texts()]
        assert [text.split()[-1] for text in texts] == ["−0.50", "0.00"]
        assert {line.get_gid() for line in axes.get_lines()} >= {"slope0", "slope-0.5"}
    assert "after 2 steps, 2 seeds" in figure.get_suptitle()
    assert "after 1 step," in drawn(made_up(depth), step=0).get_suptitle()
    assert mpl.rcParams["axes.spines.top"], "the look of the figure stays with it"


def test_what_is_no_number_is_left_out(drawn):
    check = made_up()
    broken = check.relative_features.copy()
    broken[0, 1] = np.nan
    broken[1, 0] = 0.0
    figure = drawn(replace(check, relative_features=broken))
    lines = {line.get_gid(): line for line in figure.axes[0].get_lines()}
    assert np.isnan(np.asarray(lines["change-identity"].get_ydata())).tolist() == [
        False,
        True,
        False,
    ]
    assert np.isnan(np.asarray(lines["change-kfac"].get_ydata())).tolist() == [True, False, False]
    # No exponent beside the name.
    assert not any("0" in text.get_text() for text in figure.axes[0].get_legend().get_texts())
    drawn(replace(check, relative_features=np.full_like(broken, np.nan)))


def test_a_check_of_something_else_is_refused(tmp_path):
    other: Any = {"features": 1}
    with pytest.raises(InputError, match="of type CoordinateCheck"):
        draw_coordinates(other, tmp_path / "figure.png")

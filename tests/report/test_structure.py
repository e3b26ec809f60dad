"""Figures of a Fisher's structure are files that show something."""

import jax
import numpy as np
import pytest
from matplotlib.image import imread

from ngd_theory.networks import sparse_init
from ngd_theory.optim import structure as st
from ngd_theory.report import structure as drawing


@pytest.fixture(scope="module")
def structure():
    # The shapes of tests/optim/test_structure.py, so that its compiled programs serve again.
    network = st.small_digits_network((9, 4, 4, 4, 5, 3))
    x = np.random.default_rng(0).normal(size=(40, 9))
    params = sparse_init(network, jax.random.key(0), num_connections=4)
    return st.fisher_structure(network, params, x, damping=0.05)


def test_every_figure_is_written_and_not_empty(structure, tmp_path):
    paths = drawing.write_structure(structure, tmp_path / "new")
    assert {p.name for p in paths} == {f"{n}.{k}" for n in drawing.FIGURES for k in ("png", "pdf")}
    assert sorted(paths) == sorted((tmp_path / "new").iterdir())
    for path in paths:
        if path.suffix == ".pdf":
            content = path.read_bytes()
            assert content[:5] == b"%PDF-" and b"CreationDate" not in content
            continue
        pixels = imread(path)
        assert 300 < pixels.shape[0] < 3000 and 300 < pixels.shape[1] < 3000
        assert pixels[..., :3].std() > 0.01, "the image is blank"


@pytest.mark.parametrize(("name", "panels"), [("exact", 3), ("inverse", 4), ("approximations", 10)])
def test_panels_show_the_entries_on_one_scale_a_row(structure, name, panels):
    figure = drawing.FIGURES[f"fisher_structure_{name}"](structure)
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(images) == panels
    first = "exact" if name == "exact" else "kronecker-damped"
    np.testing.assert_array_equal(images[0].get_array(), np.abs(structure.dense[first]))
    if name != "inverse":
        for row in (images[: len(images) // 2], images[len(images) // 2 :])[: panels // 5 or 1]:
            assert len({image.norm.vmax for image in row}) == 1


def test_the_means_are_those_of_all_layers_over_the_diagonal_ones(structure):
    figure = drawing.inverse_figure(structure)
    sixth = [axes.images[0] for axes in figure.axes if axes.images and len(axes.texts) == 25]
    assert len(sixth) == 2
    for image, name in zip(sixth, ("kronecker-damped", "kronecker-inverse"), strict=True):
        means = structure.means[name]
        expected = means / np.sqrt(np.outer(np.diag(means), np.diag(means)))
        np.testing.assert_allclose(image.get_array(), expected)


def test_a_difference_says_how_large_it_is(structure):
    titles = [axes.get_title() for axes in drawing.exact_figure(structure).axes]
    assert any(f"{structure.error('kronecker'):.2g} of" in title for title in titles)

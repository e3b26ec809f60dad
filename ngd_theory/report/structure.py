"""Figures of the structure of a Fisher and its approximations, after Martens & Grosse (2015), figures 2, 3, 5 and 6."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from ngd_theory.files import written
from ngd_theory.optim.structure import REFERENCES, FisherStructure
from ngd_theory.report.style import RC

SYMBOLS = {
    "exact": r"$F$",
    "kronecker": r"$\tilde{F}$",
    "kronecker-damped": r"$\tilde{F}$",
    "block-diagonal": r"$\breve{F}$",
    "block-tridiagonal": r"$\hat{F}$",
    "exact-inverse": r"$F^{-1}$",
    "kronecker-inverse": r"$\tilde{F}^{-1}$",
    "block-diagonal-inverse": r"$\breve{F}^{-1}$",
    "block-tridiagonal-inverse": r"$\hat{F}^{-1}$",
}
KINDS = {
    "exact": "exact Fisher",
    "kronecker": "every block a Kronecker product",
    "kronecker-damped": "all blocks",
    "block-diagonal": "block-diagonal",
    "block-tridiagonal": "block-tridiagonal inverse",
}
#: Share of the entries above a linear and above a logarithmic colour scale, and the decades of the latter.
_CLIPPED_LINEAR, _CLIPPED, _DECADES = 0.04, 0.002, 3
_COLOURS = "magma_r"
_RELATIVE = r"mean |entry|, $m_{ij}/\sqrt{m_{ii}m_{jj}}$"
_LINE: dict[str, Any] = {"color": "0.3", "lw": 0.7, "linestyle": (0, (3, 2))}
# Equal results make equal files.
_METADATA = {"png": {}, "pdf": {"CreationDate": None}}


def exact_figure(structure: FisherStructure) -> Figure:
    """Entries of the exact Fisher, F-tilde and their difference between the middle layers, on one linear scale."""
    with mpl.rc_context(RC):
        figure, (axes,) = _grid(1, 3, 2.75)
        dense = structure.dense
        maps = [(_name(name), dense[name]) for name in ("exact", "kronecker")]
        maps.append((_difference(structure, "kronecker"), dense["exact"] - dense["kronecker"]))
        _draw_row(figure, axes, structure, maps, linear=True)
        return figure


def inverse_figure(structure: FisherStructure) -> Figure:
    """F-tilde (damped) and its inverse: entries between the middle layers, block means of all layers."""
    with mpl.rc_context(RC):
        figure, grid = _grid(2, 2, 2.9, bars=2)
        for axes, name in zip(grid.T, ("kronecker-damped", "kronecker-inverse"), strict=True):
            title = f"{SYMBOLS[name]}, entries"
            _draw_row(figure, axes[:1], structure, [(title, structure.dense[name])])
            share = structure.off_tridiagonal_share(name)
            image = _draw_means(axes[1], structure.means[name], share, name)
            figure.colorbar(image, ax=axes[1], label=_RELATIVE)
        _head(figure, structure)
        return figure


def means_figure(means: Mapping[str, np.ndarray], shares: Mapping[str, float]) -> Figure:
    """Block means of F-tilde (damped) and of its inverse.

    Parameters
    ----------
    means : dict of (L, L) arrays
        Mean absolute entry of every block, by matrix.
    shares : dict of float
        Share off the three central diagonals of the middle layers, by matrix.
    """
    with mpl.rc_context(RC):
        figure, (axes,) = _grid(1, 2, 2.9)
        names = "kronecker-damped", "kronecker-inverse"
        images = [_draw_means(a, means[n], shares[n], n) for a, n in zip(axes, names, strict=True)]
        figure.colorbar(images[-1], ax=list(axes), label=_RELATIVE)
        return figure


def approximations_figure(structure: FisherStructure) -> Figure:
    """Middle layers of F-tilde (damped), F-breve and F-hat, their errors, and the same of the inverses."""
    with mpl.rc_context(RC):
        figure, grid = _grid(2, 5, 2.15)
        dense = structure.dense
        for axes, end in zip(grid, ("", "-inverse"), strict=True):
            both = f"block-diagonal{end}", f"block-tridiagonal{end}"
            reference = REFERENCES[both[0]]
            maps = [(_name(name), dense[name]) for name in (reference, *both)]
            maps += [(_difference(structure, n), dense[reference] - dense[n]) for n in both]
            _draw_row(figure, axes, structure, maps)
        _head(figure, structure)
        return figure


#: File name -> figure.
FIGURES = {
    "fisher_structure_exact": exact_figure,
    "fisher_structure_inverse": inverse_figure,
    "fisher_structure_approximations": approximations_figure,
}


def write_structure(structure: FisherStructure, folder: Path) -> list[Path]:
    """Write each of `FIGURES` as PNG and PDF.

    Parameters
    ----------
    structure : FisherStructure
    folder : Path
        Made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, draw in FIGURES.items():
        figure = draw(structure)
        for kind, metadata in _METADATA.items():
            path = folder / f"{name}.{kind}"
            with mpl.rc_context(RC), written(path) as temporary:
                figure.savefig(temporary, format=kind, metadata=metadata)
            paths.append(path)
    return paths


def _grid(rows: int, columns: int, size: float, bars: int = 1) -> tuple[Figure, np.ndarray]:
    shape = (size * columns + 0.9 * bars, (size + 0.45) * rows)
    figure = Figure(figsize=shape, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _head(figure: Figure, structure: FisherStructure) -> None:
    figure.suptitle(f"factored Tikhonov damping, $\\gamma$ = {structure.damping:g}", fontsize=9)


def _draw_row(
    figure: Figure,
    axes: np.ndarray,
    structure: FisherStructure,
    maps: Sequence[tuple[str, np.ndarray]],
    linear: bool = False,
) -> None:
    """Heat maps of absolute entries on one scale, clipped."""
    clipped = _CLIPPED_LINEAR if linear else _CLIPPED
    largest = max(np.quantile(np.abs(entries), 1 - clipped) for _, entries in maps)
    smallest = largest * 10**-_DECADES
    norm = Normalize(0, largest, clip=True) if linear else LogNorm(smallest, largest, clip=True)
    ends = np.cumsum([0, *(structure.sizes[i] for i in structure.middle)])
    image = None
    for axis, (title, entries) in zip(axes, maps, strict=True):
        # A pixel of many entries has the colour of their mean, not the mean of their colours.
        image = axis.imshow(np.abs(entries), cmap=_COLOURS, norm=norm, interpolation_stage="data")
        for end in ends[1:-1]:
            axis.axhline(end - 0.5, **_LINE)
            axis.axvline(end - 0.5, **_LINE)
        axis.set_title(title)
        _name_layers(axis, (ends[:-1] + ends[1:] - 1) / 2, structure.middle)
    assert image is not None
    axes[0].set_ylabel("layer")
    figure.colorbar(image, ax=list(axes), label="|entry|", extend="max" if linear else "both")


def _draw_means(axis: Axes, means: np.ndarray, share: float, name: str):
    """Block means of all layers over the root of the diagonal ones, with the numbers."""
    scale = np.sqrt(np.diag(means))
    relative = means / np.outer(scale, scale)
    image = axis.imshow(relative, cmap=_COLOURS, norm=LogNorm(0.01, 1, clip=True))
    for (i, j), value in np.ndenumerate(relative):
        light = value > 0.12
        text = f"{value:.2f}".removeprefix("0") if value < 0.995 else "1"
        axis.text(j, i, text, ha="center", va="center", fontsize=7, color="w" if light else "k")
    first, last = 2, len(means) - 1
    axis.set_title(
        f"{SYMBOLS[name]}, block means\n"
        f"{100 * share:.2g} % off the three diagonals (layers {first}–{last})"
    )
    axis.set_ylabel("layer")
    _name_layers(axis, np.arange(len(means)), range(len(means)))
    return image


def _name(name: str) -> str:
    """Title of a matrix: its symbol and, unless it is an inverse, its kind."""
    kind = KINDS.get(name)
    return SYMBOLS[name] if kind is None else f"{SYMBOLS[name]}\n{kind}"


def _difference(structure: FisherStructure, name: str) -> str:
    """Title of what an approximation misses, with its size."""
    reference = REFERENCES[name]
    minus = f"{SYMBOLS[reference]} − {SYMBOLS[name]}"
    return f"{minus}\n{structure.error(name):.2g} of ‖{SYMBOLS[reference]}‖"


def _name_layers(axis: Axes, places: np.ndarray, layers: Sequence[int]) -> None:
    names = [str(i + 1) for i in layers]
    axis.set_xticks(places, names)
    axis.set_yticks(places, names)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)

"""Write the figures, the table and the page of a sweep into its folder."""

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from ngd_theory.errors import InputError
from ngd_theory.files import written
from ngd_theory.report.structure import means_figure
from ngd_theory.report.style import RC
from ngd_theory.report.sweep import captions
from ngd_theory.report.sweep.curves import series
from ngd_theory.report.sweep.found import Found, read
from ngd_theory.report.sweep.lazy import draw_lazy_gaps, lazy_gaps
from ngd_theory.report.sweep.page import Shown, render
from ngd_theory.report.sweep.panels import draw
from ngd_theory.report.sweep.training import CAPTION as TRAINING_CAPTION
from ngd_theory.report.sweep.training import draw_training
from ngd_theory.report.sweep.trajectories import draw_trajectories, trajectories
from ngd_theory.sweeps.theory_claims import StudyClaim

#: Text in a PDF stays text. The date is left out, so that equal results make equal files.
_PDF: dict[Any, Any] = {"pdf.fonttype": 42}
_METADATA = {"pdf": {"CreationDate": None}, "png": {}}
_LONGEST = 40
#: Names of the figures that a report writes.
_OURS = re.compile(r"(claim-\d+-[a-z0-9-]+|trajectories|lazy|training|structure|layers)\.(png|pdf)")
_STRUCTURE_CAPTION = (
    "Mean absolute entry of every block of F-tilde, its diagonal blocks damped, and of its inverse, over the root "
    "of the two diagonal ones; averaged over seeds."
)


def write_report(results: str | Path) -> list[Path]:
    """Write ``figures/``, ``table.csv`` and ``report.html`` into a results folder.

    The study may be unfinished, have failed cells or no claims. Its claims are judged again. Figures of an earlier
    report that do not belong to the study any more are removed.

    Parameters
    ----------
    results : path
        Folder that `ngd_theory.sweeps.run` wrote.

    Returns
    -------
    list of Path
        The files written, the page last.

    Raises
    ------
    InputError
        If the folder holds no sweep, or a damaged file.
    """
    found = read(Path(results))
    (found.folder / "figures").mkdir(exist_ok=True)
    paths: list[Path] = []
    figures, whole = _FIGURES[found.study.kind](found, paths)
    csv = found.frame.to_csv(index=False).encode()
    page = render(found, figures, whole, csv)
    for name, content in (("table.csv", csv), ("report.html", page.encode())):
        paths.append(_write(found.folder / name, content))
    _remove_stale(found.folder / "figures", paths)
    return paths


def _remove_stale(folder: Path, written_now: list[Path]) -> None:
    """Remove the figures of an earlier report, which the page no longer shows; no other files."""
    for path in set(folder.iterdir()).difference(written_now):
        if _OURS.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def _theory_figures(found: Found, paths: list[Path]):
    """One figure for each claim, the trajectories and the gaps of the lazy family."""
    figures = [
        _claim_figure(found, claim, f"claim-{i}-{_slug(claim.statement)}", paths)
        for i, (claim, _) in enumerate(found.claims, start=1)
    ]
    study: Any = found.study
    whole = []
    if (training := trajectories(study, found.frame)) is not None:
        caption = captions.trajectories_caption(training)
        shown = _shown(found, draw_trajectories(training), "trajectories", caption, paths)
        whole.append(("Training, measured and predicted", shown))
    if (lazy := lazy_gaps(study, found.frame)) is not None:
        shown = _shown(found, draw_lazy_gaps(lazy), "lazy", captions.lazy_caption(lazy), paths)
        whole.append(("The lazy family: gap to the prediction over ε", shown))
    return figures, whole


def _training_figures(found: Found, paths: list[Path]):
    """One figure of the training curves, for all claims."""
    if found.frame.empty:
        return [], []
    figure = draw_training(found.frame)
    return [], [("Training error", _shown(found, figure, "training", TRAINING_CAPTION, paths))]


def _structure_figures(found: Found, paths: list[Path]):
    """Block means, averaged over seeds, at the smallest damping."""
    rows: Any = found.frame
    rows = rows[rows["factor_damping"] == rows["factor_damping"].min()]
    if rows.empty:
        return [], []
    pairs = rows[(rows["quantity"] == "mean") & (rows["layer"] > 0)]
    average = pairs.groupby(["matrix", "layer", "other"])["value"].mean()
    means = {
        name: _symmetric(block.unstack().to_numpy()) for name, block in average.groupby(level=0)
    }
    whole = rows[(rows["quantity"] == "off_tridiagonal_share") & (rows["layer"] == 0)]
    shares = whole.groupby("matrix")["value"].mean().to_dict()
    shown = _shown(found, means_figure(means, shares), "structure", _STRUCTURE_CAPTION, paths)
    return [], [("Block means", shown)]


def _symmetric(upper: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(upper), upper.T, upper)


#: Kind of study -> its figures: one for each claim (or none), and those of the whole study with their headings.
_FIGURES = {
    "theory": _theory_figures,
    "training": _training_figures,
    "structure": _structure_figures,
}


def _claim_figure(found: Found, claim: StudyClaim, name: str, paths: list[Path]) -> Shown | str:
    try:
        curves = series(found.study, claim, found.frame)  # pyright: ignore[reportArgumentType]
        if curves is None:
            return "no row that the claim is about is finished"
        figure = draw(curves)
    except InputError as error:
        return str(error)
    return _shown(found, figure, name, captions.caption(curves), paths, captions.numbers(curves))


def _shown(found: Found, figure: Figure, name: str, caption: str, paths: list[Path], numbers=()):
    content = {kind: _saved(figure, kind) for kind in ("png", "pdf")}
    paths += [
        _write(found.folder / "figures" / f"{name}.{kind}", file) for kind, file in content.items()
    ]
    width, height = figure.get_size_inches() * 96
    return Shown(name, content["png"], (round(width), round(height)), caption, numbers)


def _saved(figure: Figure, kind: str) -> bytes:
    buffer = BytesIO()
    with mpl.rc_context(RC | _PDF):
        figure.savefig(buffer, format=kind, metadata=_METADATA[kind])
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> Path:
    with written(path) as temporary:
        temporary.write_bytes(content)
    return path


def _slug(text: str) -> str:
    """The text as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:_LONGEST].strip("-") or "figure"

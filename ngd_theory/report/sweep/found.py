"""Contents of a results folder, whose claims are judged again."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ngd_theory.sweeps import AnyStudy, StudyVerdict, evaluate, load
from ngd_theory.sweeps.manifest import read_manifest, recorded_study
from ngd_theory.sweeps.store import failures


@dataclass(frozen=True)
class Found:
    """A results folder.

    Attributes
    ----------
    folder : Path
    study : a study of any kind
    frame : pandas.DataFrame
        As `ngd_theory.sweeps.load` returns it.
    claims : tuple of (claim, tuple of StudyVerdict)
    failures : tuple of dict
        Recorded errors of cells that are not finished.
    total, finished : int
        Cells.
    runs : tuple of dict
        Environment of every run, the first one first.
    """

    folder: Path
    study: AnyStudy
    frame: pd.DataFrame
    claims: tuple[tuple[Any, tuple[StudyVerdict, ...]], ...]
    failures: tuple[dict[str, Any], ...]
    total: int
    finished: int
    runs: tuple[dict[str, Any], ...]

    @property
    def missing(self) -> int:
        """Cells that neither finished nor failed."""
        return self.total - self.finished - len(self.failures)

    @property
    def outcomes(self) -> Counter[str]:
        """How many verdicts came to each outcome."""
        return Counter(str(v.outcome) for _, verdicts in self.claims for v in verdicts)

    @property
    def varying(self) -> list[str]:
        """Settings that differ between the study's cells."""
        settings = [self.settings(cell.config) for cell in self.study.cells()]
        return [n for n in settings[0] if any(s[n] != settings[0][n] for s in settings)]

    def settings(self, config: dict[str, Any]) -> dict[str, Any]:
        """All settings of a stored cell, including the defaults that it leaves out."""
        return {**self.study.config_defaults, **config["settings"]}

    @property
    def unexpected(self) -> int:
        """Number of decided verdicts that are not as the study expects."""
        found = [v for _, verdicts in self.claims for v in verdicts]
        return sum(v.outcome.decided and not v.as_expected for v in found)


def read(folder: Path) -> Found:
    """Read a results folder and judge its study's claims.

    Raises
    ------
    InputError
        If it holds no sweep, or a damaged file.
    """
    manifest = read_manifest(folder / "manifest.json")
    study = recorded_study(folder / "manifest.json")
    frame = load(folder)
    finished = set(frame["cell"])
    # Claim by claim: two claims may share a statement.
    alone = [(claim, study.model_copy(update={"claims": (claim,)})) for claim in study.claims]
    failed = tuple(f for f in failures(folder) if f["id"] not in finished)
    errors = {f["id"]: f["error"] for f in failed}
    return Found(
        folder,
        study,
        frame,
        tuple((claim, evaluate(one, frame, errors)) for claim, one in alone),
        failed,
        len(manifest["cells"]),
        len(finished),
        tuple(manifest["runs"]),
    )

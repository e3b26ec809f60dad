"""Results folders with made-up numbers, reported."""

import pytest
from made_up import Page, measure, study_values

from ngd_theory import sweeps
from ngd_theory.report.sweep import write, write_report
from ngd_theory.sweeps.kinds import parse


@pytest.fixture(scope="session")
def make_study():
    return lambda **changes: parse(study_values(**changes))


@pytest.fixture
def reported(make_study, tmp_path, monkeypatch):
    """Run a study with made-up numbers and report it; returns its page."""
    saved = write._saved
    # A page shows no PDF, which takes the longer half of a report.
    monkeypatch.setattr(write, "_saved", lambda f, kind: saved(f, kind) if kind == "png" else b"")

    def report(rows=measure, **changes):
        sweeps.run(make_study(**changes), tmp_path, measure=rows)
        write_report(tmp_path)
        return Page((tmp_path / "report.html").read_text(encoding="utf-8"))

    return report


@pytest.fixture(scope="session")
def usual(make_study, tmp_path_factory):
    """(folder, page, paths) of the usual study."""
    folder = tmp_path_factory.mktemp("usual")
    sweeps.run(make_study(), folder, measure=measure)
    paths = write_report(folder)
    return folder, Page((folder / "report.html").read_text(encoding="utf-8")), paths

"""Files and exit statuses of ``ngd-theory report``."""

import os
import subprocess
import sys

import made_up
import pytest
from typer.testing import CliRunner

from ngd_theory import sweeps
from ngd_theory.cli import app
from ngd_theory.report.sweep import write_report


def command(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_it_writes_and_names_its_files(usual):
    folder, _, paths = usual
    done = command(folder)
    assert done.exit_code == 0
    assert done.stdout.split("\n")[:-1] == [str(path) for path in paths]
    names = {path.relative_to(folder).as_posix() for path in paths}
    stems = ("claim-1-falls", "claim-2-isotropic", "claim-3-contracts", "trajectories")
    figures = {f"figures/{stem}.{kind}" for stem in stems for kind in ("png", "pdf")}
    assert names == figures | {"table.csv", "report.html"}
    assert set(os.listdir(folder / "figures")) == {name[8:] for name in figures}


def test_a_page_of_the_lazy_family_has_its_figure_beside_the_trajectories(make_study, tmp_path):
    def rows(cell):
        found = made_up.measure(cell)
        of_one = found[0] | {"epsilon": 1.0, "epsilon_gap": 0.1, "epsilon_rounding": 0.0}
        return [*found, of_one | {"train_loss": None}]

    study = make_study(claims=None, measure=["gap", "trajectory", "lazy"])
    sweeps.run(study, tmp_path, measure=rows)
    names = {path.name for path in write_report(tmp_path)}
    assert {"trajectories.png", "trajectories.pdf", "lazy.png", "lazy.pdf"} < names
    page = made_up.Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert {"trajectories", "lazy"} < set(page.ids) and len(page.all("img")) == 2
    assert "hollow: within rounding" in page.text


def test_a_pdf_is_a_pdf_with_its_text_as_text(usual):
    folder, _, _ = usual
    for path in (folder / "figures").glob("*.pdf"):
        content = path.read_bytes()
        assert content.startswith(b"%PDF-") and content.rstrip().endswith(b"%%EOF")
        assert len(content) > 5000 and b"/FontFile2" in content and b"/Type3" not in content


def test_reporting_again_writes_the_same(usual):
    folder, _, paths = usual
    before = {path: path.read_bytes() for path in paths}
    assert write_report(folder) == paths
    assert {path: path.read_bytes() for path in paths} == before


def test_a_reported_sweep_goes_on(make_study, tmp_path):
    study = make_study(claims=None)
    sweeps.run(study, tmp_path, measure=made_up.measure)
    write_report(tmp_path)
    summary = sweeps.run(study, tmp_path, measure=made_up.measure)
    assert (summary.reused, summary.set_aside) == (9, ())


@pytest.mark.slow
def test_failing_claims_are_no_failure_of_the_report(make_study, tmp_path):
    claim = {"statement": "s", "statistic": "exponent", "of": "gap", "rule": "<= -3"}
    summary = sweeps.run(make_study(claims=[claim]), tmp_path, measure=made_up.measure)
    assert not summary.holds
    assert command(tmp_path).exit_code == 0


def test_claims_are_judged_afresh(make_study, tmp_path):
    claim = {"statement": "s", "statistic": "max", "of": "gap", "rule": "<= 100"}
    study = make_study(claims=[claim], measure=["gap"])
    sweeps.run(study, tmp_path, measure=made_up.measure)
    (tmp_path / "verdicts.json").write_text("[]")
    write_report(tmp_path)
    assert "2 PASS" in (tmp_path / "report.html").read_text(encoding="utf-8")


def damage_manifest(folder):
    (folder / "manifest.json").write_text("{")


def damage_cell(folder):
    next((folder / "cells").iterdir()).write_bytes(b"PAR1")


def damage_study(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"steps": 3', '"steps": -3'))


@pytest.mark.parametrize("damage", [damage_manifest, damage_cell, damage_study])
def test_a_damaged_folder_is_one_line_and_exit_status_2(make_study, tmp_path, damage):
    sweeps.run(make_study(), tmp_path, measure=made_up.measure)
    damage(tmp_path)
    done = command(tmp_path)
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and str(tmp_path) in done.stderr
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("name", ["empty", "missing", "file"])
def test_a_folder_that_is_no_sweep_is_one_line_and_exit_status_2(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    done = command(tmp_path / name)
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr.startswith("ngd-theory: ") and done.stderr.count("\n") == 1
    assert str(tmp_path / name) in done.stderr
    assert os.listdir(tmp_path / "empty") == []
    assert "Traceback" in command(tmp_path / name, "--debug").stderr


def test_a_folder_that_cannot_be_written_is_one_line_and_exit_status_2(make_study, tmp_path):
    sweeps.run(make_study(), tmp_path, measure=made_up.measure)
    (tmp_path / "figures").write_text("in the way")
    done = command(tmp_path)
    assert done.exit_code == 2 and done.stderr.count("\n") == 1


def test_a_failure_while_writing_keeps_the_old_page(usual, monkeypatch):
    folder, _, _ = usual
    before = (folder / "report.html").read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    assert command(folder).exit_code == 2
    assert (folder / "report.html").read_bytes() == before
    assert not [path for path in folder.rglob("*.part")]


def test_help_needs_neither_pandas_nor_matplotlib():
    code = (
        "import sys\nfrom ngd_theory.cli import app\n"
        "print([m for m in ('pandas', 'matplotlib', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_statements_that_make_one_name_have_files_of_their_own(reported, tmp_path):
    claim = {"statement": "???", "statistic": "max", "of": "gap", "rule": "<= 100"}
    page = reported(claims=[claim, {**claim, "statement": "!!!"}], measure=["gap"])
    names = sorted(path.name for path in (tmp_path / "figures").glob("*.png"))
    assert names == ["claim-1-figure.png", "claim-2-figure.png"] and len(page.all("img")) == 2


def test_figures_of_an_earlier_report_are_removed_and_no_other_file(make_study, tmp_path):
    """The page shows what the folder shows; what a user put there is not ours to remove."""
    falls = made_up.study_values()["claims"][:1]
    sweeps.run(make_study(claims=falls), tmp_path, measure=made_up.measure)
    write_report(tmp_path)
    figures = tmp_path / "figures"
    theirs = {"mine.png", "claim-notes.pdf", "claim-1-falls.svg", "my-layers.png"}
    for name in theirs:
        (figures / name).write_text("mine")
    (figures / "structure.png").mkdir()
    earlier = {"training.pdf", "layers.png", "claim-12-x.pdf"}
    for name in earlier:
        (figures / name).write_text("of an earlier report")
    claim = {"statement": "other words", "statistic": "max", "of": "gap", "rule": "<= 100"}
    sweeps.run(make_study(claims=[claim]), tmp_path, measure=made_up.measure)
    paths = write_report(tmp_path)
    stems = ("claim-1-other-words", "trajectories")
    ours = {f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf")}
    assert {path.name for path in paths if path.parent == figures} == ours
    assert set(os.listdir(figures)) == ours | theirs | {"structure.png"}


def test_a_failure_while_writing_keeps_the_old_figures(make_study, tmp_path, monkeypatch):
    falls = made_up.study_values()["claims"][:1]
    sweeps.run(make_study(claims=falls), tmp_path, measure=made_up.measure)
    write_report(tmp_path)
    before = set(os.listdir(tmp_path / "figures"))
    sweeps.run(make_study(claims=None), tmp_path, measure=made_up.measure)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    assert command(tmp_path).exit_code == 2
    assert set(os.listdir(tmp_path / "figures")) == before

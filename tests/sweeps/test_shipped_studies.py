from pathlib import Path

import pytest
from typer.testing import CliRunner

from ngd_theory import sweeps
from ngd_theory.cli import app

STUDIES = Path(__file__).parents[2] / "studies"
SHIPPED = sorted(STUDIES.glob("*.toml"))


@pytest.fixture
def command():
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_study_is_valid_and_says_what_it_tests(path):
    study = sweeps.read(path)
    assert study.cells() and study.claims
    assert path.read_text().startswith("# ")


def test_list_shows_every_study_with_one_line(command):
    result = command("list", STUDIES)
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines()] == [p.stem for p in SHIPPED]


def test_list_shows_a_broken_study_beside_the_others(command, tmp_path):
    (tmp_path / "a.toml").write_text("title = 3")
    (tmp_path / "b.toml").write_text((STUDIES / "smoke.toml").read_text())
    result = command("list", tmp_path)
    assert result.exit_code == 2
    assert (
        "a: " in result.output and "title = 3" in result.output and "b (8 cells)" in result.output
    )
    assert command("list", tmp_path / "none").exit_code == 2


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(command, tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeps, "run", interrupted)
    result = command("run", STUDIES / "smoke.toml", "--out", tmp_path)
    assert result.exit_code == 130
    assert f"interrupted; what is finished is in {tmp_path}/; the same" in result.stderr


def test_run_measures_and_prints_verdicts_and_resumes(command, tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(
        """
        title = "tiny"
        statement = "K = I"
        approximations = ["exact"]
        measure = ["isotropy"]
        [network]
        depth = 2
        width = 8
        [data]
        dataset = "gaussian"
        num_train = 3
        num_test = 0
        input_dim = 6
        [grid]
        seed = [0, 1, 2]
        [[claims]]
        statement = "K = alpha I"
        statistic = "max"
        of = "dispersion"
        rule = "<= 1e-4"
        """
    )
    result = command("run", path, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "PASS" in result.output and "3 computed" in result.output
    assert "0 computed, 3 reused" in command("run", path, "--out", tmp_path / "out").output
    path.write_text(path.read_text().replace("<= 1e-4", ">= 0.5"))
    failed = command("run", path, "--out", tmp_path / "out")
    assert failed.exit_code == 1 and "FAIL, not PASS" in failed.output


def test_run_of_a_bad_study_is_one_line_and_status_2(command, tmp_path):
    result = command("run", tmp_path / "none.toml")
    assert result.exit_code == 2
    assert "none.toml" in result.output and "Traceback" not in result.output

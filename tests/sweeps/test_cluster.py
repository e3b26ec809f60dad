import os
import signal
import sys
from collections import defaultdict

import pandas as pd
import pytest
from typer.testing import CliRunner

from ngd_theory import sweeps
from ngd_theory.cli import app
from ngd_theory.errors import InputError, MissingDependencyError
from ngd_theory.sweeps.cluster import LIVES, ClusterError, Deal
from ngd_theory.sweeps.store import failures

distributed = pytest.importorskip("distributed")

STUDY = """
title = "tiny"
statement = "nothing much"
approximations = ["exact"]
measure = ["gap"]
steps = 2
network = { depth = 2 }
data = { dataset = "gaussian", num_train = 4, num_test = 0, input_dim = 6 }
grid = { width = [8, 12], seed = [0, 1] }
"""


@pytest.fixture(scope="module")
def address():
    """Of a cluster of two worker processes, which outlives the runs."""
    with pytest.MonkeyPatch.context() as patch:
        # As in this process (tests/conftest.py), or rounding differs.
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
        ) as cluster:
            yield cluster.scheduler_address


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory."""
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)
    return working


@pytest.mark.slow
def test_any_scheduler_gives_the_table_of_a_local_run(tmp_path, folder, address):
    study = tmp_path / "tiny.toml"
    study.write_text(STUDY)
    tables = []
    for name, scheduler in (("here", None), ("two", "local:2"), ("tcp", address)):
        summary = sweeps.run(study, tmp_path / name, scheduler=scheduler)
        assert (summary.computed, summary.failures) == (4, {})
        tables.append(sweeps.load(tmp_path / name))
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0], rtol=1e-10, atol=1e-13)
    assert list(folder.iterdir()) == []


def test_a_failed_cell_is_recorded_with_the_traceback_of_the_worker(
    make_study, trivial_measure, tmp_path, address
):
    def breaks(cell):
        if cell.settings.width == 32:
            raise ArithmeticError("layer 2 is singular")
        return trivial_measure(cell)

    summary = sweeps.run(make_study(), tmp_path, measure=breaks, scheduler=address)
    assert (summary.computed, len(summary.failures)) == (6, 3)
    recorded = failures(tmp_path)
    assert {f["error"] for f in recorded} == {"ArithmeticError: layer 2 is singular"}
    assert all("in breaks" in f["traceback"] for f in recorded)
    summary = sweeps.run(make_study(), tmp_path, measure=trivial_measure, scheduler=address)
    assert (summary.computed, summary.reused, failures(tmp_path)) == (3, 6, [])


def test_workers_that_are_killed_cost_only_the_cell_that_kills_them(
    make_study, trivial_measure, tmp_path
):
    log = tmp_path / "log"

    def kills(cell):
        point = cell.settings.width, cell.settings.seed
        with open(log, "a") as file:
            file.write(f"{point}\n")
        first = log.read_text().split("\n").count(str(point)) == 1
        if point == (32, 1) or (point == (16, 0) and first):
            os.kill(os.getpid(), signal.SIGKILL)
        return trivial_measure(cell)

    out = tmp_path / "out"
    summary = sweeps.run(make_study(), out, measure=kills, scheduler="local:2")
    assert (summary.computed, len(summary.failures)) == (8, 1)
    (failure,) = failures(out)
    settings = failure["config"]["settings"]
    assert (settings["width"], settings["seed"]) == (32, 1)
    assert failure["error"].startswith("WorkerDiedError")
    measured = log.read_text().split("\n")
    assert (measured.count("(32, 1)"), measured.count("(16, 0)")) == (LIVES, 2)


def test_a_cluster_that_is_lost_ends_the_run_which_goes_on_later(
    make_study, trivial_measure, tmp_path
):
    cluster = distributed.LocalCluster(
        n_workers=1, processes=False, protocol="tcp", dashboard_address=":0", silence_logs=50
    )

    def lose(state):
        if state.done == 3:
            cluster.close()

    with pytest.raises(ClusterError, match="run again"):
        sweeps.run(
            make_study(), tmp_path, lose, trivial_measure, scheduler=cluster.scheduler_address
        )
    assert failures(tmp_path) == []
    summary = sweeps.run(make_study(), tmp_path, measure=trivial_measure)
    assert (summary.computed, summary.reused) == (6, 3)


def cluster_of(num_workers):
    """A scheduler and its workers in this process."""
    return distributed.LocalCluster(
        n_workers=num_workers,
        processes=False,
        protocol="tcp",
        dashboard_address=":0",
        silence_logs=50,
    )


def test_a_cluster_whose_workers_stay_away_ends_the_run(
    make_study, trivial_measure, tmp_path, monkeypatch
):
    for name in ("_ALONE", "_FETCH"):
        monkeypatch.setattr(f"ngd_theory.sweeps.cluster.{name}", 0.5)
    with cluster_of(1) as cluster:

        def lose(state):
            if state.done == 3:
                cluster.scale(0)

        with pytest.raises(ClusterError, match="no worker"):
            sweeps.run(
                make_study(), tmp_path, lose, trivial_measure, scheduler=cluster.scheduler_address
            )
    assert failures(tmp_path) == []


@pytest.mark.parametrize(
    "scheduler",
    [
        *("", "local", "local:", "local:0", "local:-1", "local:2x", "local:1000", "threads", "2"),
        *("tcp://", "tcp://host", "tcp://:8786", "tcp://host:0", "tcp://host:65536", "http://h:1"),
    ],
)
def test_any_other_scheduler_is_refused_before_anything_is_made(make_study, folder, scheduler):
    with pytest.raises(InputError, match=r"local:N .* tcp://HOST:PORT"):
        sweeps.run(make_study(), folder / "out", scheduler=scheduler)
    assert list(folder.iterdir()) == []


def test_a_scheduler_without_workers_is_waited_for_and_says_so(
    make_study, folder, monkeypatch, caplog
):
    for name in ("_FIRST", "_ALONE"):
        monkeypatch.setattr(f"ngd_theory.sweeps.cluster.{name}", 0.5)
    with cluster_of(0) as cluster:
        with pytest.raises(InputError, match=r"no worker has joined .*`dask worker tcp://"):
            sweeps.run(make_study(), folder / "out", scheduler=cluster.scheduler_address)
    assert "has no worker yet: waiting 0.5 s for one" in caplog.text
    assert list(folder.iterdir()) == []


def test_a_cluster_that_does_not_answer_is_refused(make_study, folder, monkeypatch):
    monkeypatch.setattr("ngd_theory.sweeps.cluster._CONNECT", 0.2)
    with pytest.raises(InputError, match=r"answers at tcp://127\.0\.0\.1:1 "):
        sweeps.run(make_study(), folder / "out", scheduler="tcp://127.0.0.1:1")
    assert list(folder.iterdir()) == []


def test_workers_of_another_version_are_refused(make_study, tmp_path, address, monkeypatch):
    monkeypatch.setattr("ngd_theory.__version__", "0.0.0")
    with pytest.raises(InputError, match=r"this process 0\.0\.0: install the same"):
        sweeps.run(make_study(), tmp_path / "out", scheduler=address)


@pytest.mark.parametrize("scheduler", ["local:2", "tcp://127.0.0.1:8786"])
def test_without_distributed_one_line_says_what_to_install(
    tmp_path, folder, scheduler, monkeypatch, make_study
):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        sweeps.run(make_study(), folder / "out", scheduler=scheduler)
    (tmp_path / "tiny.toml").write_text(STUDY)
    result = CliRunner().invoke(app, ["run", str(tmp_path / "tiny.toml"), "--scheduler", scheduler])
    assert result.exit_code == 2
    assert "pip install 'ngd-theory[cluster]'" in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(folder.iterdir()) == []


def test_a_worker_keeps_to_its_shape_and_shapes_go_to_free_workers(make_study):
    cells = make_study(grid={"width": [16, 32, 64], "seed": [0, 1, 2, 3]}).cells()
    deal, taken = Deal(cells), defaultdict(list)
    while deal:
        for worker in "ab":
            if deal:
                taken[worker].append(deal.take(worker).settings.width)
    assert taken == {"a": [16] * 4 + [64] * 2, "b": [32] * 4 + [64] * 2}


def test_nothing_is_dealt_twice_and_what_is_put_back_is_dealt_again(make_study):
    cells = make_study().cells()
    deal = Deal(cells)
    first = deal.take("a")
    deal.put_back(first)
    rest = []
    while deal:
        rest.append(deal.take("a").id)
    assert sorted(rest) == sorted(cell.id for cell in cells)

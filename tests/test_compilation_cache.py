"""Compiled programs on disk: a second process takes them, for the same versions and processor only, bounded in size."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from typer.testing import CliRunner

from ngd_theory import compilation_cache
from ngd_theory.cli.app import app
from ngd_theory.errors import InputError

STUDIES = Path(__file__).parents[1] / "studies"
TINY = ["--dataset", "gaussian", "--input-dim", "6", "--num-train", "4", "--num-test", "2"]
TINY += ["--width", "16", "--steps", "1", "--approximations", "exact"]
COUNTED = """
import jax
from ngd_theory import compilation_cache
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event.rpartition("/")[2]))
compilation_cache.turn_on()
import ngd_theory as ngd
net = ngd.networks.mlp(3, [8], 1)
lin = ngd.networks.linearize(net, net.init(jax.random.key(0)), jax.numpy.ones((2, 3)))
ngd.fisher.by_name("exact").natural_gradient(lin, lin.outputs, 0.1)
print(events.count("cache_hits"), events.count("cache_misses"))
"""


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A process that has not turned it on; the folder that it would take."""
    monkeypatch.setenv("NGD_THEORY_CACHE", str(tmp_path / "cache"))
    names = (
        "jax_compilation_cache_dir",
        "jax_enable_compilation_cache",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / "cache"
    for name, value in before.items():
        jax.config.update(name, value)


def process(code, folder, **variables):
    """What a process of its own prints, on both channels."""
    environment = os.environ | {"NGD_THEORY_CACHE": str(folder)} | variables
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout, done.stderr


def test_a_second_process_compiles_nothing(tmp_path):
    numbers = [[int(n) for n in process(COUNTED, tmp_path)[0].split()] for _ in range(2)]
    (_, compiled), (taken, compiled_again) = numbers
    assert compiled > 5 and compiled_again == 0
    assert taken >= compiled


def test_a_folder_that_cannot_be_written_costs_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    printed, told = process(COUNTED, tmp_path / "file")
    assert printed.split() == ["0", "0"]
    assert told.startswith("compiled programs are not kept") and told.count("\n") == 1
    assert "NGD_THEORY_CACHE" in told


def test_what_users_set_stays(tmp_path, fresh, monkeypatch):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    assert compilation_cache.turn_on() == tmp_path / "mine"
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
    jax.config.update("jax_enable_compilation_cache", False)
    assert compilation_cache.turn_on() is None
    assert not fresh.exists()


def test_other_versions_and_processors_have_folders_of_their_own(fresh, monkeypatch):
    folders = {compilation_cache.programs_folder()}
    with monkeypatch.context() as other:
        other.setattr(compilation_cache, "_processor", lambda: "another")
        folders.add(compilation_cache.programs_folder())
    with monkeypatch.context() as other:
        other.setattr(compilation_cache, "package_version", lambda name: "99")
        folders.add(compilation_cache.programs_folder())
    with monkeypatch.context() as other:
        other.setattr(compilation_cache.platform, "machine", lambda: "another")
        folders.add(compilation_cache.programs_folder())
    assert len(folders) == 4
    assert compilation_cache.programs_folder() in folders
    assert all(folder.parent == fresh / "programs" for folder in folders)


def test_the_processor_is_told_by_what_it_can_do(monkeypatch):
    here = compilation_cache._processor()
    assert re.search(r"^\d+ usable$", here, re.MULTILINE)
    if sys.platform == "linux":
        assert re.search(r"^(flags|Features|isa)\s*:", here, re.MULTILINE)
        # Frequencies change from one look to the next.
        assert "MHz" not in here
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4})
        assert compilation_cache._processor() != here


def test_programs_not_used_for_longest_go_first(fresh, monkeypatch):
    monkeypatch.setattr(compilation_cache, "LIMIT", 100)
    now = time.time()
    folder = fresh / "programs" / "of another version"
    folder.mkdir(parents=True)
    for age, size in ((1, 30), (2, 30), (3, 30), (4, 30), (0, 0)):
        path = folder / str(age)
        path.write_bytes(b"x" * size)
        os.utime(path, (now - age, now - age))
    assert compilation_cache.programs_size() == 120
    assert compilation_cache.turn_on() is not None
    # Below four fifths of the limit; a file that a process left empty when it died is no program.
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]
    jax.config.update("jax_compilation_cache_dir", None)
    assert compilation_cache.turn_on() is not None
    assert compilation_cache.programs_size() == 60


def test_importing_the_library_sets_nothing(tmp_path):
    code = "import jax, ngd_theory.compilation_cache; print(jax.config.jax_compilation_cache_dir)"
    assert process(code, tmp_path)[0].strip() == "None"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_no_cache_neither_takes_nor_keeps(fresh, monkeypatch, tmp_path):
    def stop(*_, **__):
        raise InputError("far enough")

    # Set here, it is put back at the end.
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "true")
    monkeypatch.setattr("ngd_theory.sweeps.run", stop)
    out = ["--out", str(tmp_path / "out")]
    commands = ["verify", *TINY, *out], ["run", str(STUDIES / "smoke.toml"), *out]
    for command in commands:
        CliRunner().invoke(app, [*command, "--no-cache"])
        assert jax.config.jax_compilation_cache_dir is None
        # Workers inherit it.
        assert os.environ["JAX_ENABLE_COMPILATION_CACHE"] == "false"
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "true"
        jax.config.update("jax_enable_compilation_cache", True)
    assert not fresh.exists()
    for command in commands:
        CliRunner().invoke(app, command)
        folder = jax.config.jax_compilation_cache_dir
        assert folder == str(compilation_cache.programs_folder())
        jax.config.update("jax_compilation_cache_dir", None)
    told = CliRunner().invoke(app, ["doctor", "--width", "16"]).output
    assert compilation_cache.programs_folder().name in told and "512 MiB" in told

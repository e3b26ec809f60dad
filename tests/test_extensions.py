"""Approximations from outside the package: by entry points, by ``--import``, in every process of a study."""

import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest
from typer.testing import CliRunner

import ngd_theory as ngd
from ngd_theory import experiment, extensions, sweeps
from ngd_theory.cli import app
from ngd_theory.errors import InputError
from ngd_theory.fisher.registry import Approximations
from ngd_theory.report import style

MODULE = '''
from dataclasses import dataclass

import jax

from ngd_theory.experiment.claim import claim, verdict
from ngd_theory.fisher import Approximation, Look, approximation, register


@register
@approximation
@dataclass(frozen=True)
class Third(Approximation):
    """A third of gradient descent."""

    name = "third"
    look = Look("#123456", "h", "one third")
    by_layers = True
    requirements = ("isotropic-at-some-width",)

    def precondition(self, lin, cotangent, factors):
        return lin.vjp(cotangent / (3 * lin.num_samples))

    def broken_premises(self, sizes, num_samples, equal_leverages=False):
        return {"width": "third wants width 6"} if sizes[0].num_units < 6 else {}


@claim("third-trace", "its trace is a third of the NTK's", "a test", lambda e: e.name == "third")
def third_trace(evidence, others):
    measured = float(evidence.isotropy.constant)
    expected = float(others["identity"].isotropy.constant) / 3
    holds = abs(measured - expected) < 1e-9 * expected
    return verdict(holds, measured, expected, 1e-9 * expected, 1e-9, "tr K / (NC)")
'''

STUDY = """
title = "thirds"
statement = "nothing much"
approximations = ["identity", "third"]
measure = ["isotropy"]
network = { depth = 2 }
data = { dataset = "gaussian", num_train = 4, num_test = 0, input_dim = 6 }
grid = { width = [8], seed = [0, 1, 2, 3] }

[[claims]]
statement = "its dispersion is that of gradient descent: large"
statistic = "min"
of = "dispersion"
approximations = ["third"]
rule = ">= 0.01"
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder with a user's module, which is the current one; nothing of it is known afterwards."""
    claims, modules, path = list(experiment.CLAIMS), set(sys.modules), list(sys.path)
    name = "thirds_of_mine"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    # Dask's workers start anew, and see the package as this process does.
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
    monkeypatch.setattr(extensions, "_named", [])
    yield tmp_path, name
    ngd.fisher.APPROXIMATIONS.pop("third", None)
    experiment.CLAIMS[:] = claims
    sys.path[:] = path
    for module in set(sys.modules) - modules:
        if module == name:
            del sys.modules[module]


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


SMALL = "--dataset gaussian --num-train 4 --num-test 0 --input-dim 6 --width 16 --depth 2 --steps 1"


def test_verify_knows_an_imported_approximation_its_look_and_its_statement(outside):
    folder, name = outside
    what = *SMALL.split(), "--approximations", "identity,third", "--out", folder / "out"
    found = run("verify", *what)
    assert found.exit_code == 2 and "unknown approximation 'third'" in found.output
    found = run("verify", *what, "--import", name)
    assert found.exit_code == 0, found.output
    assert "third-trace" in found.output and "FAIL" not in found.output.replace("0 FAIL", "")
    assert (style.colour("third"), style.marker("third")) == ("#123456", "h")
    assert style.label("third") == "one third"
    # Unasked it does not run, and says so.
    left_out = experiment.parse({"dataset": "gaussian"}).left_out
    assert left_out["third"] == "from outside the package, so name it to run it"


@pytest.mark.parametrize("scheduler", [None, "local:1"])
def test_a_study_knows_it_in_every_process(outside, scheduler):
    if scheduler:
        pytest.importorskip("distributed")
    folder, name = outside
    study = folder / "thirds.toml"
    study.write_text(STUDY)
    found = run("run", study, "--out", folder / "results")
    assert found.exit_code == 2 and "unknown approximation 'third'" in found.output
    how = ("--scheduler", scheduler) if scheduler else ()
    found = run("run", study, "--out", folder / "results", "--import", name, *how)
    assert found.exit_code == 0, found.output
    table = sweeps.load(folder / "results")
    constants = table.pivot(index="seed", columns="approximation", values="constant")
    assert (constants["identity"] / constants["third"]).to_list() == pytest.approx([3] * 4)
    assert run("list", folder, "--import", name).exit_code == 0
    assert run("report", folder / "results", "--import", name).exit_code == 0
    page = (folder / "results" / "report.html").read_text()
    assert "one third" in page


def test_its_premises_refuse_grid_points(outside):
    folder, name = outside
    extensions.load([name])
    study = folder / "thirds.toml"
    study.write_text(STUDY.replace("[8]", "[4, 8]"))
    with pytest.raises(InputError, match="impossible grid points: third wants width 6"):
        sweeps.read(study)
    study.write_text('allow = ["width"]\n' + STUDY.replace("[8]", "[4, 8]"))
    assert len(sweeps.read(study).cells()) == 8


def test_a_module_that_cannot_be_imported_is_named(outside):
    folder, _ = outside
    (folder / "broken_of_mine.py").write_text("import no_such_thing")
    for name, why in (("no_such_module", "No module named"), ("broken_of_mine", "no_such_thing")):
        found = run("list", folder, "--import", name)
        assert found.exit_code == 2
        assert f"--import {name}: it cannot be imported (ModuleNotFoundError" in found.output
        assert why in found.output


def test_entry_points_are_loaded_at_the_first_look(outside, monkeypatch):
    _, name = outside
    sys.path.insert(0, ".")
    looked = []

    def points(group):
        looked.append(group)
        return [EntryPoint("whatever", f"{name}:Third", group)]

    monkeypatch.setattr(extensions, "entry_points", points)
    known = Approximations([ngd.fisher.Exact])
    assert not looked
    assert list(known) == ["exact", "third"]
    assert looked == ["ngd_theory.approximations"]
    assert known.named_only("third") and not known.named_only("exact")
    assert known.outside_modules() == (name,)
    assert len(known) == 2 and len(looked) == 1


def test_a_broken_entry_point_is_an_error_each_time(monkeypatch):
    point = EntryPoint("mine", "no_such_package:Mine", "ngd_theory.approximations")
    monkeypatch.setattr(extensions, "entry_points", lambda group: [point])
    known = Approximations([ngd.fisher.Exact])
    for _ in range(2):
        with pytest.raises(InputError, match="entry point mine = 'no_such_package:Mine' cannot be"):
            known["exact"]


def made(name, bases=(ngd.fisher.Identity,), **members):
    cls = type("Made", bases, {"name": name, "__module__": __name__, **members})
    return ngd.fisher.approximation(dataclass(frozen=True)(cls))


class Unfinished(ngd.fisher.Approximation):
    name = "unfinished"


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (dict, "no sub-class of ngd_theory.fisher.Approximation"),
        (ngd.fisher.Exact(), "no sub-class of ngd_theory.fisher.Approximation"),
        (made("with,comma"), "has the name 'with,comma'; it must be small letters"),
        (made("exact"), "has the name 'exact', which ngd_theory.fisher.dual.Exact has already"),
        (type("Plain", (ngd.fisher.Identity,), {"name": "plain"}), "no dataclass of its own"),
        (
            ngd.fisher.approximation(dataclass(frozen=True)(Unfinished)),
            "does not define precondition",
        ),
        (made("bare", __annotations__={"power": float}), "has no default for power"),
    ],
)
def test_what_cannot_be_registered_says_why(cls, words):
    before = list(ngd.fisher.APPROXIMATIONS)
    with pytest.raises(InputError, match=words):
        ngd.fisher.register(cls)
    assert list(ngd.fisher.APPROXIMATIONS) == before


def test_a_class_that_is_defined_again_takes_the_place_of_the_first():
    known = Approximations([ngd.fisher.Exact])
    first, second = made("again"), made("again")
    known["again"] = first
    known["again"] = second
    assert known["again"] is second
    with pytest.raises(InputError, match="the class is called 'again', not 'other'"):
        known["other"] = second
    del known["again"]
    assert "again" not in known

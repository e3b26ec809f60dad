"""What a result cites: every source has an entry, and every entry is cited where it should be."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

import ngd_theory
from ngd_theory import cli, data, fisher, references, report, sweeps
from ngd_theory.experiment import CLAIMS, Settings, verify
from ngd_theory.experiment.settings import DEPTHS
from ngd_theory.optim.preconditioners import PRECONDITIONERS
from ngd_theory.optim.problems import PROBLEMS

STUDIES = Path(__file__).parents[1] / "studies"
KNOWN = {reference.cited_as: reference for reference in references.known()}
YEAR = re.compile(r"\b(?:19|20)\d\d\b")


def unknown_papers(source):
    """What is left of a source with a year in it once the known names are gone."""
    for name in KNOWN:
        source = source.replace(name, "")
    return YEAR.findall(source)


def test_every_source_is_an_entry():
    sources = {claim.name: claim.source for claim in CLAIMS}
    sources |= {path.stem: sweeps.read(path).source for path in STUDIES.glob("*.toml")}
    assert len(sources) > 40
    for name, source in sources.items():
        assert source, name
        assert not unknown_papers(source), (name, source)
    assert unknown_papers("Karakida & Osawa 2020 and Nobody 2024") == ["2024"]


def test_an_entry_is_whole():
    for reference in references.known():
        text = reference.bibtex
        assert re.fullmatch(r"@\w+\{\w+,\n(  \w+ *= \{.*\}.*\n)+\}", text), reference.key
        assert text.count("{") == text.count("}")
        for name in ("title", "author", "year"):
            assert re.search(rf"^  {name} *= ", text, re.MULTILINE), (reference.key, name)
        assert "cited_as" not in text and "used_for" not in text
        # The year that a text gives may be that of the preprint.
        found = re.search(r"year *= \{(\d+)\}", text)
        assert found is not None
        assert 0 <= int(found[1]) - int(reference.cited_as[-4:]) <= 1, reference.key
        assert reference.cited_as.split(",")[0].split(" ")[0] in text


def test_keys_and_names_are_distinct():
    found = references.known()
    assert len({r.key for r in found}) == len({r.cited_as for r in found}) == len(found) > 20


#: Setting -> the values that it can have.
VALUES = {
    "approximation": set(fisher.APPROXIMATIONS),
    "architecture": set(DEPTHS),
    "dataset": set(data.source_names()),
    "forster": {"True"},
    "kernel": {"empirical", "infinite"},
    "momentum_kind": set(get_args(Settings.model_fields["momentum_kind"].annotation)),
    "optimizer": {"kfac", "nag", "kfac-jax"},
    "parameterization": set(get_args(Settings.model_fields["parameterization"].annotation)),
    "problem": set(PROBLEMS),
    "structure": set(PRECONDITIONERS),
}


def test_what_an_entry_is_used_for_exists():
    for reference in references.known():
        for setting in set().union(*reference.used_for):
            name, _, value = setting.partition("=")
            assert value in VALUES[name], (reference.key, setting)


def cites(result):
    return {reference.cited_as for reference in references.cited(result)}


def test_cited():
    assert cites({"approximations": ["ekfac"]}) == {"George et al. 2018"}
    assert cites({"source": "after Ollivier 2015; section 14"}) == {"Ollivier 2015"}
    assert cites({"forster": True}) == {"Forster 2002"}
    assert cites({"forster": False, "approximations": ["identity"]}) == set()
    # A name within another name is not that name, and the optimiser is not the approximation.
    assert cites({"approximations": ["kfac-tridiagonal"]}) == {"Martens & Grosse 2015"}
    assert cites({"optimizers": [{"optimizer": "kfac", "options": {"structure": "ekfac"}}]}) == {
        "Martens & Grosse 2015",
        "George et al. 2018",
    }
    kfc = "Grosse & Martens 2016"
    assert kfc in cites({"architecture": "cnn", "claims": [{"approximation": "kfac"}]})
    assert kfc not in cites({"architecture": "cnn", "claims": [{"approximation": "exact"}]})


@pytest.fixture(scope="module")
def verified(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verified")
    settings = Settings(
        dataset="gaussian", input_dim=8, num_train=4, num_test=2, width=16, steps=1,
        approximations=("exact", "shampoo"), laziness=(),
    )  # fmt: skip
    report.write_result(verify(settings), folder / "result.json")
    return folder


def printed(*arguments):
    found = CliRunner().invoke(cli.app, ["cite", *map(str, arguments)])
    assert found.exit_code == 0, found.output
    return re.findall(r"^@\w+\{(\w+),", found.output, re.MULTILINE)


def test_a_verification_cites_its_claims_and_approximations(verified):
    stored = json.loads((verified / "result.json").read_text())["references"]
    assert {"karakida2020understanding", "gupta2018shampoo"} <= set(stored)
    assert not {"martens2015optimizing", "lecun1998gradient"} & set(stored)
    assert printed(verified) == ["ngd_theory", *stored]


def test_without_results_everything_is_cited():
    assert printed() == ["ngd_theory", *(reference.key for reference in references.known())]
    assert f"{{version {ngd_theory.__version__}}}" in references.software()


def test_a_folder_without_results_is_refused(tmp_path):
    found = CliRunner().invoke(cli.app, ["cite", str(tmp_path)])
    assert found.exit_code == 2 and "holds no results" in found.stderr
    (tmp_path / "a file").write_text("no folder")
    found = CliRunner().invoke(cli.app, ["cite", str(tmp_path / "a file")])
    assert found.exit_code == 2 and "holds no results" in found.stderr
    (tmp_path / "result.json").write_text('{"config": ')
    found = CliRunner().invoke(cli.app, ["cite", str(tmp_path)])
    assert found.exit_code == 2 and "is damaged" in found.stderr

"""What a result cites: every source has an entry, and every entry is cited where it should be."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ngd_theory
from ngd_theory import cli, data, fisher, references, report, sweeps
from ngd_theory.experiment import CLAIMS, Settings, verify
from ngd_theory.experiment.settings import DEPTHS

STUDIES = Path(__file__).parents[1] / "studies"
KNOWN = {reference.cited_as: reference for reference in references.known()}
#: Names that are neither approximations, data nor architectures.
OTHERS = {"mup", "spring", "nag", "kfac-jax", "neural-tangents", "forster"}


def papers(source):
    """Parts of a source that name a paper."""
    parts = [part.strip() for part in source.split(";")]
    return [part for part in parts if part and not re.match(r"docs/|new\b|section", part)]


def test_every_source_of_a_claim_is_an_entry():
    named = {paper for claim in CLAIMS for paper in papers(claim.source)}
    assert len(named) >= 4 and named <= set(KNOWN)


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.toml")), ids=lambda p: p.stem)
def test_every_source_of_a_study_is_an_entry(path):
    study = sweeps.read(path)
    assert study.source
    for paper in papers(study.source):
        assert any(name in paper for name in KNOWN), paper


@pytest.mark.parametrize("reference", references.known(), ids=lambda r: r.key)
def test_an_entry_is_whole(reference):
    text = reference.bibtex
    assert re.fullmatch(r"@\w+\{\w+,\n(  \w+ *= \{.*\}.*\n)+\}", text)
    assert text.count("{") == text.count("}")
    for name in ("title", "author", "year"):
        assert re.search(rf"^  {name} *= ", text, re.MULTILINE), name
    assert "cited_as" not in text and "used_for" not in text
    # The year that a text gives may be that of the preprint.
    year = re.search(r"year *= \{(\d+)\}", text)[1]
    assert 0 <= int(year) - int(reference.cited_as[-4:]) <= 1
    assert reference.cited_as.split(",")[0].split(" ")[0] in text


def test_keys_and_names_are_distinct():
    found = references.known()
    assert len({r.key for r in found}) == len({r.cited_as for r in found}) == len(found) > 20


def test_what_an_entry_is_used_for_exists():
    names = set(fisher.APPROXIMATIONS) | set(data.source_names()) | set(DEPTHS) | OTHERS
    for reference in references.known():
        assert reference.used_for <= names, reference.key


def cites(result):
    return {reference.cited_as for reference in references.cited(result)}


def test_cited():
    assert cites({"approximations": ["ekfac"]}) == {"George et al. 2018"}
    assert cites({"source": "after Ollivier 2015; section 14"}) == {"Ollivier 2015"}
    assert cites({"forster": True}) == {"Forster 2002"}
    assert cites({"forster": False, "approximations": ["identity"]}) == set()
    # A name within another name is not that name.
    assert cites(["kfac-tridiagonal"]) == {"Martens & Grosse 2015"}


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
    assert f"version = {{{ngd_theory.__version__}}}" in references.software()


def test_a_folder_without_results_is_refused(tmp_path):
    found = CliRunner().invoke(cli.app, ["cite", str(tmp_path)])
    assert found.exit_code == 2 and "holds no results" in found.stderr
    (tmp_path / "result.json").write_text('{"config": ')
    found = CliRunner().invoke(cli.app, ["cite", str(tmp_path)])
    assert found.exit_code == 2 and "is damaged" in found.stderr

"""What the documentation shows runs, and the commands it names exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ngd_theory import cli, sweeps
from ngd_theory.cli.app import EXAMPLES
from ngd_theory.experiment import CLAIMS

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").rglob("*.md")))
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROGRAMS = {
    str(page.relative_to(ROOT)): "\n".join(blocks)
    for page in PAGES
    if (blocks := FENCE.findall(page.read_text()))
}


def test_the_readme_and_the_documentation_have_code():
    assert "README.md" in PROGRAMS and len(PROGRAMS) >= 10


def test_no_code_is_hidden_from_this_test():
    """Any other spelling of a Python fence would go unrun."""
    for page in PAGES:
        text = page.read_text()
        spelt = re.findall(r"^ *(?:```|~~~) *(?:python|py|pycon|python3)\b", text, re.M | re.I)
        assert len(spelt) == len(FENCE.findall(text)), page


@pytest.mark.parametrize("page", PROGRAMS)
def test_the_code_runs(page, tmp_path):
    """The blocks of a page as one program, in a process of its own: a block may set JAX flags."""
    file = tmp_path / "page.py"
    file.write_text(PROGRAMS[page])
    done = subprocess.run(
        [sys.executable, "-W", "error", str(file)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def environment():
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def code(text):
    """Inline code and indented or fenced blocks, whatever their language."""
    fenced = re.findall(r"^```.*?\n(.*?)^```", text, re.M | re.S)
    # Or the backticks of a fence would be paired with those of the prose after it.
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    indented = re.findall(r"^(?: {4}|\t)(.*)$", text, re.M)
    inline = re.findall(r"`([^`]+)`", text)
    return [line for part in (*fenced, *indented, *inline) for line in part.splitlines()]


def commands(program):
    """Arguments of each call of ``program`` in any page, comments cut off."""
    pattern = re.compile(rf"(?:^|[\s/]){re.escape(program)}\s+(\S.*)$")
    found = []
    for page in PAGES:
        joined = re.sub(r"(`[^`\n]*)\n *([^`\n]*`)", r"\1 \2", page.read_text())
        for line in code(joined):
            match = pattern.search(line)
            if match:
                found.append(shlex.split(match.group(1), comments=True))
    return found


def test_every_make_target_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.M))
    named = [[word for word in call if "=" not in word] for call in commands("make")]
    assert ["verify"] in named and ["test"] in named
    assert not {word for call in named for word in call} - targets


def flags():
    """Every option of every command of the program."""
    import typer

    program = typer.main.get_command(cli.app)
    own = {option for parameter in program.params for option in parameter.opts}
    return {"": own | {"--help"}} | {
        name: {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for name, command in program.commands.items()
    }


def test_every_command_and_flag_exists():
    known = flags()
    calls = commands("ngd-theory")
    calls += [shlex.split(line)[1:] for text in EXAMPLES.values() for line in text.splitlines()]
    # The flags that go through make: make verify ARGS="...".
    calls += [
        ["verify", *shlex.split(word.removeprefix("ARGS="))]
        for call in commands("make")
        if "verify" in call
        for word in call
        if word.startswith("ARGS=") and word != "ARGS=..."
    ]
    calls = [call if not call or not call[0].startswith("-") else ["", *call] for call in calls]
    assert calls
    for command, *arguments in filter(None, calls):
        assert command in known, command
        for word in arguments:
            if word.startswith("--"):
                assert word.split("=")[0] in known[command], f"{command} {word}"


def test_every_flag_of_the_issue_exists_and_is_explained():
    wanted = "dataset classes num-train num-test width depth activation weight-std bias-std"
    wanted += " approximations step-scale steps damping loss seed precision out debug"
    assert {f"--{name}" for name in wanted.split()} <= flags()["verify"]
    shown = CliRunner().invoke(cli.app, ["verify", "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    for name in wanted.split():
        assert f"--{name}" in shown.output


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_images_lead_somewhere(page):
    # A layer is called like a link: layers["a"](h).
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", text):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page):
    """Paths of the repository in inline code; what a command writes (results/, build/) is no such path."""
    folders = "tests|studies|benchmarks|ngd_theory|docs|requirements"
    for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", page.read_text()):
        assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_studies_that_are_shown_are_valid(tmp_path):
    shown = [
        block
        for page in PAGES
        for block in re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.M | re.S)
    ]
    assert shown
    for block in shown:
        file = tmp_path / "study.toml"
        file.write_text(block)
        assert sweeps.read(file).claims


EVIDENCE = (ROOT / "docs" / "evidence.md").read_text()


def test_every_claim_and_every_study_has_its_evidence():
    """One row each, which says in so many words whether it is shown."""
    studies = [path.stem for path in (ROOT / "studies").glob("*.toml")]
    for name in (*(claim.name for claim in CLAIMS), *studies):
        rows = [row for row in EVIDENCE.splitlines() if row.startswith(f"| `{name}` |")]
        assert rows, name
        for row in rows:
            assert re.search(r"\| (?:shown|not shown|false)\b[^|]*\|$", row), row


def test_there_is_no_evidence_for_what_does_not_exist():
    known = {claim.name for claim in CLAIMS} | {p.stem for p in (ROOT / "studies").glob("*.toml")}
    rows = re.findall(r"^\| `([\w-]+)` \|.*\| (?:shown|not shown|false)\b[^|]*\|$", EVIDENCE, re.M)
    assert set(rows) == known


def test_the_theory_says_where_each_section_is_verified():
    theory = (ROOT / "docs" / "theory.md").read_text()
    sections = re.split(r"^## ", theory, flags=re.M)[1:]
    assert len(sections) == 14
    for section in sections:
        assert "**Verified by.**" in section, section.splitlines()[0]

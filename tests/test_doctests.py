"""Every example in the package's docstrings runs, and gives what it shows."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [p for p in sorted((ROOT / "ngd_theory").rglob("*.py")) if ">>> " in p.read_text()]
NAMES = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in FILES]


def examples(name):
    return [test for test in doctest.DocTestFinder().find(import_module(name)) if test.examples]


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_a_module(name, capsys):
    found = examples(name)
    results = [doctest.DocTestRunner(verbose=False).run(test) for test in found]
    assert found and not sum(r.failed for r in results), capsys.readouterr().out


def test_no_example_is_hidden_from_this_test():
    lines = [line for path in FILES for line in path.read_text().splitlines()]
    written = sum(line.lstrip().startswith(">>> ") for line in lines)
    assert written == sum(len(test.examples) for name in NAMES for test in examples(name)) > 40


def test_a_wrong_example_fails():
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert doctest.DocTestRunner(verbose=False).run(test, out=lambda text: None).failed == 1

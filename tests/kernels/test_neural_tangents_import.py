"""The import of neural-tangents: safe, undone, clear when it fails."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
installed = pytest.mark.skipif(
    importlib.util.find_spec("neural_tangents") is None, reason="neural-tangents is not installed"
)

SNAPSHOT = """
import sys, jax, jax.core, jax.interpreters.ad
def snapshot():
    return set(vars(jax.core)), set(vars(jax.interpreters.ad)), "jax.util" in sys.modules
"""


def run(code, *options, path=()):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([*map(str, path), str(ROOT)]),
    }
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def check(code, *options, path=()):
    result = run(code, *options, path=path)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_package_does_not_import_neural_tangents():
    check(
        "import sys, ngd_theory, ngd_theory.kernels.infinite\n"
        "assert not [n for n in sys.modules if n.startswith(('neural_tangents', 'tensorflow'))]"
    )


def test_no_other_file_imports_neural_tangents():
    lines = [
        f"{path.name}: {line}"
        for path in (ROOT / "ngd_theory").rglob("*.py")
        if path.name != "_neural_tangents.py"
        for line in path.read_text().splitlines()
        if line.strip().startswith(("import neural_tangents", "from neural_tangents"))
    ]
    assert not lines


@installed
def test_import_brings_no_tensorflow_and_leaves_jax_as_it_was():
    check(
        SNAPSHOT
        + """
from ngd_theory.kernels._neural_tangents import neural_tangents
import jax.core
before = snapshot()
nt = neural_tangents()
after = snapshot()
# On some JAX versions jax.util exists, deprecated: importing it is all that may remain.
assert before[:2] == after[:2]
assert "jax.util" not in sys.modules or hasattr(sys.modules["jax.util"], "__file__")
assert not [n for n in sys.modules if n.partition(".")[0] in ("tensorflow", "tf2jax", "tests", "examples")]
assert "neural_tangents.experimental" not in sys.modules and not hasattr(nt, "experimental")
assert neural_tangents() is nt is sys.modules["neural_tangents"]
""",
        "-W",
        "error",
    )


@installed
def test_threads_get_one_module():
    check("""
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from ngd_theory.kernels._neural_tangents import neural_tangents
barrier = Barrier(8)
def load(_):
    barrier.wait()
    return neural_tangents()
with ThreadPoolExecutor(8) as pool:
    modules = list(pool.map(load, range(8)))
assert len({id(m) for m in modules}) == 1 and modules[0].stax.Dense
""")


@installed
def test_a_module_imported_before_is_taken_as_it_is():
    check("""
import sys, types
theirs = types.ModuleType("neural_tangents")
sys.modules["neural_tangents"] = theirs
from ngd_theory.kernels._neural_tangents import neural_tangents
assert neural_tangents() is theirs
""")


def test_a_failed_import_names_versions_and_leaves_nothing(tmp_path):
    package = tmp_path / "neural_tangents"
    package.mkdir()
    (package / "__init__.py").write_text("from . import part\nfrom jax.core import NoSuchName\n")
    (package / "part.py").write_text("")
    check(
        SNAPSHOT
        + """
from ngd_theory.errors import NGDTheoryError
from ngd_theory.kernels._neural_tangents import neural_tangents
before = snapshot()
for _ in range(2):
    try:
        neural_tangents()
    except NGDTheoryError as error:
        message = str(error)
        assert isinstance(error, ImportError) and "NoSuchName" in message
        assert jax.__version__ in message and "0.5.3" in message and "--no-deps" in message
    else:
        raise AssertionError
assert before[:2] == snapshot()[:2]
assert not [n for n in sys.modules if n.startswith("neural_tangents")]
""",
        path=[tmp_path],
    )


def test_absence_says_what_to_install_and_spares_the_closed_forms():
    check("""
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "neural_tangents" else find(name, *a)
import jax, ngd_theory as ngd
from ngd_theory.kernels import infinite
net, x = ngd.networks.mlp(3, [4], 1), jax.numpy.ones((2, 3))
assert infinite.layerwise_ntk(net, x).shape == (2, 2, 2)
try:
    infinite.layerwise_ntk(net, x, source="neural-tangents")
except ngd.errors.NGDTheoryError as error:
    assert "not installed" in str(error) and "pip install --no-deps neural-tangents" in str(error)
else:
    raise AssertionError
""")


def test_these_are_our_tests():
    # The wheel of neural-tangents installs a package `tests`; pytest must not have taken it for ours.
    module = sys.modules[__name__]
    assert Path(module.__file__).is_relative_to(ROOT / "tests")
    assert "site-packages" not in module.__file__
    parent = sys.modules.get("tests")
    assert parent is None or "site-packages" not in str(getattr(parent, "__file__", None))

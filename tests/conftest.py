"""float64, shapes checked by jaxtyping and beartype, and the helper modules on the path."""

import itertools
import os
import sys
import zlib
from importlib import import_module
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

sys.path.insert(0, str(Path(__file__).with_name("helpers")))
jax.config.update("jax_enable_x64", True)
# Most of the time goes into compiling some ten thousand small programs: much less with these two. The second is an
# extra option, which a JAX that does not know it ignores; processes that tests start inherit it.
OLD_EMITTERS = "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
# xdist's workers are not given the options of the command line before this file is read.
if "--optimised" in (*sys.argv, *os.environ.get("PYTEST_ADDOPTS", "").split()):
    os.environ["NGD_TESTS_OPTIMISED"] = "1"
if "NGD_TESTS_OPTIMISED" not in os.environ:
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {OLD_EMITTERS}"
# Before anything imports the package, or its annotations go unchecked.
install_import_hook("ngd_theory", "typecheck.checker")
# A second run compiles nothing. After the hook, as it imports the package.
import_module("ngd_theory.compilation_cache").turn_on()
# OpenBLAS's threads spin after a call: two processes of tests would take the processors from each other.
if "NGD_TESTS_OPTIMISED" not in os.environ:
    import_module("ngd_theory.threads").limit_blas_threads()


def pytest_addoption(parser):
    parser.addoption(
        "--whole",
        action="store_true",
        help="slow tests too, and of each test the cases that show every pair of its values, not one case",
    )
    parser.addoption(
        "--optimised",
        action="store_true",
        help="with XLA's optimisations, as users' programs have them: some tests, in twice the time",
    )


def pytest_collection_modifyitems(config, items):
    """Leave out slow tests and all but one case of each test (``--whole``: cases that show no new pair of values)."""
    whole = config.getoption("--whole")
    groups = {}
    for item in items:
        if whole or len(items) == 1 or item.get_closest_marker("slow") is None:
            groups.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept = {item for group in groups.values() for item in covering(group, 2 if whole else 0)}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def covering(group, strength):
    """Cases of one test that together show every combination of ``strength`` of its values; for 0 a single one."""
    seen, kept = set(), []
    # Not in their order, in which the last value of a grid comes late.
    for item in sorted(group, key=lambda item: zlib.crc32(item.nodeid.encode())):
        spec = getattr(item, "callspec", None)
        values = [] if spec is None else [f"{n}={v!r}" for n, v in sorted(spec.params.items())]
        new = set(itertools.combinations(values, min(strength, len(values)))) - seen
        if new:
            seen |= new
            kept.append(item)
    return kept


#: A process may have 65,530 memory mappings on Linux, and every compiled program takes some: beyond, it is killed.
MAPPINGS = 30_000
#: Tests between two looks at them: a look takes some milliseconds.
EVERY = 20
numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def few_compiled_programs():
    """Forget compiled programs before there are too many."""
    yield
    maps = Path("/proc/self/maps")
    if next(numbers) % EVERY or not maps.exists():
        return
    if maps.read_bytes().count(b"\n") > MAPPINGS:
        jax.clear_caches()


@pytest.fixture
def installed():
    """Skip where neural-tangents is not installed; fail where it is and cannot be imported."""
    from ngd_theory.kernels._neural_tangents import NeuralTangentsError, neural_tangents

    try:
        neural_tangents()
    except NeuralTangentsError as error:
        if "not installed" in str(error):
            pytest.skip(str(error))
        raise

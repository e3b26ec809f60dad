"""float64, shapes checked by jaxtyping and beartype, and the helper modules on the path."""

import itertools
import os
import sys
from importlib import import_module
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

sys.path.insert(0, str(Path(__file__).with_name("helpers")))
jax.config.update("jax_enable_x64", True)
# Most of the time goes into compiling some ten thousand small programs: much less with these two. The second is an
# extra option, which a JAX that does not know it ignores; processes that tests start inherit it.
jax.config.update("jax_disable_most_optimizations", True)
OLD_EMITTERS = "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {OLD_EMITTERS}"
# Before anything imports the package, or its annotations go unchecked.
install_import_hook("ngd_theory", "typecheck.checker")
# A second run compiles nothing. After the hook, as it imports the package.
import_module("ngd_theory.compilation_cache").turn_on()

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

"""float64, shapes checked by jaxtyping and beartype, and the helper modules on the path."""

import sys
from pathlib import Path

import jax
from jaxtyping import install_import_hook

sys.path.insert(0, str(Path(__file__).with_name("helpers")))
jax.config.update("jax_enable_x64", True)
# Nearly all the time goes into compiling some thousand small programs: half of it with this.
jax.config.update("jax_disable_most_optimizations", True)
# Before anything imports the package, or its annotations go unchecked.
install_import_hook("ngd_theory", "typecheck.checker")

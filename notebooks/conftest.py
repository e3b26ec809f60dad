"""How `make notebooks` runs them: a warning in a cell is an error, and `--overwrite` writes clean files."""

import os
import tempfile
from pathlib import Path

import nbformat
import pytest

from ngd_theory import compilation_cache

# IPython runs this in every kernel once it is up; what the kernel itself warns of then (at its end) stays a warning.
STARTUP = """import warnings

warnings.simplefilter("error")
warnings.filterwarnings("default", module=r"ipykernel\\.")
del warnings
"""
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


# Less compilation, as in tests/conftest.py; kernels inherit it.
OLD_EMITTERS = "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"


def pytest_configure(config):
    folder = tempfile.TemporaryDirectory(prefix="ipython-", ignore_cleanup_errors=True)
    config.add_cleanup(folder.cleanup)
    startup = Path(folder.name, "profile_default", "startup", "warnings_are_errors.py")
    startup.parent.mkdir(parents=True)
    startup.write_text(STARTUP)
    os.environ["IPYTHONDIR"] = folder.name
    # Kernels inherit it too.
    if (programs := compilation_cache.turn_on()) is not None:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(programs)
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {OLD_EMITTERS}"


def joined(outputs):
    """The same with neighbouring pieces of one stream put together: where they were cut is chance."""
    kept = []
    for output in outputs:
        last = kept[-1] if kept else {}
        if output.output_type == "stream" and last.get("name") == output.name:
            last.text += output.text
        else:
            kept.append(output)
    return kept


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item):
    """No times or versions in a file that `--overwrite` wrote, and what one cell prints in one piece."""
    if not item.config.getoption("overwrite", False):
        return
    notebook = nbformat.read(item.path, as_version=4)
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    nbformat.write(notebook, item.path)

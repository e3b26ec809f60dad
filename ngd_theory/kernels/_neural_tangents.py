"""The one place that imports neural-tangents, on every JAX and without TensorFlow.

neural-tangents 0.6.5, its last release, asks JAX for names that have moved. So ``import neural_tangents``
fails on JAX >= 0.6. Its ``experimental`` package imports TensorFlow. Only during the import here, the moved
names are put where it looks for them, taken from their public places, and ``neural_tangents.experimental``
is an empty module. Names that exist are left alone, except those that JAX serves only with a deprecation
warning. Afterwards everything is as it was.

Its wheel also installs top-level packages ``tests`` and ``examples``; nothing here imports them.
"""

import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType

import jax
from jax.extend import core as extend_core

from ngd_theory.errors import NGDTheoryError

VERSION = "0.6.5"
#: JAX versions on which `make compat` imports it and compares its kernels.
TESTED_JAX = ("0.5.3", "0.6.2", "0.7.2", "0.10.2", "0.11.2", "0.12.0.1")
INSTALL = f"pip install --no-deps neural-tangents=={VERSION} && pip install frozendict"

_NAME = "neural_tangents"
_LOCK = threading.RLock()
_loaded: ModuleType | None = None


class NeuralTangentsError(NGDTheoryError, ImportError):
    """neural-tangents is not installed, or cannot be imported with this JAX."""


def neural_tangents() -> ModuleType:
    """Return the module ``neural_tangents``, imported at the first call.

    Structured derivatives (``NtkImplementation.STRUCTURED_DERIVATIVES``) do not work on any JAX that
    this package supports; the analytic kernels, ``predict``, Monte Carlo and the other empirical kernels do.

    Raises
    ------
    NeuralTangentsError
        If it is missing or cannot be imported: the message says what to install. The import can be tried again.
    """
    global _loaded
    with _LOCK:
        if _loaded is None:
            _loaded = _load()
        return _loaded


def _load() -> ModuleType:
    if _NAME in sys.modules:
        return importlib.import_module(_NAME)
    if importlib.util.find_spec(_NAME) is None:
        raise NeuralTangentsError(
            f"neural-tangents is not installed. Install it without the TensorFlow it declares: {INSTALL}"
        )
    before = set(sys.modules)
    try:
        with _stand_ins():
            module = importlib.import_module(_NAME)
    except Exception as error:
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == _NAME:
                del sys.modules[name]
        raise NeuralTangentsError(
            f"neural-tangents cannot be imported with JAX {jax.__version__} ({error}). Version {VERSION} "
            f"was tested with JAX {', '.join(TESTED_JAX)}: install one of these, and {INSTALL}. "
            'For dense and residual networks source="closed-form" does not need it.'
        ) from error
    # Now `import neural_tangents.experimental` means the real one again.
    if getattr(module, "experimental", None) is not sys.modules.get(f"{_NAME}.experimental"):
        delattr(module, "experimental")
    return module


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Put the moved names where neural-tangents looks for them; remove them at the end."""
    with ExitStack() as undo:
        moved = {
            n: getattr(extend_core, n) for n in ("Jaxpr", "JaxprEqn", "Literal", "Var", "Primitive")
        }
        _attributes(undo, importlib.import_module("jax.core"), moved)
        # It is only the key of two rules for structured derivatives.
        zeros_like = {"zeros_like_p": extend_core.Primitive("zeros_like")}
        _attributes(undo, importlib.import_module("jax.interpreters.ad"), zeros_like)
        safe = {"safe_map": _safe_map, "safe_zip": _safe_zip}
        try:
            _attributes(undo, importlib.import_module("jax.util"), safe)
        except ModuleNotFoundError:
            _module(undo, "jax.util", safe)
        _module(undo, f"{_NAME}.experimental", {})
        yield


def _attributes(undo: ExitStack, module: ModuleType, values: dict) -> None:
    for name, value in values.items():
        # Not hasattr: that gives a warning for a deprecated name.
        if name not in vars(module):
            setattr(module, name, value)
            undo.callback(delattr, module, name)


def _module(undo: ExitStack, name: str, values: dict) -> None:
    if name not in sys.modules:
        module = ModuleType(name, "Stand-in for the import of neural-tangents.")
        vars(module).update(values)
        sys.modules[name] = module
        undo.callback(sys.modules.pop, name, None)


def _safe_zip(*sequences):
    return list(zip(*sequences, strict=True))


def _safe_map(function, *sequences):
    return [function(*items) for items in _safe_zip(*sequences)]

"""Every public name has a docstring, shows the shapes of its arrays, and stands on a page of docs/api.

Public are the names in ``__all__`` of every sub-package, and all but private names of the modules in `MODULES`.
"""

import importlib
import inspect
import pkgutil
import re
import types
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike

import ngd_theory

PAGES = Path(__file__).resolve().parents[1] / "docs" / "api"
#: Public modules that are one file.
MODULES = (
    "ngd_theory.errors",
    "ngd_theory.losses",
    "ngd_theory.references",
    "ngd_theory.testing",
)
#: A program and its parts, documented in docs/command_line.md; a table of loaders behind `data.load`.
NOT_FOR_IMPORT = ("ngd_theory.cli", "ngd_theory.data.sources")
#: One shape in words: (N, C), (N*C, N'*C), (N,), (3,), (N, *input_shape), (NC, NC).
SHAPE = re.compile(r"\((?:[\w*.'^ +]+,)+[\w*.'^ +]*\)")


def packages():
    found = pkgutil.walk_packages(ngd_theory.__path__, "ngd_theory.")
    names = (m.name for m in found if m.ispkg and "._" not in m.name)
    return [importlib.import_module(n) for n in names if n not in NOT_FOR_IMPORT]


def names_of(module):
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (
            getattr(value, "__module__", None) == module.__name__
            or (name.isupper() and not inspect.ismodule(value))
        )
    ]


def public():
    """Dotted name -> object of every public class, function and constant."""
    found = {}
    for module in (*packages(), *map(importlib.import_module, MODULES)):
        for name in names_of(module):
            value = getattr(module, name)
            if not inspect.ismodule(value):
                found[f"{module.__name__}.{name}"] = value
    return found


PUBLIC = public()


def is_documented_by_itself(value):
    """A class or function; a constant, or a union of types, cannot have a docstring of its own."""
    return inspect.isclass(value) or inspect.isroutine(value)


def members(cls):
    """Public methods and properties that the package itself defines, by name."""
    for name, value in inspect.getmembers(cls):
        if name.startswith("_") or name in getattr(cls, "__dataclass_fields__", {}):
            continue
        owner = next(c for c in cls.__mro__ if name in vars(c))
        value = vars(owner)[name]
        kinds = (types.FunctionType, property, cached_property, classmethod, staticmethod)
        # A named tuple's field, a pydantic validator or an enum's member is none of these.
        if owner.__module__.startswith("ngd_theory") and isinstance(value, kinds):
            yield name, value


def function_of(value):
    for name in ("fget", "func", "__func__"):
        value = getattr(value, name, value)
    return value


#: Dotted name -> function, of all public functions, methods and properties.
FUNCTIONS = {
    **{n: f for n, f in PUBLIC.items() if inspect.isroutine(f)},
    **{
        f"{n}.{member}": function_of(value)
        for n, cls in PUBLIC.items()
        if inspect.isclass(cls)
        for member, value in members(cls)
    },
}


def docstring(name, function):
    """The function's own, or the one it overrides."""
    cls, _, member = name.rpartition(".")
    return inspect.getdoc(getattr(PUBLIC[cls], member) if cls in PUBLIC else function) or ""


def is_array(annotation):
    """Whether a parameter is an array of at least one axis; a scalar one needs no shape."""
    parts = (annotation, *getattr(annotation, "__args__", ()))
    if annotation == ArrayLike or any(p is np.ndarray for p in parts):
        return True
    return any(getattr(p, "dim_str", "").strip() for p in parts)


def entry(doc, name):
    """What the Parameters of a NumPy docstring say of one of them; None without an entry."""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[\w ]*\n-{3,}|\Z)", doc, re.M | re.S)
    if section is None:
        return None
    start = re.compile(
        rf"^(?:[\w*]+, )*\*{{0,2}}{name}(?:, [\w*]+)*(?: :|$).*(?:\n(?: .*|$))*", re.M
    )
    found = start.search(section[1])
    return found and found[0]


def test_the_package_has_public_names():
    for name in ("networks.mlp", "fisher.KFAC", "kernels.infinite.ntk", "testing.assert_isotropic"):
        assert f"ngd_theory.{name}" in PUBLIC
    assert "ngd_theory.fisher.KFAC.natural_gradient" in FUNCTIONS
    assert "ngd_theory.networks.Network.depth" in FUNCTIONS


def test_every_public_class_and_function_has_a_docstring():
    named = {n: v for n, v in PUBLIC.items() if is_documented_by_itself(v)}
    # A dataclass without one gets its signature from the standard library.
    bare = [
        n
        for n, v in named.items()
        if not (v.__doc__ or "").strip() or v.__doc__.startswith(f"{v.__name__}(")
    ]
    assert not bare


def test_every_public_method_and_property_has_a_docstring():
    assert not [n for n, f in FUNCTIONS.items() if not docstring(n, f).strip()]


def arrays(function):
    return [n for n, p in inspect.signature(function).parameters.items() if is_array(p.annotation)]


def shapeless(name, function):
    """Array parameters whose shape the reader is not told.

    A function says it in the entry of the parameter. A method or a property of one line may leave it to the annotation,
    which the page shows; then jaxtyping names the axes.
    """
    doc = docstring(name, function)
    is_method = name.rpartition(".")[0] in PUBLIC
    for parameter in arrays(function):
        text = entry(doc, parameter)
        annotation = inspect.signature(function).parameters[parameter].annotation
        in_signature = any(
            getattr(a, "dim_str", "") not in ("", "...")
            for a in (annotation, *getattr(annotation, "__args__", ()))
        )
        if text is None and is_method and in_signature:
            continue
        if text is None or not SHAPE.search(text):
            yield parameter


def test_every_array_that_a_public_function_takes_has_a_shape():
    checked = [n for n, f in FUNCTIONS.items() if arrays(f)]
    assert len(checked) > 30
    found = {n: list(shapeless(n, FUNCTIONS[n])) for n in checked}
    assert not {n: p for n, p in found.items() if p}


def test_every_public_function_that_returns_arrays_says_their_shapes():
    functions = {n: f for n, f in PUBLIC.items() if inspect.isroutine(f)}
    returning = {
        n: f for n, f in functions.items() if is_array(inspect.signature(f).return_annotation)
    }
    assert len(returning) > 10
    without = []
    for name, function in returning.items():
        doc = docstring(name, function)
        section = re.search(r"^Returns\n-+\n(.*?)(?=^\w[\w ]*\n-{3,}|\Z)", doc, re.M | re.S)
        # One line may say it all, as long as nothing else with a shape goes in.
        told = section[1] if section else doc
        if not SHAPE.search(told):
            without.append(name)
    assert not without


def test_the_rule_about_shapes_can_fail():
    import jaxtyping

    def without(x: jaxtyping.Float[np.ndarray, "N C"]):
        """Take an array.

        Parameters
        ----------
        x : array
            Whatever (it is).
        """

    def with_shape(x: jaxtyping.Float[np.ndarray, "N C"], y: ArrayLike):
        """Take two arrays.

        Parameters
        ----------
        x, y : (N, C)
            The same.
        """

    assert list(shapeless("without", without)) == ["x"]
    assert not list(shapeless("with_shape", with_shape))


@pytest.fixture(scope="module")
def pages():
    return {page: page.read_text() for page in sorted(PAGES.glob("*.md"))}


def resolve(name):
    """What mkdocstrings shows of a name: a module goes before the function that has its name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, last = name.rpartition(".")
        return getattr(importlib.import_module(module), last)


def test_every_public_name_stands_on_an_api_page(pages):
    text = "\n".join(pages.values())
    shown = {id(resolve(name)) for name in re.findall(r"^::: (\S+)$", text, re.M)}
    tabled = set(re.findall(r"^\| `(ngd_theory\.[\w.]+)` \| \S", text, re.M))
    own = {n for n, v in PUBLIC.items() if is_documented_by_itself(v)}
    assert not [n for n in own if id(PUBLIC[n]) not in shown]
    assert not set(PUBLIC) - own - tabled


def test_what_stands_on_an_api_page_exists_and_stands_there_once(pages):
    found = []
    for text in pages.values():
        found += re.findall(r"^::: (\S+)$", text, re.M)
        found += re.findall(r"^\| `(ngd_theory\.[\w.]+)` \|", text, re.M)
    assert len(found) == len(set(found))
    for name in found:
        assert not inspect.ismodule(resolve(name)), name


def test_every_package_has_a_page_that_the_overview_links_to(pages):
    overview = pages[PAGES / "index.md"]
    for page in pages:
        assert page.name == "index.md" or f"]({page.name})" in overview

"""Stop training and resume it later: a pytree of arrays in a plain .npz file, restored bit by bit."""

import os
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ngd_theory.arguments import checked
from ngd_theory.errors import InputError, shown
from ngd_theory.files import written


@checked
def save_state(path: str | os.PathLike[str], tree) -> None:
    """Write a pytree of arrays; a file is written completely or not at all.

    The file is an uncompressed .npz without pickled objects; `jax.tree_util.keystr` names the arrays.

    Parameters
    ----------
    path : path
        Used as it is; no suffix is added.
    tree : pytree of arrays
        Such as ``(params, state)`` of an optimiser.

    Raises
    ------
    InputError
        For a leaf that is not an array of a NumPy type, such as a typed PRNG key (save ``jax.random.key_data``
        of it), bfloat16 or a Python number; and if the file cannot be written.
    """
    arrays = {name: np.asarray(leaf) for name, leaf in _named_leaves(tree)}
    try:
        with written(Path(path)) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    # ValueError: a path without a name, or with a NUL.
    except (OSError, ValueError) as error:
        advice = (
            "" if Path(path).parent.is_dir() else f"; make the folder {Path(path).parent} first"
        )
        why = getattr(error, "strerror", None) or error
        raise InputError(f"cannot write {path}: {why}{advice}") from None


@checked
def load_state(path: str | os.PathLike[str], like) -> Any:
    """Read what `save_state` wrote.

    Parameters
    ----------
    path : path
    like : pytree of arrays or `jax.ShapeDtypeStruct`
        The structure, shapes and dtypes that the file must have, such as ``(params, optimizer.init(params))``.

    Returns
    -------
    like ``like``
        NumPy arrays where ``like`` has them, JAX arrays elsewhere.

    Raises
    ------
    InputError
        If the file cannot be read, or a leaf is missing, not wanted, or of another shape or dtype (the first is named).
    """
    found = _read(Path(path))
    leaves = _named_leaves(like)
    for name, leaf in leaves:
        if name not in found:
            raise InputError(f"{path} has no leaf {name!r}; it was saved from another structure")
        here, there = (f"{a.dtype}{list(a.shape)}" for a in (leaf, found[name]))
        if here != there:
            raise InputError(f"leaf {name!r} is {there} in {path}, and {here} here")
    extra = [name for name in found if name not in dict(leaves)]
    if extra:
        empty = "" if leaves else f": like is {shown(like)}, which has no array"
        raise InputError(f"{path} has a leaf {extra[0]!r} that is not wanted here{empty}")
    arrays = [
        found[name] if isinstance(leaf, np.ndarray) else jnp.asarray(found[name])
        for name, leaf in leaves
    ]
    return jax.tree.unflatten(jax.tree.structure(like), arrays)


def _named_leaves(tree) -> list[tuple[str, Any]]:
    named = [
        (jax.tree_util.keystr(p), leaf) for p, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    for name, leaf in named:
        dtype = getattr(leaf, "dtype", type(leaf).__name__)
        if not isinstance(dtype, np.dtype) or dtype.kind not in "biufc":
            raise InputError(
                f"leaf {name!r} is of type {dtype}, which an .npz file does not hold; "
                "of a PRNG key take jax.random.key_data"
            )
    return named


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        # Not np.load, which takes other kinds of files too.
        with zipfile.ZipFile(path) as file:
            return {
                name.removesuffix(".npy"): np.lib.format.read_array(file.open(name))
                for name in file.namelist()
            }
    # A damaged file can raise any error: encryption, other formats, invalid headers.
    except Exception as error:
        raise InputError(f"cannot read {path}: {error}; save_state writes such files") from None

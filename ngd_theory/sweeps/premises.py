"""Grid points at which a statement's premise cannot hold, known before anything runs.

`PREMISES` maps a name that a study may `allow` to a function of settings and approximation that
returns why the premise fails, or None. These are the conditions of docs/theory.md section 3 that
follow from sizes alone; `ngd_theory.theory.check_conditions` measures the others.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from ngd_theory.claims import Settings
from ngd_theory.data.sources.npz import npz_input_dim

#: Input dimensions of the sources that have one of their own.
_INPUT_DIMS = {"mnist": 784, "digits": 64, "cifar10": 3072}


@lru_cache
def _file_dim(path: Path, modified: int) -> int:
    return npz_input_dim(path)


def _input_rank(settings: Settings, approximation: str) -> str | None:
    dim = settings.chosen_dims[0] or _INPUT_DIMS.get(settings.dataset)
    path = Path(settings.dataset).expanduser()
    if dim is None and path.suffix == ".npz" and path.is_file():
        dim = _file_dim(path, path.stat().st_mtime_ns)
    biased = settings.bias_std > 0
    if dim is None or settings.num_train <= dim + biased:
        return None
    if approximation == "unit-wise":
        mend = "use fewer samples or more input dimensions"
    elif approximation == "kfac" and (biased or not settings.forster):
        mend = "use fewer samples, more input dimensions, or forster = true without biases"
    elif approximation == "kfac-tridiagonal" and settings.depth <= 2:
        mend = "use fewer samples, more input dimensions or depth 3"
    else:
        return None
    return (
        f"{approximation} with {settings.num_train} samples of {dim} input dimensions, so that layer 1 "
        f"disperses at every width: {mend}"
    )


def _width(settings: Settings, approximation: str) -> str | None:
    if settings.depth == 1:
        return None
    outputs = settings.num_train * output_dim(settings)
    kronecker = {"kfac": outputs, "kfac-tridiagonal": outputs}
    needed = {**kronecker, "unit-wise": settings.num_train - (settings.bias_std > 0)}
    if settings.width >= needed.get(approximation, 0):
        return None
    return (
        f"{approximation} at width {settings.width}, too narrow for hidden layers of full rank: it "
        f"takes {needed[approximation]}; widen or use fewer samples"
    )


PREMISES: dict[str, Callable[[Settings, str], str | None]] = {
    "input-rank": _input_rank,
    "width": _width,
}


def broken_premise(settings: Settings, approximation: str) -> tuple[str, str] | None:
    """(name in `PREMISES`, why) of the first premise that fails; None if all may hold."""
    for name, check in PREMISES.items():
        if why := check(settings, approximation):
            return name, why
    return None


def output_dim(settings: Settings) -> int:
    """C as the settings give it; 1, a lower bound, where only the data know."""
    given = settings.chosen_dims[1]
    if given is not None:
        return given
    classes = settings.chosen_classes
    if classes is None:
        return 1
    return 1 if len(classes) == 2 and settings.loss == "mse" else len(classes)

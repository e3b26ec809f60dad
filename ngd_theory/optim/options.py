"""Options of the K-FAC optimiser, checked once."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.arguments import checked_fields, is_known, require_known
from ngd_theory.errors import InputError, choose, shown
from ngd_theory.optim.preconditioners import PRECONDITIONERS

#: A number, or one that varies: a function of the number of steps taken, or an array from another program.
Scheduled: TypeAlias = float | Callable | Float[Array, ""]
#: Options that may vary.
SCHEDULED = ("damping", "factor_damping", "step_size", "momentum", "largest_change")
#: Lower bound of the factor of one change of a damping; long periods would make it zero.
SMALLEST_FACTOR = 1e-8
#: Numbers that the steps use in the type of the parameters.
OF_THE_STEPS = ("l2", "damping", "min_damping", "factor_damping", "step_size", "largest_change")


def varies(value: Any) -> bool:
    """Whether an option is a schedule or an array, such as `optax.inject_hyperparams` gives."""
    return not isinstance(value, str | Real | None)


def value_at(value: Any, count: Array) -> Any:
    """An option after ``count`` steps."""
    return value(count) if callable(value) else value


@checked_fields
@dataclass(frozen=True)
class Options:
    """The arguments of `ngd_theory.optim.kfac`; see there."""

    structure: str
    l2: float
    damping: Scheduled
    min_damping: float
    adapt_damping: bool
    damping_period: int
    damping_rate: float
    factor_damping: Scheduled | None
    adapt_factor_damping: bool
    factor_damping_period: int
    inverse_period: int
    statistics_period: int
    statistics_fraction: float
    curvature_fraction: float
    num_draws: int
    decay: float
    averaging: float
    step_size: Scheduled | None
    momentum: Scheduled | None
    largest_change: Scheduled | None
    reject_worse: bool

    def __post_init__(self):
        choose(PRECONDITIONERS, self.structure, "structure")
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        free = {name for name in SCHEDULED if varies(given[name])}
        self._check_free(free)
        for name in free:
            if not callable(given[name]) and jnp.shape(given[name]) != ():
                raise InputError(f"{name} is {shown(given[name])}; it must be one number")
        fixed = {name: value for name, value in given.items() if name not in free}
        require_known("kfac", fixed)
        for name, value in fixed.items():
            # Python numbers, because an array would be compiled into the steps, and has no hash.
            if not isinstance(value, str | bool | int | None):
                object.__setattr__(self, name, float(value))
        # Arrays that can be read must be in the same ranges.
        arrays = {n: given[n] for n in free if not callable(given[n]) and is_known(given[n])}
        fixed |= {name: float(value) for name, value in arrays.items()}
        counts = ("damping_period", "factor_damping_period", "inverse_period", "statistics_period")
        for name in (*counts, "num_draws"):
            value = getattr(self, name)
            if value < 1:
                raise InputError(f"{name} is {value}; it must be a whole number of at least 1")
            if value >= 2**31:
                raise InputError(f"{name} is {shown(value)}; it must be below 2^31")
        for name in ("statistics_fraction", "curvature_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be in (0, 1]")
        if not 0 < self.damping_rate < 1:
            raise InputError(f"damping_rate is {self.damping_rate}; it must be in (0, 1)")
        for name in ("decay", "averaging"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be in [0, 1)")
        if not 0 <= self.l2 < float("inf"):
            raise InputError(f"l2 is {self.l2}; it must be zero or positive, and finite")
        for name in ("damping", "factor_damping", "largest_change"):
            value = fixed.get(name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"{name} is {value}; it must be positive and finite")
        if not 0 <= self.min_damping <= fixed.get("damping", float("inf")):
            raise InputError(
                f"min_damping is {self.min_damping}; it must be from 0 to damping, {self.damping}"
            )
        step_size, momentum = fixed.get("step_size"), fixed.get("momentum")
        if step_size is not None and not 0 < step_size < float("inf"):
            raise InputError(f"step_size is {self.step_size}; it must be positive, or None")
        if momentum is not None and not 0 <= momentum < 1:
            raise InputError(f"momentum is {self.momentum}; it must be in [0, 1), or None")
        if self.step_size is not None and self.momentum is None:
            raise InputError("momentum=None takes it from the quadratic model: use step_size=None")
        if self.largest_change is not None and self.step_size is None:
            raise InputError("largest_change clips a fixed step; give step_size and momentum too")
        if self.step_size is None and ("momentum" in free or momentum):
            raise InputError("with step_size=None momentum is None (from the same model) or 0")

    def _check_free(self, free: set[str]) -> None:
        """Raise `InputError` if a damping varies and is adapted too."""
        for name in ("damping", "factor_damping"):
            if name in free and getattr(self, f"adapt_{name}"):
                raise InputError(
                    f"{name} is {shown(getattr(self, name))}, which varies, and adapt_{name} changes it too: give "
                    f"adapt_{name}=False, or a plain number to start from (in optax.inject_hyperparams: {name!r} among "
                    "static_args)"
                )
        if "damping" in free and self.reject_worse:
            raise InputError(
                "reject_worse raises the damping after a bad step: give damping as a number"
            )

    @property
    def damping_factor(self) -> float:
        """omega_1: the factor for lambda."""
        return max(self.damping_rate**self.damping_period, SMALLEST_FACTOR)

    @property
    def factor_damping_factor(self) -> float:
        """omega_2: the factor for gamma."""
        return max((19 / 20) ** (self.factor_damping_period / 2), SMALLEST_FACTOR)

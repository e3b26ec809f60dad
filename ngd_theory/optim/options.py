"""Options of the K-FAC optimiser, checked once."""

from dataclasses import dataclass, fields

from ngd_theory.arguments import checked_fields, require_known
from ngd_theory.errors import InputError, choose, shown
from ngd_theory.fisher.kronecker import invert_diagonal, invert_tridiagonal

#: Structure -> (how far apart layers with a joint factor are, how it is inverted).
STRUCTURES = {
    "block-diagonal": (0, invert_diagonal),
    "block-tridiagonal": (1, invert_tridiagonal),
}

#: Dampings change by no smaller one at once: long periods would make it zero.
SMALLEST_FACTOR = 1e-8
#: Numbers that the steps take, in the type of the parameters.
OF_THE_STEPS = (*("l2", "damping", "min_damping", "factor_damping", "step_size", "largest_change"),)


@checked_fields
@dataclass(frozen=True)
class Options:
    """See `ngd_theory.optim.kfac`, whose arguments these are."""

    structure: str
    l2: float
    damping: float
    min_damping: float
    adapt_damping: bool
    damping_period: int
    damping_rate: float
    factor_damping: float | None
    adapt_factor_damping: bool
    factor_damping_period: int
    inverse_period: int
    statistics_period: int
    statistics_fraction: float
    curvature_fraction: float
    num_draws: int
    decay: float
    averaging: float
    step_size: float | None
    momentum: float | None
    largest_change: float | None
    reject_worse: bool

    def __post_init__(self):
        choose(STRUCTURES, self.structure, "structure")
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        require_known("kfac", given)
        for name, value in given.items():
            # Numbers of the host: an array would be compiled into the steps, and has no hash.
            if not isinstance(value, str | bool | int | None):
                object.__setattr__(self, name, float(value))
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
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"{name} is {value}; it must be positive and finite")
        if not 0 <= self.min_damping <= self.damping:
            raise InputError(
                f"min_damping is {self.min_damping}; it must be from 0 to damping, {self.damping}"
            )
        if self.step_size is not None and not 0 < self.step_size < float("inf"):
            raise InputError(f"step_size is {self.step_size}; it must be positive, or None")
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise InputError(f"momentum is {self.momentum}; it must be in [0, 1), or None")
        if self.step_size is not None and self.momentum is None:
            raise InputError("momentum=None takes it from the quadratic model with step_size=None")
        if self.largest_change is not None and self.step_size is None:
            raise InputError("largest_change clips a fixed step; give step_size and momentum too")
        if self.step_size is None and self.momentum:
            raise InputError("with step_size=None momentum is None (from the same model) or 0")

    @property
    def damping_factor(self) -> float:
        """omega_1: what lambda is multiplied by."""
        return max(self.damping_rate**self.damping_period, SMALLEST_FACTOR)

    @property
    def factor_damping_factor(self) -> float:
        """omega_2: what gamma is multiplied by."""
        return max((19 / 20) ** (self.factor_damping_period / 2), SMALLEST_FACTOR)

"""Settings of a verification run, validated before anything is computed."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ngd_theory import fisher
from ngd_theory.data.sources import require_source
from ngd_theory.errors import InputError, choose, shown
from ngd_theory.networks import ACTIVATIONS

#: Those that run under cross-entropy.
CROSS_ENTROPY_APPROXIMATIONS = ("identity", "exact", "block-diagonal")
#: Why the others do not.
_NO_CROSS_ENTROPY = (
    "no tolerance is derived for them where the Fisher of the outputs changes as training goes on"
)
#: Those that run only if they are named, and why.
NAMED_ONLY = {
    "kfac-tridiagonal": "its test predictions are too near those of kfac for the claim distinct-minima, so name it to "
    "run it"
}

#: Counts fit the integers of arrays.
PositiveInt = Annotated[int, Field(ge=1, lt=2**63)]
#: Every layer is compiled by itself: more than this takes hours.
Depth = Annotated[int, Field(ge=1, le=10_000)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Settings(BaseModel):
    """What `ngd_theory.claims.verify` runs. Names and defaults are those of ``ngd-theory verify``."""

    made_by: ClassVar[str] = 'ngd.claims.parse({"dataset": "mnist"})'
    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = "mnist"
    classes: tuple[str, ...] | None = None
    num_train: PositiveInt = 100
    num_test: Annotated[int, Field(ge=0, lt=2**63)] = 100
    width: PositiveInt = 1024
    depth: Depth = 3
    activation: str = "relu"
    weight_std: Positive = 2**0.5
    bias_std: NonNegative = 0.0
    approximations: tuple[str, ...] = ()
    step_scale: Positive = 1.0
    steps: PositiveInt = 5
    damping: NonNegative = 1e-8
    loss: Literal["mse", "cross-entropy"] = "mse"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    precision: Literal["float32", "float64"] = "float64"
    forster: bool = False
    input_dim: PositiveInt | None = None
    output_dim: PositiveInt | None = None
    data_dir: Path | None = None
    kernel: Literal["empirical", "infinite"] = "empirical"

    @field_validator("dataset")
    @classmethod
    def _known_source(cls, name: str) -> str:
        require_source(name)
        return name

    @field_validator("activation")
    @classmethod
    def _known_activation(cls, name: str) -> str:
        choose(ACTIVATIONS, name, "activation")
        return name

    @field_validator("damping")
    @classmethod
    def _damping_with_a_square(cls, damping: float) -> float:
        # K-FAC is given the square.
        if damping > 1e100:
            raise InputError("must be at most 1e100")
        return damping

    @field_validator("approximations")
    @classmethod
    def _known_approximations(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            choose(fisher.APPROXIMATIONS, name, "approximation")
        if len(set(names)) < len(names):
            raise InputError("an approximation is named twice")
        return names

    @model_validator(mode="after")
    def _defined_for_the_loss(self):
        unfit = set(self.approximations) - set(self._available())
        if unfit:
            raise InputError(
                f"{', '.join(sorted(unfit))} cannot be predicted under {self.loss} ({_NO_CROSS_ENTROPY}); choose from "
                + ", ".join(self._available())
            )
        if self.kernel == "infinite" and self.loss != "mse":
            raise InputError("--kernel infinite predicts under mse only; use --kernel empirical")
        return self

    def _available(self) -> tuple[str, ...]:
        names = tuple(fisher.APPROXIMATIONS)
        return CROSS_ENTROPY_APPROXIMATIONS if self.loss == "cross-entropy" else names

    @property
    def chosen_approximations(self) -> tuple[str, ...]:
        """The approximations to run: those named, or all but `left_out`."""
        left_out = self.left_out
        return self.approximations or tuple(n for n in fisher.APPROXIMATIONS if n not in left_out)

    @property
    def left_out(self) -> dict[str, str]:
        """The approximations that do not run though none was named, each with the reason."""
        if self.approximations:
            return {}
        unfit = [n for n in fisher.APPROXIMATIONS if n not in self._available()]
        return {**NAMED_ONLY, **dict.fromkeys(unfit, _NO_CROSS_ENTROPY)}

    @property
    def chosen_dims(self) -> tuple[int | None, int | None]:
        """Input and output dimensions for the data: those named; 784 and 1 for Gaussian inputs."""
        if self.dataset != "gaussian":
            return self.input_dim, self.output_dim
        outputs = 1 if self.loss == "mse" else 2
        return self.input_dim or 784, self.output_dim or outputs

    @property
    def chosen_classes(self) -> tuple[str, ...] | None:
        """The classes to keep: those named, or 0 and 1 for the digit images."""
        if self.classes is None and self.dataset in ("mnist", "digits"):
            return ("0", "1")
        return self.classes


def parse(values: dict[str, Any]) -> Settings:
    """Validate settings.

    Raises
    ------
    InputError
        One line that names every wrong setting, its value and what is allowed.
    """
    try:
        return Settings(**values)
    except ValidationError as error:
        lines = []
        for e in error.errors():
            message = str(e.get("ctx", {}).get("error", e["msg"]))
            name = "--" + "-".join(str(part) for part in e["loc"][:1]).replace("_", "-")
            given = str(e["input"])
            given = given if given.isprintable() and len(given) <= 60 else shown(e["input"])
            lines.append(f"{name} {given}: {message}" if e["loc"] else message)
        raise InputError("; ".join(lines)) from None

"""Settings of an experiment: checked before anything is computed, and the options of ``ngd-theory verify``."""

from collections.abc import Iterable
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ngd_theory import fisher
from ngd_theory.data.sources import require_source
from ngd_theory.errors import InputError, choose, shown
from ngd_theory.networks import ACTIVATIONS

#: Why some approximations do not run under cross-entropy.
_NO_PREDICTION = (
    "no tolerance is derived for them where the Fisher of the outputs changes as training goes on"
)

#: Counts must fit the integers of arrays.
PositiveInt = Annotated[int, Field(ge=1, lt=2**63)]
#: Every layer is compiled by itself: more than this takes hours.
Depth = Annotated[int, Field(ge=1, le=10_000)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
#: Below this, rounding of the outputs hides everything.
Epsilon = Annotated[float, Field(ge=1e-9, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _option(default: Any, help: str, shown: bool = True) -> Any:
    """A setting. If it is not ``shown``, it is an option too, but ``--help`` does not list it."""
    return Field(default, description=help, json_schema_extra={"shown": shown})


#: Architectures that take images, and those whose kernels of infinite width are known.
IMAGES, LIMITS = ("cnn", "conv-resnet"), ("mlp", "cnn", "resnet", "conv-resnet")
#: Architectures whose readout a parameterisation may scale.
PARAMETERIZED = ("mlp", "cnn", "resnet", "conv-resnet")
#: The least and the largest depth of each architecture, and the meaning of its depth.
DEPTHS = {
    "mlp": (1, np.inf, "an mlp has a layer"),
    "cnn": (2, np.inf, "a cnn has a convolution and a dense layer"),
    "resnet": (3, np.inf, "a resnet has depth - 2 blocks between its first and last layer"),
    "conv-resnet": (
        3,
        np.inf,
        "a conv-resnet has depth - 2 blocks between its first and last layer",
    ),
    "transformer": (
        3,
        np.inf,
        "a transformer has depth - 2 blocks of six layers between its first and last one",
    ),
    "recurrent": (3, 3, "a recurrent network has three layers"),
}
#: Settings that were added later. At their defaults they are not part of the identity of a cell.
LATER_NETWORK = ("tokens", "heads", "causal", "token_readout", "norm", "parameterization")
LATER_TRAINING = ("batch_size", "batch_order", "momentum", "momentum_kind")
LATER = (*LATER_NETWORK, *LATER_TRAINING, "own_norms")


class Settings(BaseModel):
    """One network, its data and its training; descriptions and defaults are those of ``ngd-theory verify``."""

    made_by: ClassVar[str] = 'ngd.experiment.parse({"dataset": "mnist"})'
    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = _option("mnist", "mnist, gaussian, PATH.npz, ...")
    classes: tuple[str, ...] | None = _option(None, "Classes to keep, such as 0,1.")
    num_train: PositiveInt = _option(100, "N, training samples.")
    num_test: Annotated[int, Field(ge=0, lt=2**63)] = _option(100, "Test samples.")
    width: PositiveInt = _option(1024, "M, units of a hidden layer.")
    depth: Depth = _option(3, "L, number of affine layers.")
    activation: str = _option("relu", "relu, tanh, erf, gelu or identity.")
    weight_std: Positive = _option(2**0.5, "sigma_w.")
    bias_std: NonNegative = _option(0.0, "sigma_b; 0 leaves the biases out.")
    approximations: tuple[str, ...] = _option((), "Names with commas; by default a choice.")
    step_scale: Positive = _option(0.5, "eta times alpha.")
    steps: PositiveInt = _option(5, "Training steps.")
    laziness: tuple[Epsilon, ...] = _option((), "Epsilons of the lazy family, such as 1e-2,1e-4.")
    damping: NonNegative = _option(1e-8, "rho; 0 is the limit rho -> 0.")
    loss: Literal["mse", "cross-entropy"] = _option("mse", "mse or cross-entropy.")
    seed: Seed = _option(0, "Seed of data choice and parameters.")
    precision: Literal["float32", "float64"] = _option("float64", "float64 or float32.")
    forster: bool = _option(False, "Forster transform of the inputs (N > M_0).")
    own_norms: bool = _option(
        False, "Inputs keep their own norms; else each has norm sqrt(M_0).", shown=False
    )
    input_dim: PositiveInt | None = _option(None, "Principal components to keep (gaussian: M_0).")
    output_dim: PositiveInt | None = _option(None, "C, for gaussian.")
    data_dir: Path | None = _option(None, "Folder of original data files.")
    kernel: Literal["empirical", "infinite"] = _option("empirical", "empirical, or infinite too.")
    architecture: Literal["mlp", "cnn", "resnet", "conv-resnet", "transformer", "recurrent"] = (
        _option("mlp", "mlp, cnn, resnet, transformer, ...")
    )
    image_size: PositiveInt | None = _option(
        None, "Rows and columns of gaussian images.", shown=False
    )
    image_channels: PositiveInt = _option(3, "Channels of gaussian images.", shown=False)
    kernel_size: PositiveInt = _option(3, "Of a convolution.", shown=False)
    stride: PositiveInt = _option(1, "Of a convolution.", shown=False)
    pool: PositiveInt = _option(
        1, "Window of the average pooling after a convolution.", shown=False
    )
    padding: Literal["same", "valid", "circular"] = _option(
        "same", "same, valid or circular.", shown=False
    )
    readout: Literal["flatten", "pool"] = _option(
        "flatten",
        "flatten, or pool: the last layer sees all positions of a cnn, or their mean.",
        shown=False,
    )
    tokens: PositiveInt = _option(
        4, "T: a transformer or recurrent network takes the inputs as so many tokens.", shown=False
    )
    heads: PositiveInt = _option(1, "Of a transformer's attention.", shown=False)
    causal: bool = _option(False, "Whether a token sees those before it only.", shown=False)
    token_readout: Literal["mean", "last"] = _option(
        "mean", "mean or last: a transformer's outputs are of the mean or last token.", shown=False
    )
    norm: Literal["layer", "rms", "none"] = _option(
        "layer", "layer, rms or none: normalisation of a resnet or transformer.", shown=False
    )
    parameterization: Literal["ntk", "mup"] = _option(
        "ntk", "ntk, or mup: the readout is divided by sqrt(M), and rho by M.", shown=False
    )
    sharing: Literal["expand", "reduce"] = _option(
        "expand",
        "expand or reduce: how K-FAC treats positions that share a weight.",
        shown=False,
    )

    batch_size: PositiveInt | None = _option(
        None, "Samples that a step sees; all of them if left out.", shown=False
    )
    batch_order: Literal["epochs", "independent"] = _option(
        "epochs", "epochs, or independent: a new subset at every step.", shown=False
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = _option(
        0.0, "mu: what is kept of the last direction.", shown=False
    )
    momentum_kind: Literal["heavy-ball", "spring"] = _option(
        "heavy-ball",
        "heavy-ball, or spring: only what does not move the outputs of the batch is kept.",
        shown=False,
    )

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
        # K-FAC gets the square, which must be finite.
        if damping > 1e100:
            raise InputError("must be at most 1e100")
        return damping

    @field_validator("laziness")
    @classmethod
    def _apart(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        ordered = sorted(shares)
        if any(near > 0.1 * far * (1 + 1e-9) for near, far in pairwise(ordered)):
            raise InputError("each must be at most a tenth of the next larger one")
        return shares

    @field_validator("approximations")
    @classmethod
    def _known_approximations(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            choose(fisher.APPROXIMATIONS, name, "approximation")
        if len(set(names)) < len(names):
            raise InputError("an approximation is named twice")
        return names

    @model_validator(mode="after")
    def _fit_together(self):
        known = self._predicted()
        if unfit := sorted(set(self.approximations) - set(known)):
            raise InputError(
                f"{', '.join(unfit)} cannot be predicted under {self.loss} ({_NO_PREDICTION}); choose from "
                + ", ".join(known)
            )
        if self.kernel == "infinite" and self.loss != "mse":
            raise InputError("--kernel infinite predicts under mse only; use --kernel empirical")
        if self.kernel == "infinite" and self.architecture not in LIMITS:
            raise InputError(
                f"there is no infinite-width kernel of a {self.architecture} here; use --kernel empirical"
            )
        if self.batch_size is not None and self.batch_size > self.num_train:
            raise InputError(
                f"batch_size is {self.batch_size}; there are {self.num_train} training samples"
            )
        if self.kernel == "infinite" and (self.batch_size or self.momentum):
            raise InputError(
                "--kernel infinite predicts full-batch steps without momentum only; use --kernel empirical"
            )
        if self.forster and self.own_norms:
            raise InputError("forster gives all inputs one norm: leave own_norms out")
        self._check_depth()
        if self.parameterization != "ntk":
            self._check_parameterization()
        if self.architecture in IMAGES:
            self._check_images()
        if self.sharing == "reduce" and (
            self.architecture in ("mlp", "resnet") or self.chosen_approximations != ("kfac",)
        ):
            raise InputError(
                "sharing = reduce is K-FAC's, where positions share weights; "
                f"{', '.join(self.chosen_approximations)} with {self.architecture} does not take it"
            )
        return self

    def _check_depth(self) -> None:
        least, most, why = DEPTHS[self.architecture]
        if not least <= self.depth <= most:
            at_least = "" if least == most else " at least"
            raise InputError(f"depth is {self.depth}: {why}; give depth {least}{at_least}")

    def _check_parameterization(self) -> None:
        name = self.parameterization
        if self.architecture not in PARAMETERIZED:
            raise InputError(
                f"parameterization = {name} is of {', '.join(PARAMETERIZED)}; a {self.architecture} does not take it"
            )
        if self.depth == 1:
            raise InputError(
                f"parameterization = {name} divides the readout by the root of the units before it, and depth 1 has "
                "none: give depth 2 at least"
            )
        if self.kernel == "infinite":
            raise InputError(
                f"parameterization = {name} has no kernel limit, as its features move at every width; use --kernel "
                "empirical"
            )

    def _check_images(self) -> None:
        if self.dataset == "gaussian" and self.image_size is None:
            raise InputError(f"a {self.architecture} on gaussian images needs image_size")
        dims = prod(self.image_shape or ())
        if self.dataset == "gaussian" and self.input_dim not in (None, dims):
            raise InputError(f"input_dim is {self.input_dim}; the images have {dims} numbers")
        if self.dataset != "gaussian" and self.input_dim is not None:
            raise InputError(
                f"a {self.architecture} sees images, not principal components: leave input_dim out"
            )

    def _predicted(self) -> tuple[str, ...]:
        """Approximations whose training is predicted under the loss."""
        known = fisher.APPROXIMATIONS.items()
        return tuple(name for name, cls in known if self.loss in cls.predicted_losses)

    @property
    def chosen_approximations(self) -> tuple[str, ...]:
        """The approximations to run: those named, or all but `left_out`."""
        left_out = self.left_out
        return self.approximations or tuple(n for n in fisher.APPROXIMATIONS if n not in left_out)

    @property
    def left_out(self) -> dict[str, str]:
        """The approximations that the default choice leaves out, each with the reason."""
        if self.approximations:
            return {}
        reasons = {n: fisher.APPROXIMATIONS.named_only(n) for n in fisher.APPROXIMATIONS}
        named = {name: why for name, why in reasons.items() if why}
        unfit = [n for n in fisher.APPROXIMATIONS if n not in self._predicted()]
        return {**named, **dict.fromkeys(unfit, _NO_PREDICTION)}

    def chosen_laziness(self, dtype) -> tuple[float, ...]:
        """The epsilons to train with: those given, or three at which rounding in ``dtype`` does not show."""
        few = (1e-2, 1e-4, 1e-6) if np.finfo(dtype).bits == 64 else (1e-1, 1e-2, 1e-3)
        return self.laziness or few

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(H, W, C_in) of gaussian images; None for other data, whose images have their own shape."""
        if self.image_size is None:
            return None
        return self.image_size, self.image_size, self.image_channels

    @property
    def chosen_dims(self) -> tuple[int | None, int | None]:
        """Input and output dimensions; by default 784 (or the image's) and 1 (cross-entropy: 2) for Gaussian inputs."""
        if self.dataset != "gaussian":
            return self.input_dim, self.output_dim
        inputs = prod(self.image_shape) if self.image_shape else 784
        outputs = 1 if self.loss == "mse" else 2
        return self.input_dim or inputs, self.output_dim or outputs

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
        The message names every wrong setting, its value and what is allowed, in one line.
    """
    try:
        return Settings(**values)
    except ValidationError as error:
        raise InputError("; ".join(_lines(error))) from None


def _lines(error: ValidationError) -> Iterable[str]:
    for e in error.errors():
        message = str(e.get("ctx", {}).get("error", e["msg"]))
        name = "--" + "-".join(str(part) for part in e["loc"][:1]).replace("_", "-")
        given = str(e["input"])
        given = given if given.isprintable() and len(given) <= 60 else shown(e["input"])
        yield f"{name} {given}: {message}" if e["loc"] else message

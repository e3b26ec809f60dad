"""Studies of isotropy layer by layer, in convolutional networks on random images."""

import itertools
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ngd_theory.claims.settings import Depth, NonNegative, PositiveInt
from ngd_theory.errors import InputError, SingularKernelError, choose
from ngd_theory.networks import Network, linearize
from ngd_theory.sweeps.cells import SettingsCell, require_distinct, require_few
from ngd_theory.sweeps.measure import isotropy_columns
from ngd_theory.sweeps.statistics import Outcome, Rule, judge, seed_mean
from ngd_theory.sweeps.table import Column
from ngd_theory.sweeps.validation import InWords, listed
from ngd_theory.sweeps.verdicts import StudyVerdict

#: Which rows a claim is about, by the layer's place.
Place = Literal["first", "hidden", "output", "network"]

COLUMNS: dict[str, Column] = {
    "approximation": Column("string", "public name"),
    "damping_used": Column("float64", "rho that the approximation was given"),
    "layer": Column("int64", "from 1; 0: the whole network"),
    "place": Column("string", "first, hidden (the layers between), output, or network"),
    "positions": Column("int64", "T"),
    "input_rank": Column("int64", "of the (N T, P) matrix a, as measured"),
    "sensitivity_rank": Column("int64", "of the (N C T, M) matrix delta, as measured"),
    "full_rank": Column(
        "bool", "whether both are N T and N C T; of the network: of all its convolutions"
    ),
    "constant": Column("float64", "alpha_l = tr K_l/(NC) as measured"),
    "predicted_constant": Column("float64", "alpha_l of the rank condition"),
    "constant_error": Column("float64", "abs(measured / predicted - 1)"),
    "dispersion": Column("float64", "||K_l - alpha_l I||_F / (alpha_l sqrt(NC))"),
    "min_eigenvalue": Column("float64", "of K_l"),
    "max_eigenvalue": Column("float64", "of K_l"),
}


# Equal networks share their programs: the seeds of one compile nothing.
_init = jax.jit(Network.init, static_argnums=0)
_linearize = jax.jit(linearize, static_argnums=0)

Counts = Annotated[tuple[PositiveInt, ...], BeforeValidator(listed), Field(min_length=1)]


class _Fixed(BaseModel):
    """Settings that a study has one value of; see `LayersSettings`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sharing: Literal["expand", "reduce"] = "expand"
    convolutions: Depth = 2
    kernel_size: PositiveInt = 3
    stride: PositiveInt = 1
    pool: PositiveInt = 1
    image_channels: PositiveInt = 3
    output_dim: PositiveInt = 1
    padding: str = "same"
    readout: str = "flatten"
    activation: str = "tanh"
    bias_std: NonNegative = 0.0
    damping: NonNegative = 0.0
    precision: Literal["float64", "float32"] = "float64"


class LayersSettings(_Fixed):
    """One network and its images.

    Attributes
    ----------
    approximation : str
        One whose map is a sum over layers (`Approximation.by_layers`).
    sharing : {"expand", "reduce"}
        Of `ngd_theory.fisher.KFAC`.
    channels : int
        M, of every convolution.
    convolutions, kernel_size, stride, pool : int
    image_size, image_channels : int
        Gaussian images (image_size, image_size, image_channels).
    num_samples, output_dim : int
        N and C.
    padding, readout, activation : str
        See `ngd_theory.networks.cnn`.
    bias_std, damping : float
    seed : int
    precision : {"float64", "float32"}
    """

    approximation: str = "kfac"
    channels: PositiveInt
    image_size: PositiveInt
    num_samples: PositiveInt
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="after")
    def _possible(self):
        if not self.make_approximation().by_layers:
            raise InputError(
                f"{self.approximation!r} couples the layers; its map is no sum of theirs"
            )
        self.network()
        return self

    def make_approximation(self):
        """The approximation with its options."""
        from ngd_theory import fisher

        options = {} if self.sharing == "expand" else {"sharing": self.sharing}
        return fisher.by_name(self.approximation, **options)

    def layer_constants(self) -> tuple[float, ...] | None:
        """What the theory says of each layer's constant, if anything."""
        sizes = self.network().layer_sizes
        return self.make_approximation().layer_constants(sizes, self.num_samples)

    def network(self):
        """The network, without parameters."""
        from ngd_theory.networks import cnn

        return cnn(
            (self.image_size, self.image_size, self.image_channels),
            [self.channels] * self.convolutions,
            self.output_dim,
            self.kernel_size,
            self.stride,
            self.padding,
            self.activation,
            self.readout,
            bias_std=self.bias_std,
            pool=self.pool,
        )


#: Settings that are columns too.
CONFIG_COLUMNS: tuple[str, ...] = tuple(
    n for n in LayersSettings.model_fields if n != "approximation"
)
#: Those that a study lists several values of.
AXES = ("channels", "image_size", "num_samples")


@dataclass(frozen=True)
class LayersCell(SettingsCell):
    """One network of a study."""

    kind: ClassVar[str] = "layers"
    format: ClassVar[int] = 3
    settings: LayersSettings

    @property
    def shape(self) -> str:
        """Equal for the seeds of one network."""
        return self.settings.model_copy(update={"seed": 0}).model_dump_json()

    @property
    def description(self) -> str:
        """For progress."""
        s = self.settings
        size = f"{s.image_size} x {s.image_size}"
        return f"{s.approximation}, M = {s.channels}, {size}, N = {s.num_samples}, seed {s.seed}"


class LayersClaim(BaseModel):
    """A statement about the layers at some places.

    Attributes
    ----------
    statement : str
    of : {"dispersion", "constant_error", "constant"}
    statistic : {"max", "min", "mean"}
        Over the rows of a seed.
    places : tuple of {"first", "hidden", "output", "network"}
        One verdict each.
    where : dict
        Settings, or ``full_rank``, that the rows must have.
    rule : str
    expect : {"PASS", "FAIL"}
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    statement: str = Field(min_length=1)
    of: Literal["dispersion", "constant_error", "constant"]
    statistic: Literal["max", "min", "mean"]
    places: tuple[Place, ...] = Field(min_length=1)
    where: dict[str, bool | int | float | str] = {}
    rule: str
    expect: Literal["PASS", "FAIL"] = "PASS"

    @model_validator(mode="after")
    def _known(self):
        Rule.parse(self.rule)
        for name, value in self.where.items():
            choose(dict.fromkeys((*CONFIG_COLUMNS, "full_rank")), name, "setting")
            if name == "full_rank" and not isinstance(value, bool):
                raise InputError(f"where.full_rank is {value!r}; it must be true or false")
        return self


class LayersStudy(_Fixed, metaclass=InWords):
    """What a study file with ``kind = "layers"`` holds: settings, of which `AXES` may be lists."""

    made_by: ClassVar[str] = 'ngd.sweeps.read("my.toml")'
    kind: Literal["layers"]
    title: str = Field(min_length=1)
    statement: str = Field(min_length=1)
    approximations: tuple[str, ...] = Field(("kfac",), min_length=1)
    channels: Counts
    image_size: Counts
    num_samples: Counts
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    claims: tuple[LayersClaim, ...] = ()

    @model_validator(mode="after")
    def _whole(self):
        require_few(self.num_cells)
        cells = self.cells()
        require_distinct(cells, "a network")
        for claim in self.claims:
            if claim.of == "constant_error":
                unknown = [c.description for c in cells if c.settings.layer_constants() is None]
                if unknown:
                    raise InputError(
                        f"claim {claim.statement!r}: no constant is predicted for {unknown[0]}; claim its "
                        "dispersion or constant"
                    )
            for name, value in claim.where.items():
                known = {getattr(cell.settings, name, value) for cell in cells}
                if value not in known:
                    raise InputError(
                        f"claim {claim.statement!r}: no network has where.{name} = {value!r}; there are "
                        + ", ".join(map(str, sorted(known)))
                    )
        return self

    @property
    def num_cells(self) -> int:
        """How many networks there are."""
        axes = (self.approximations, *(getattr(self, name) for name in AXES), self.seeds)
        return prod(map(len, axes))

    def cells(self) -> list[LayersCell]:
        """Every network, in the order of the file."""
        fixed = {name: getattr(self, name) for name in _Fixed.model_fields}
        axes = (self.approximations, *(getattr(self, name) for name in AXES), self.seeds)
        names = ("approximation", *AXES, "seed")
        points: list[dict[str, Any]] = [
            dict(zip(names, point, strict=True)) for point in itertools.product(*axes)
        ]
        return [LayersCell(LayersSettings(**fixed, **point)) for point in points]


def measure_cell(cell: LayersCell) -> list[dict[str, Any]]:
    """A row a layer, and one of the network."""
    from ngd_theory.fisher.solve import gram_rank
    from ngd_theory.theory.isotropy import summarise

    s, dtype = cell.settings, cell.require_precision()
    approximation, net = s.make_approximation(), s.network()
    damping = approximation.matched_damping(s.damping)
    x = np.random.default_rng(s.seed).normal(size=(s.num_samples, *net.input_shape))
    params = _init(net, jax.random.key(s.seed))
    lin = _linearize(net, params, jnp.asarray(x, dtype))
    maps = approximation.layer_maps(lin, damping)
    constants = s.layer_constants()
    predicted = [None] * net.depth if constants is None else list(constants)
    places = ["first", *["hidden"] * (net.depth - 2), "output"]
    rows = []
    for index, (layer, size, k, alpha, place) in enumerate(
        zip(lin.layers, net.layer_sizes, maps, predicted, places, strict=True), start=1
    ):
        n, c, t, _ = layer.sensitivities.shape
        if not bool(jnp.isfinite(k).all()):
            raise SingularKernelError(
                f"layer {index}: the map is not finite with damping {damping:g} in {k.dtype}: raise the damping, use "
                "float64, or damping 0 (pseudo-inverse)"
            )
        ranks = [
            gram_rank(np.asarray(v).reshape(-1, v.shape[-1]))
            for v in (layer.inputs, layer.sensitivities)
        ]
        rows.append(
            {
                "layer": index,
                "place": place,
                "positions": t,
                "input_rank": ranks[0],
                "sensitivity_rank": ranks[1],
                "full_rank": ranks == [n * t, n * c * size.geometry.live_positions],
                **isotropy_columns(summarise(k), alpha),
            }
        )
    whole = {
        "layer": 0,
        "place": "network",
        "positions": 0,
        "input_rank": 0,
        "sensitivity_rank": 0,
        "full_rank": all(row["full_rank"] for row in rows[:-1]),
        **isotropy_columns(
            summarise(sum(maps[1:], maps[0])), None if constants is None else sum(constants)
        ),
    }
    common = {"approximation": s.approximation, "damping_used": damping}
    return [{**common, **row} for row in (*rows, whole)]


def config_row(settings: dict[str, Any]) -> dict[str, Any]:
    """`CONFIG_COLUMNS` of a stored cell."""
    return {name: settings[name] for name in CONFIG_COLUMNS}


def evaluate(study: LayersStudy, frame: pd.DataFrame) -> tuple[StudyVerdict, ...]:
    """Judge every claim of a study, for each of its approximations and places."""
    return tuple(
        _judge(study, claim, name, place, frame)
        for claim in study.claims
        for name in study.approximations
        for place in claim.places
    )


def _judge(
    study: LayersStudy, claim: LayersClaim, name: str, place: str, frame: Any
) -> StudyVerdict:
    where = ", ".join(f"{key} = {value}" for key, value in claim.where.items())
    what = f"{claim.statistic} {claim.of} of the {place}{'' if place == 'network' else ' layers'}"
    names = (
        *(claim.statement, name, f"{what} ({where})" if where else what),
        *(claim.rule, claim.expect),
    )
    about = [
        cell
        for cell in study.cells()
        if cell.settings.approximation == name
        and all(getattr(cell.settings, k, v) == v for k, v in claim.where.items())
    ]
    left = len({cell.id for cell in about} - set(frame["cell"]))
    if left > 0:
        why = f"{left} of the {len(about)} networks are not finished"
        return StudyVerdict(*names, Outcome.INCONCLUSIVE, None, why)
    rows = frame[(frame["approximation"] == name) & (frame["place"] == place)]
    for key, value in claim.where.items():
        rows = rows[rows[key] == value]
    if rows.empty:
        return StudyVerdict(*names, Outcome.NOT_APPLICABLE, None, "no layer is as the claim says")
    # What is not a number must not be passed over.
    of_seed = rows.groupby("seed")[claim.of]
    estimate = seed_mean(of_seed.agg(claim.statistic).where(~of_seed.agg(lambda v: v.isna().any())))
    judgement = judge(estimate, Rule.parse(claim.rule))
    return StudyVerdict(*names, judgement.outcome, estimate, judgement.why)

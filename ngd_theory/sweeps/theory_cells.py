"""One configuration of a study of the theory, and what is measured on it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

from ngd_theory.data import DataError
from ngd_theory.experiment.building import DataSize, data_digest, data_size, load_data
from ngd_theory.experiment.columns import rows
from ngd_theory.experiment.experiment import Experiment
from ngd_theory.experiment.pipeline import measure
from ngd_theory.experiment.settings import LATER, LATER_NETWORK, LATER_TRAINING, Settings
from ngd_theory.sweeps.cells import Cell, canonical, settings_columns

#: What a study may measure, and the parts of an experiment that this needs.
MEASUREMENTS: Mapping[str, tuple[str, ...]] = {
    "isotropy": (),
    "trajectory": ("training",),
    "gap": ("training",),
    "lazy": ("training", "lazy", "step", "regime"),
    "rivals": ("training",),
    "movement": ("training",),
    "kernel-drift": ("training", "drift"),
    "eigenvalues": (),
    "limit": ("training", "limit"),
    "layers": ("layers",),
    "batches": ("training", "batches"),
    "generalisation": ("generalisation",),
    "features": ("training", "features"),
}
Measurement = Literal[
    "isotropy",
    "trajectory",
    "gap",
    "lazy",
    "rivals",
    "movement",
    "kernel-drift",
    "eigenvalues",
    "limit",
    "layers",
    "batches",
    "generalisation",
    "features",
]
assert get_args(Measurement) == tuple(MEASUREMENTS)
#: Measurements that are defined for MSE only, where the map is fixed.
MSE_MEASUREMENTS = frozenset(("rivals", "limit", "batches", "generalisation"))

#: Measurements that do not support mini-batches or momentum.
PLAIN_MEASUREMENTS = frozenset(("limit", "generalisation"))

#: Settings that each table of the file may hold. `GRID` may vary all settings but `_NOT_VARIED`.
NETWORK = (
    *("activation", "weight_std", "bias_std", "width", "depth", "architecture", "kernel_size"),
    *("stride", "pool", "padding", "readout", "sharing", *LATER_NETWORK),
)
DATA = (
    *("dataset", "classes", "num_train", "num_test", "forster", "own_norms", "input_dim"),
    *("output_dim", "image_size", "image_channels", "data_dir", "seed"),
)
_NOT_VARIED = ("approximations", "precision", "data_dir", "kernel", "laziness")
GRID = settings_columns(Settings, *_NOT_VARIED)
#: Settings that are columns too.
CONFIG_COLUMNS = settings_columns(Settings, "approximations", "data_dir", "kernel", "laziness")
#: Settings that the rows of a data set depend on.
_ROWS = (
    *("dataset", "classes", "num_train", "num_test", "seed", "loss", "data_dir", "input_dim"),
    *("output_dim", "image_size", "image_channels"),
)
#: Settings that the sizes of a data set depend on.
SIZES = tuple(name for name in _ROWS if name not in ("num_train", "num_test", "seed"))
#: Settings that change the numbers of a cell but not the programs compiled for it.
_NOT_SHAPES = frozenset(("seed", "damping", "step_scale", "data_dir"))
#: Settings that matter only after a network is drawn and linearised.
_AFTERWARDS = frozenset(
    ("approximations", "step_scale", "steps", "laziness", "damping", "sharing", *LATER_TRAINING)
)


@dataclass(frozen=True)
class TheoryCell(Cell):
    """One configuration of network, data and training, and what to measure on it.

    Attributes
    ----------
    settings : Settings
        Network, data, damping and training, and the approximations to measure.
    measured : tuple of str
        Names in `MEASUREMENTS`.
    """

    kind: ClassVar[str] = "theory"
    format: ClassVar[int] = 4
    #: The last experiment, by the arguments with which it began.
    kept: ClassVar[dict[tuple[str, str, bool], Experiment]] = {}
    settings: Settings
    measured: tuple[str, ...] = ()

    @property
    def config(self) -> dict[str, Any]:
        """Everything that determines the cell's numbers, except the data and the order of names."""
        found = super().config
        found["settings"]["approximations"] = sorted(self.settings.chosen_approximations)
        if "lazy" not in self.measured:
            del found["settings"]["laziness"]  # these runs are not made
        for name in LATER:
            if getattr(self.settings, name) == Settings.model_fields[name].default:
                del found["settings"][name]
        return {**found, "measure": sorted(self.measured)}

    @property
    def description(self) -> str:
        """Sizes, activation and seed, for progress."""
        s = self.settings
        return f"M = {s.width}, L = {s.depth}, N = {s.num_train}, {s.activation}, seed {s.seed}"

    @property
    def shape(self) -> str:
        """All settings but `_NOT_SHAPES`, and whether rho is 0."""
        settings = self.settings.model_dump(mode="json", exclude=set(_NOT_SHAPES))
        return canonical({**settings, "damped": self.settings.damping > 0})

    @property
    def start(self) -> str:
        """All settings but `_AFTERWARDS`: a sweep over dampings draws and linearises a network once."""
        return canonical(self.settings.model_dump(mode="json", exclude=set(_AFTERWARDS)))

    @property
    def data_key(self) -> str:
        """The settings that choose the rows."""
        return canonical(self.settings.model_dump(mode="json", include=set(_ROWS)))

    def read_digest(self) -> str:
        """Digest of the rows before they are transformed."""
        return data_digest(self.settings)

    def measure(self) -> list[dict[str, Any]]:
        """One row for each approximation and step, and for each layer and each epsilon if those are measured.

        Raises
        ------
        InputError
            If the data are missing or are not those of the cell, or the precision is not that of JAX.
        SingularKernelError
            When a solve breaks down.
        """
        self.require_precision()
        parts = {part for name in self.measured for part in MEASUREMENTS[name]}
        experiment = self._begin(bool({"training", "generalisation"} & parts))
        names = self.settings.chosen_approximations
        evidence = {name: measure(experiment, name, parts) for name in names}
        return [row for e in evidence.values() for row in rows(e, evidence, self.measured)]

    def _begin(self, tested: bool) -> Experiment:
        """The last experiment if it began alike, else a new one that replaces it."""
        dataset = load_data(self.settings)
        self.require_data(dataset.digest)
        begun_with = self.start, dataset.digest, tested
        experiment = self.kept.get(begun_with)
        if experiment is None:
            self.kept.clear()  # before the next one takes the memory
            experiment = Experiment.begin(self.settings, dataset, trained=tested)
            self.kept[begun_with] = experiment
        return replace(experiment, settings=self.settings)


def known_size(settings: Settings) -> DataSize | None:
    """Sizes of the data, or None if the data are not on this machine."""
    try:
        return data_size(settings)
    except (DataError, OSError):
        return None

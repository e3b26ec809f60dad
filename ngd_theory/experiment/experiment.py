"""One network and data set: what all approximations share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from ngd_theory import data, networks, theory
from ngd_theory.arguments import check_range
from ngd_theory.errors import SingularKernelError
from ngd_theory.experiment.building import make_network, shaped
from ngd_theory.experiment.generalisation import Population
from ngd_theory.experiment.settings import Settings
from ngd_theory.experiment.spectra import kernel_spectrum
from ngd_theory.kernels import ntk

_kernel = jax.jit(lambda lin: ntk(lin) / lin.num_samples)
_init = jax.jit(networks.Network.init, static_argnums=0)


def kernel_of(lin: networks.Linearization) -> np.ndarray:
    """Theta / N."""
    return np.asarray(_kernel(lin))


@dataclass(frozen=True)
class Experiment:
    """One network and data set: what all approximations share.

    Attributes
    ----------
    settings : Settings
    dataset : ngd_theory.data.Dataset
    network : Network
    params : like ``network.init``
    lin, at : Linearization
        At the training and the test inputs; ``at`` is None without a test set, or if nothing is trained.
    kernel : (NC, NC) array
        Theta / N at initialisation.
    spectrum : (NC,) array
        Its eigenvalues, smallest first.
    """

    settings: Settings
    dataset: data.Dataset
    network: networks.Network
    params: tuple
    lin: networks.Linearization
    at: networks.Linearization | None
    kernel: np.ndarray
    spectrum: np.ndarray

    @classmethod
    def begin(
        cls,
        settings: Settings,
        dataset: data.Dataset,
        trained: bool = True,
        tell: Callable[[str], None] = lambda message: None,
    ) -> "Experiment":
        """Draw and linearise the network.

        Raises
        ------
        InputError
            If the data are beyond the range of the run's float type.
        SingularKernelError
            If the network is of no use at its start (see `kernel_spectrum`), or gives its targets already.
        """
        net = make_network(settings, dataset)
        tell(f"linearising {net.num_parameters:,} parameters at {dataset.num_train} samples")
        params = _init(net, jax.random.key(settings.seed))
        dtype = jnp.zeros(()).dtype
        for rows in ("inputs", "targets", "test_inputs", "test_targets"):
            check_range(rows, getattr(dataset, rows), dtype)

        def linearize(inputs):
            return networks.linearize(net, params, shaped(net, inputs, dtype))

        lin = linearize(dataset.inputs)
        at = linearize(dataset.test_inputs) if trained and dataset.num_test else None
        if settings.loss == "mse" and not np.any(np.asarray(lin.outputs) != dataset.targets):
            raise SingularKernelError(
                "the network gives its targets at its start already, so there is no residual to train away: change the "
                "seed or the targets"
            )
        kernel = kernel_of(lin)
        return cls(settings, dataset, net, params, lin, at, kernel, kernel_spectrum(kernel))

    @cached_property
    def x(self):
        """Training inputs in the shape that the network takes."""
        return shaped(self.network, self.dataset.inputs, self.dtype)

    @cached_property
    def x_test(self):
        """Test inputs in the same shape, or None."""
        return (
            None if self.at is None else shaped(self.network, self.dataset.test_inputs, self.dtype)
        )

    @cached_property
    def targets(self):
        """(N, C) array."""
        return jnp.asarray(self.dataset.targets, self.dtype)

    @cached_property
    def sizes(self) -> tuple[networks.LayerSize, ...]:
        """Sizes of the layers, with ranks that the theory knows beforehand or else with measured ones."""
        if self.constant_from == "sizes":
            return self.network.layer_sizes
        return theory.measured_sizes(self.lin)

    def constant(self, approximation, lin: networks.Linearization | None = None) -> float | None:
        """Alpha, from sizes or from measured ranks; that of a batch if its linearisation is given."""
        seen = self.lin if lin is None else lin
        if self.constant_from == "ranks":
            return theory.measured_constant(approximation, seen)
        return approximation.isotropy_constant(self.sizes, seen.num_samples)

    def layer_constants(self, approximation) -> tuple[float, ...] | None:
        """Each layer's share of alpha, from sizes or measured."""
        if self.constant_from == "ranks":
            return approximation.measured_constants(self.lin, self.sizes)
        return approximation.layer_constants(self.sizes, self.lin.num_samples)

    @cached_property
    def population(self) -> Population:
        """The pool of training and unlabelled inputs."""
        how = self.network, self.params, self.x, self.x_test
        return Population.of(*how, self.settings.damping * self.network.readout_scale**2)

    @property
    def constant_from(self) -> str:
        """See `Evidence.constant_from`."""
        return "sizes" if self.network.layer_sizes[0].unknown is None else "ranks"

    @property
    def dtype(self):
        """Float type of all numbers."""
        return self.lin.outputs.dtype

    @property
    def condition(self) -> float:
        """``lambda_max(Theta)/lambda_min(Theta)``, where lambda_min is at least round-off."""
        floor = len(self.spectrum) * np.finfo(self.spectrum.dtype).eps * self.spectrum[-1]
        return float(self.spectrum[-1] / max(self.spectrum[0], floor))

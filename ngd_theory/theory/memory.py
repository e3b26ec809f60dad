"""A model of the memory of a natural-gradient step, from shapes alone, to choose sizes before a run."""

from dataclasses import dataclass

from ngd_theory.arguments import checked
from ngd_theory.fisher import Approximation
from ngd_theory.networks import Network
from ngd_theory.networks.checks import require_size


@dataclass(frozen=True)
class StepMemory:
    """Bytes that a step holds at its peak, by what they are for.

    Attributes
    ----------
    parameters : int
        The parameters, their gradient and the new ones.
    linearisation : int
        Layer inputs (N, T, P) and sensitivities (N, C, T, M).
    solve : int
        Kernels, factors or whitened copies of the approximation: `Approximation.workspace`.
    """

    parameters: int
    linearisation: int
    solve: int

    @property
    def total(self) -> int:
        """The sum of all three."""
        return self.parameters + self.linearisation + self.solve


@checked
def step_memory(
    approximation: Approximation, net: Network, num_samples: int, itemsize: int = 4
) -> StepMemory:
    """Model the memory of one step: linearisation, natural gradient, new parameters.

    Parameters
    ----------
    approximation : Approximation
    net : Network
    num_samples : int
        N.
    itemsize : int
        Bytes per number: 4 for float32, 8 for float64.

    Raises
    ------
    InputError
        For an argument of the wrong type, or a number that is not a whole number of at least 1.

    Notes
    -----
    The model does not include what the compiler adds or saves. It is within a factor 2 of what XLA reports on a CPU.
    The program itself (Python, JAX, compiled code) takes some 0.4 GB more.
    """
    for name, value in (("num_samples", num_samples), ("itemsize", itemsize)):
        require_size(name, value)
    sizes, c = net.layer_sizes, net.output_dim
    linearisation = sum(num_samples * s.positions * (s.num_inputs + c * s.num_units) for s in sizes)
    return StepMemory(
        parameters=3 * itemsize * net.num_parameters,
        linearisation=itemsize * linearisation,
        solve=itemsize * approximation.workspace(sizes, num_samples, itemsize),
    )
